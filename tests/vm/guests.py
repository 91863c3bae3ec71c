"""The guests that tests run in: there when built, built when asked for, else skipped.

FALLTHRU_VM   (unset)   tests run in the guests that `scripts/vm list` calls ready
              1         user-mode Linux and Debian's 6.12 are built when they are missing
              all       so are all others
              0         no guest is started
"""

from __future__ import annotations

import functools
import os
import subprocess
from typing import Final

import pytest

from overlay.spec import kernels
from overlay.spec.runner import Result
from tests.running import REPOSITORY

__all__ = ["VM", "in_guest", "judged", "need"]

VM: Final = REPOSITORY / "scripts" / "vm"
_BUILT_ON_DEMAND: Final = {"1": {"uml", "debian-6.12"}, "all": set(kernels.KERNELS)}


def need(kernel: str) -> None:
    """Skip unless the guest ``kernel`` is there, or may be built."""
    wish = os.environ.get("FALLTHRU_VM", "")
    if wish == "0":
        pytest.skip("needs: guests (FALLTHRU_VM is 0)")
    if kernel in _BUILT_ON_DEMAND.get(wish, set()):
        subprocess.run((VM, "setup", kernel), check=True, timeout=900)
    elif kernel not in _ready():
        pytest.skip(f"needs: the kernel {kernel} (scripts/vm setup {kernel})")


@functools.cache
def _ready() -> frozenset[str]:
    listing = subprocess.run((VM, "list"), capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in listing.splitlines()]
    return frozenset(row[0] for row in rows if row[1].strip() == "ready")


def in_guest(kernel: str, *command: str, seconds: int = 300) -> subprocess.CompletedProcess[str]:
    """The finished command, run in the guest; its exit code is scripts/vm's."""
    need(kernel)
    return subprocess.run(
        (VM, "run", "--timeout", str(seconds), kernel, "--", *command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        timeout=seconds + 60,
    )


@functools.cache
def judged(kernel: str, targets: tuple[str, ...]) -> tuple[Result, ...]:
    """All clauses on ``targets`` in the guest: one run for all tests that ask."""
    need(kernel)
    return tuple(kernels.run(kernel, kernels.Request((), targets)))
