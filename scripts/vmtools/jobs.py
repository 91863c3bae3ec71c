"""A command for a guest, and what comes back: a directory that both sides see.

``command``   a shell script: where to go, the environment, the command
``stdout``, ``stderr``, ``status``   written by the guest; no ``status``: it died
``console``   what the guest's kernel said
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import GuestDied

__all__ = [
    "CHECKOUT",
    "TIMED_OUT",
    "Start",
    "last_words",
    "machine",
    "out_of_time",
    "prepare",
    "run",
]

#: The checkout that this file belongs to.
CHECKOUT = Path(__file__).resolve().parent.parent.parent

#: The exit code for a guest that took too long, as timeout(1) has it.
TIMED_OUT = 124

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_KEEPER = 'read -r _; kill -s KILL -- "-$1"; rm -rf -- "$2"'

#: Given a job's directory, the words of the program that is the machine.
Start = Callable[[Path], Sequence[str | os.PathLike[str]]]


def run(start: Start, command: Sequence[str], *, timeout: float) -> int:
    """Run ``command`` in the guest that ``start`` starts; its output goes to ours.

    Returns its exit code, or TIMED_OUT after ``timeout`` seconds.  GuestDied when the
    guest ends without one.  Whatever happens, no process is left.
    """
    with tempfile.TemporaryDirectory(prefix="fallthru-vm-") as name:
        job = Path(name)
        prepare(job, command)
        with machine(start(job), job) as running, _follow(job) as copy:
            deadline = time.monotonic() + timeout
            while True:
                try:
                    running.wait(0.1)
                    break
                except subprocess.TimeoutExpired:
                    copy()
                if time.monotonic() > deadline:
                    print(f"vm: {out_of_time(job, timeout)}", file=sys.stderr)
                    return TIMED_OUT
            copy()
        return _status(job)


def prepare(job: Path, command: Sequence[str]) -> None:
    """Put the files of a job into its directory."""
    (job / "command").write_bytes(os.fsencode(_script(command)))
    for stream in ("stdout", "stderr"):
        (job / stream).touch()


def _script(command: Sequence[str]) -> str:
    checkout = shlex.quote(str(CHECKOUT))
    return (
        f"cd {checkout} || exit 125\n"
        "unset vm_tree vm_job vm_checkout vm_union_root\n"
        f"export PATH={checkout}/.venv/bin:{_PATH} HOME=/run/home TMPDIR=/tmp LC_ALL=C.UTF-8\n"
        "export PYTHONDONTWRITEBYTECODE=1 TERM=dumb\n"
        f"exec {shlex.join(command)}\n"
    )


@contextmanager
def machine(
    words: Sequence[str | os.PathLike[str]], job: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The running machine, in a session of its own that is killed at the end."""
    with (job / "console").open("wb") as console:
        started = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    # Ends the session, and the job's files, when this process dies without a word.  A death
    # signal would reach the first process only, and user-mode Linux has several.
    keeper = subprocess.Popen(
        ("sh", "-c", _KEEPER, "keeper", str(started.pid), job),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        keeper.kill()
        keeper.communicate()


@contextmanager
def _follow(job: Path) -> Iterator[Callable[[], None]]:
    """A function that copies what the guest has written since it was called last."""
    with (job / "stdout").open("rb") as out, (job / "stderr").open("rb") as err:

        def copy() -> None:
            _copy(out, sys.stdout.buffer)
            _copy(err, sys.stderr.buffer)

        yield copy


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    data = source.read()
    if data:
        target.write(data)
        target.flush()


def _status(job: Path) -> int:
    try:
        return int((job / "status").read_text())
    except (OSError, ValueError):
        raise GuestDied(last_words(job)) from None


def last_words(job: Path) -> str:
    """What to say of a guest that died: the end of its console."""
    return f"the guest died before its command ended; {_console(job)}"


def out_of_time(job: Path, seconds: float) -> str:
    """What to say of one that was ended."""
    return f"ended after {seconds:.0f} s; {_console(job)}"


def _console(job: Path) -> str:
    console = (job / "console").read_text("utf-8", "replace").strip().splitlines()
    last = "\n  ".join(console[-12:]) or "it said nothing"
    return f"its last words:\n  {last}"
