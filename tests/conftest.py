"""What every test can rely on: a private mount namespace, fresh layers, and no leaks.

The whole session runs in a mount namespace of its own, so that a failing test
cannot leave a mount on the machine, and in a process that adopts orphans, so that
a daemon left behind is seen.  At the end everything must be as it was.
"""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from overlay import syscalls
from tests.fsimages import IMAGE_PREFIX, loops, tmpfs
from tests.processes import orphans_reaped

NAMESPACES = ("mnt", "user", "pid", "net", "uts", "ipc", "cgroup")

# The same examples on every machine, however slow; --hypothesis-profile=default draws new ones.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    # A run in the background of a script ignores these, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    if os.geteuid() == 0:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
        # What fallthru remembers until the next boot is this run's own, too.
        Path("/run/fallthru").mkdir(exist_ok=True)
        syscalls.mount("run", "/run/fallthru", "tmpfs", 0, None)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)


def pytest_collection_finish() -> None:
    """Leave alone what all modules have made: in each forked child, looking for garbage among it
    would copy the pages that it is on."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Resources:
    """What a test run could leave behind."""

    mounts: frozenset[str]
    loops: frozenset[str]
    namespaces: tuple[str, ...]


def _loops() -> frozenset[str]:
    """Loop devices over images that tests made; others on the machine are not ours to judge."""
    return frozenset(f"{name}: {image}" for name, image in loops().items() if IMAGE_PREFIX in image)


def resources() -> Resources:
    return Resources(
        mounts=frozenset(Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()),
        loops=_loops(),
        namespaces=tuple(os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES),
    )


@pytest.fixture(scope="session", autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail the run when mounts, loop devices, namespaces or processes are left behind."""
    before = resources()
    with orphans_reaped():
        yield
    after = resources()
    left = {
        "mounts": after.mounts - before.mounts,
        "loop devices": after.loops - before.loops,
    }
    leaks = [f"{what}: {', '.join(sorted(which))}" for what, which in left.items() if which]
    if after.namespaces != before.namespaces:
        leaks.append(f"namespaces: {before.namespaces} became {after.namespaces}")
    # Whoever removes a mount point outside takes its mount away in here, too.
    lost = [line for line in before.mounts - after.mounts if Path(line.split()[4]).exists()]
    if lost:
        leaks.append(f"mounts of the machine removed: {', '.join(sorted(lost))}")
    assert not leaks, "the tests left behind " + "; ".join(leaks)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skips by reason: what this machine could not show."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    if reasons:
        terminalreporter.section("skipped, by what is missing")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:5} {reason}")


@pytest.fixture
def root() -> None:
    """For tests that mount: skip without privilege."""
    if os.geteuid() != 0:
        pytest.skip("needs: root")


@pytest.fixture
def tmpfs_dir(root: None, tmp_path: Path) -> Iterator[Path]:
    """A fresh directory on a tmpfs of its own."""
    mount_point = tmp_path / "tmpfs"
    mount_point.mkdir()
    with tmpfs(mount_point):
        yield mount_point


@dataclass(frozen=True)
class Layers:
    """Empty directories on one tmpfs, named by what they are for."""

    base: Path
    bottom: Path
    top: Path
    work: Path
    mnt: Path


@pytest.fixture
def layers(tmpfs_dir: Path) -> Layers:
    return make_layers(tmpfs_dir)


def make_layers(base: Path) -> Layers:
    """Fresh empty layer directories below ``base``."""
    made = Layers(base, *(base / name for name in ("bottom", "top", "top.work", "mnt")))
    for directory in (made.bottom, made.top, made.work, made.mnt):
        directory.mkdir()
    return made
