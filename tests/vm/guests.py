"""The guests that tests run in: there when built, built when asked for, else skipped.

FALLTHRU_VM   (unset)   tests run in the guests that `scripts/vm list` calls ready
              1         in user-mode Linux and Debian's 6.12, and on 6.1 what is asked ahead
                        of every kernel, built when they are missing
              all       in all of them, built when they are missing
              0         no guest is started

A kernel is booted once for all tests: `in_guest` runs a command in the guest that is up,
where it has mounts of its own, empty /tmp, /var/tmp and /dev/shm, and finds no process of
a command before it.  Only tests about booting, dying and time limits take `in_fresh_guest`.
A boot under emulation takes 10 s and the compiling of probes 30 to 60 s, so let one command
answer as many questions as it can, and keep its output for several tests (`functools.cache`,
as `judged` does) rather than run it once for each.  What takes minutes all the same is asked
ahead: a test with the mark `ahead`, whose argument is called with the test's parameters when
all tests are collected, gives it to `ask_ahead`; and such tests come last.

What cannot be had in bounded time is skipped with the reason, and asked for once only:
builds that take longer than 10 minutes or lack the network, guests that do not come up in
two minutes; and, where FALLTHRU_VM_SECONDS says how long tests may wait for guests in all,
every test after that; and what has no answer at FALLTHRU_VM_UNTIL, in seconds since 1970.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from overlay.spec import kernels
from overlay.spec.runner import Result
from tests.fsimages import IMAGE_PREFIX, make_image
from tests.vm.serving import VM, Beside, Guest, Request

__all__ = [
    "VM",
    "ask_ahead",
    "begin",
    "booted",
    "clean",
    "disk",
    "end_guest",
    "end_guests",
    "in_fresh_guest",
    "in_guest",
    "judge_ahead",
    "judged",
    "listen",
    "need",
    "seen_by",
    "serving",
]

_BUILT_ON_DEMAND: Final = {"1": {"uml", "debian-6.12"}, "all": set(kernels.KERNELS)}
_BUILDING: Final = 600  # seconds, on two cores it takes two minutes
_BOOTING: Final = 120  # seconds, on two cores it takes 3 to 15
_JUDGING: Final = 600  # seconds, on two cores it takes 50 to 80
_LACKS: Final = 3  # scripts/vm: something is missing, and the message says what
_TIMED_OUT: Final = 124
_LATE: Final = "more time than FALLTHRU_VM_UNTIL gives"
#: The kernels, in this order, of guests that are at work while this machine's own is tested.
_BESIDE: Final = ("debian-6.12", "debian-6.1")

#: Seconds that tests have waited for guests, a number for each time.
_taken: list[float] = []
#: The guests that are up and that all tests share, by their kernels.
serving: dict[str, Guest] = {}
#: What was asked ahead, by kernel and command.
_ahead: dict[tuple[str, tuple[str, ...]], Request] = {}
_beside: Final = Beside()


def need(kernel: str) -> None:
    """Skip unless the guest ``kernel`` is there, or may be built."""
    limit = float(os.environ.get("FALLTHRU_VM_SECONDS", "inf"))
    lacking = _LATE if time.time() > _until() else _lacking(kernel)
    if not lacking and sum(_taken) > limit:
        lacking = f"more time for guests than FALLTHRU_VM_SECONDS ({limit:.0f})"
    if lacking:
        pytest.skip(f"needs: {lacking}")


def _until() -> float:
    return float(os.environ.get("FALLTHRU_VM_UNTIL", "inf"))


@contextmanager
def _timed() -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        _taken.append(time.monotonic() - begun)


@functools.cache
def _lacking(kernel: str, *, every: bool = False) -> str:
    wish = os.environ.get("FALLTHRU_VM", "")
    if wish == "0":
        return "guests (FALLTHRU_VM is 0)"
    if wish in _BUILT_ON_DEMAND:
        if not every and kernel not in _BUILT_ON_DEMAND[wish]:
            return f"FALLTHRU_VM=all for the kernel {kernel}, because it takes minutes"
        with _timed():
            return _cannot_build(kernel)
    return "" if kernel in _ready() else f"the kernel {kernel} (scripts/vm setup {kernel})"


def _cannot_build(kernel: str) -> str:
    # In a session of its own, so that what it started ends with it.
    with subprocess.Popen(
        (VM, "setup", kernel), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as setup:
        try:
            _, said = setup.communicate(timeout=_BUILDING)
        except subprocess.TimeoutExpired:
            os.killpg(setup.pid, signal.SIGKILL)
            _reap(setup.pid)
            return f"the kernel {kernel}, which could not be built in {_BUILDING} s"
    if setup.returncode == _LACKS:
        return f"the kernel {kernel}, which cannot be built here: {said.strip()}"
    assert setup.returncode == 0, said
    return ""


def _reap(group: int) -> None:
    """Wait for the orphans of a killed process group, which are ours (tests/conftest.py)."""
    try:
        while True:
            os.waitpid(-group, 0)
    except ChildProcessError:
        pass


@functools.cache
def _ready() -> frozenset[str]:
    listing = subprocess.run((VM, "list"), capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in listing.splitlines()]
    return frozenset(row[0] for row in rows if row[1].strip() == "ready")


def in_guest(kernel: str, *command: str, seconds: int = 300) -> subprocess.CompletedProcess[str]:
    """The finished command, run in the guest that all tests share; as `in_fresh_guest`."""
    ahead = _ahead.get((kernel, command))
    if ahead is not None:
        return _answer(_beside, ahead)
    need(kernel)
    if not _comes_up(kernel):
        pytest.skip(f"needs: a machine on which {kernel} boots in {_BOOTING} s")
    return _ask(kernel, command, seconds)


def ask_ahead(kernel: str, *command: str, seconds: int = 300, every: bool = False) -> None:
    """Have a guest beside the tests `begin` with what a test will have of `in_guest`.

    ``every``: of all kernels that such guests have, also where FALLTHRU_VM is 1.
    """
    if (kernel, command) in _ahead or kernel not in _BESIDE or _lacking(kernel, every=every):
        return
    _ahead[kernel, command] = request = Request(command, seconds)
    _beside.ask(kernel, request)


def begin() -> None:
    """Begin with what was asked ahead, one guest at once: the tests go on meanwhile."""
    _beside.begin(_BESIDE)


def listen() -> None:
    """Take what guests that were asked ahead have answered: their pipes are small."""
    _beside.listen()


def seen_by(module: str, kernel: str, seconds: int) -> dict[str, Any]:
    """What a module of tests/vm saw, run in the shared guest: the JSON object that it prints."""
    command = f"PYTHONPATH=. exec python3 -m tests.vm.{module}"
    done = in_guest(kernel, "sh", "-c", command, seconds=seconds)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@functools.cache
def _comes_up(kernel: str) -> bool:
    return _ask(kernel, ("true",), _BOOTING).returncode != _TIMED_OUT


def _ask(kernel: str, command: tuple[str, ...], seconds: int) -> subprocess.CompletedProcess[str]:
    if kernel not in serving:
        serving[kernel] = Guest(kernel)
    request = Request(command, seconds)
    try:
        serving[kernel].ask(request)
        return _answer(serving[kernel], request)
    except BaseException:
        # As by pytest's own limit: the next command need not wait for what took too long.
        end_guest(kernel)
        raise


def _answer(guest: Guest | Beside, request: Request) -> subprocess.CompletedProcess[str]:
    with _timed():
        in_time = guest.wait(request, _until())
    if not in_time:
        pytest.skip(f"needs: {_LATE}")
    assert request.done is not None
    return request.done


def end_guest(kernel: str) -> None:
    """Shut down the guest that tests share; the next command boots another."""
    serving.pop(kernel).end()
    _comes_up.cache_clear()


def end_guests() -> None:
    """Shut down what is up: nothing may be left when the tests end."""
    while serving:
        serving.popitem()[1].end()
    _beside.end()
    _ahead.clear()
    _comes_up.cache_clear()


def in_fresh_guest(
    kernel: str, *command: str, seconds: int = 300, engines: bool = False
) -> subprocess.CompletedProcess[str]:
    """The finished command, run in a guest of its own; its exit code is scripts/vm's.

    With ``engines`` there is a disk of container engines, built when it is missing.
    """
    need(kernel)
    options = ["--timeout", str(seconds), *(["--engines"] if engines else [])]
    with _timed():
        done = subprocess.run(
            (VM, "run", *options, kernel, "--", *command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=seconds + (_BUILDING if engines else 60),
        )
    if engines and done.returncode == _LACKS:
        pytest.skip(f"needs: packages of container engines: {done.stderr.strip()}")
    return done


def booted(
    kernel: str,
    word: str,
    *command: str,
    bottoms: tuple[str, ...],
    disks: tuple[Path, ...] = (),
    maker: str = "initramfs-tools",
    seconds: int = 800,
) -> subprocess.CompletedProcess[str]:
    """The finished command, run in a Debian that booted on the overlay that ``word`` asks for.

    Its disks are ``bottoms`` (images of it, by their kind) and then ``disks``.  For
    FALLTHRU_VM=all only: to build it takes minutes, and so does each boot.
    """
    if os.environ.get("FALLTHRU_VM") != "all":
        pytest.skip("needs: FALLTHRU_VM=all to boot whole systems, because it takes minutes")
    need(kernel)
    images = [f"--bottom={kind}" for kind in bottoms] + [f"--disk={disk}" for disk in disks]
    options = ["--timeout", str(seconds), "--maker", maker, *images]
    with _timed():
        return subprocess.run(
            (VM, "boot", *options, kernel, word, "--", *command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=_BUILDING + seconds,
        )


@contextmanager
def disk(label: str) -> Iterator[Path]:
    """A disk for what is to be kept: an empty ext4 with that label."""
    with tempfile.TemporaryDirectory(prefix=IMAGE_PREFIX) as scratch:
        image = Path(scratch, label)
        make_image("ext4", image, 256, ("-L", label))
        yield image


def clean(image: Path) -> bool:
    """Whether the ext4 in ``image`` was unmounted or read-only at the end: no journal to replay."""
    header = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, check=True)
    return "needs_recovery" not in header.stdout


@functools.cache
def judged(kernel: str, targets: tuple[str, ...]) -> tuple[Result, ...]:
    """All clauses on ``targets`` in the guest: one run for all tests that ask."""
    done = in_guest(kernel, *_judging(targets), seconds=_JUDGING)
    if done.returncode == _TIMED_OUT:  # no single clause may take so long (overlay/spec/runner.py)
        pytest.skip(f"needs: a machine on which {kernel} judges all clauses in {_JUDGING} s")
    assert done.returncode == 0, done.stderr
    return tuple(kernels.results(kernel, done.stdout))


def judge_ahead(kernel: str, targets: tuple[str, ...]) -> None:
    """`ask_ahead` for what `judged` will ask."""
    ask_ahead(kernel, *_judging(targets), seconds=_JUDGING)


def _judging(targets: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(kernels.command(kernels.Request((), targets)))
