"""Running the command, and code in a child whose namespaces or privileges differ."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import PATIENCE

__all__ = ["REPOSITORY", "fallthru", "in_child", "in_user_namespace", "need_readable_checkout"]

REPOSITORY = Path(__file__).resolve().parent.parent


def need_readable_checkout() -> None:
    """Skip where an ordinary user cannot run this checkout, as below root's home."""
    ways = {*Path(sys.executable).parents, *REPOSITORY.parents, REPOSITORY}
    if not all(os.stat(way).st_mode & 0o001 for way in ways):
        pytest.skip("needs: a checkout that other users can read")


def fallthru(
    *arguments: str | bytes | Path, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The finished command, with text output; never raises for its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "overlay", *arguments],
        cwd=REPOSITORY,
        input=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        timeout=PATIENCE,
    )


def in_child(action: Callable[[], object]) -> str:
    """Run ``action`` in a forked child; its result as text, ``TypeName: message`` if it raised."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            text = str(action())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
            if isinstance(error, AssertionError):
                text = traceback.format_exc()
        os.write(write_end, text.encode(errors="surrogateescape"))
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        text = answer.read().decode(errors="surrogateescape")
    os.waitpid(child, 0)
    return text


def in_user_namespace(action: Callable[[], object]) -> str:
    """Run ``action`` as root of a fresh user and mount namespace, made by an ordinary user."""
    from overlay import syscalls

    def enter() -> object:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        # setuid made the process undumpable, and its /proc files root's.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text("0 65534 1")
        Path("/proc/self/gid_map").write_text("0 65534 1")
        return action()

    return in_child(enter)
