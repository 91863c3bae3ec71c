"""scripts/vm: what a command in a guest sees, and what comes back from it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes import PATIENCE, descendants
from tests.running import REPOSITORY
from tests.vm.guests import VM, end_guest, in_fresh_guest, in_guest, need, serving

GUESTS = ("uml", "debian-6.12")


@pytest.mark.parametrize(
    ("run", "kernel"),
    [(in_fresh_guest, "uml"), (in_guest, "uml"), (in_guest, "debian-6.12")],
    ids=["fresh uml", "shared uml", "shared debian-6.12"],
)
def test_a_command_comes_back_whole(
    run: Callable[..., subprocess.CompletedProcess[str]], kernel: str
) -> None:
    """Words, bytes, both streams and the exit code arrive as they are."""
    script = r"""printf '%s|' "$@"; printf '\377\n'; echo trouble >&2; exit 37"""
    done = run(kernel, "sh", "-c", script, "sh", "two words", "quo'te", "")
    assert done.stdout == "two words|quo'te||\udcff\n"
    assert done.stderr == "trouble\n"
    assert done.returncode == 37


@pytest.mark.parametrize("kernel", GUESTS)
def test_the_guest_is_another_kernel_on_a_read_only_checkout(kernel: str) -> None:
    done = in_guest(kernel, "sh", "-c", "pwd; uname -r; touch pyproject.toml; touch /tmp/free")
    where, release = done.stdout.splitlines()
    assert where == str(REPOSITORY)
    assert release != os.uname().release
    assert "pyproject.toml" in done.stderr
    assert "/tmp/free" not in done.stderr


@pytest.mark.parametrize("kernel", GUESTS)
def test_commands_find_nothing_of_those_before(kernel: str) -> None:
    mess = "touch /tmp/left /run/fallthru/left; mount -t tmpfs left /mnt; sleep 1000 & echo $!"
    first = in_guest(kernel, "sh", "-c", f"{mess}; cat /proc/sys/kernel/random/boot_id")
    pid, boot = first.stdout.split()
    look = "ls /tmp /run/fallthru; grep left /proc/mounts; cat /proc/sys/kernel/random/boot_id"
    second = in_guest(kernel, "sh", "-c", f"{look}; test -e /proc/{pid}")
    assert "left" not in second.stdout
    assert second.stdout.splitlines()[-1] == boot  # nothing to boot for
    assert second.returncode == 1


CRASH = "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 1000"


@pytest.mark.parametrize("kernel", GUESTS)
def test_a_panic_ends_the_guest(kernel: str) -> None:
    """It must not wait for the time limit."""
    done = in_fresh_guest(kernel, "sh", "-c", CRASH)
    assert done.returncode == 5
    assert "the guest died" in done.stderr


def test_a_shared_guest_that_died_is_started_again() -> None:
    died = in_guest("uml", "sh", "-c", f"echo started; {CRASH}")
    assert (died.returncode, died.stdout) == (5, "started\n")
    assert "the guest died" in died.stderr
    late = in_guest("uml", "sh", "-c", "echo started; sleep 1000", seconds=10)
    assert late.returncode == 124
    assert in_guest("uml", "echo", "here").stdout == "here\n"


def test_shared_guests_end_when_told() -> None:
    assert in_guest("uml", "true").returncode == 0
    machines = _descendants(serving["uml"].pid)
    assert machines
    end_guest("uml")
    _orphans_end()
    assert not [pid for pid in machines if Path(f"/proc/{pid}").exists()]


def test_time_runs_out() -> None:
    done = in_fresh_guest("uml", "sleep", "1000", seconds=6)
    assert done.returncode == 124
    assert done.stderr.startswith("vm: ended after 6 s; its last words:\n")
    _orphans_end()  # it may not have come far on a slow machine


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_machine_outlives_its_command(number: int) -> None:
    need("uml")
    command = (VM, "run", "uml", "--", "sh", "-c", "echo started; sleep 1000")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n"
        assert len(_descendants(running.pid)) > 3  # its kernel, its processes
        running.send_signal(number)
        assert running.wait(PATIENCE) != 0
    assert _orphans_end()


def test_no_machine_outlives_the_judging_of_clauses() -> None:
    need("uml")
    endless = "sleep 1000 {bottom} {top} {mnt}"
    command = (
        "spec",
        "run",
        "--kernel",
        "uml",
        "--clause",
        "example.*",
        "--mount-command",
        endless,
    )
    with subprocess.Popen((sys.executable, "-m", "overlay", *command)) as running:
        while len(_descendants(running.pid)) < 6:  # scripts/vm, its keeper, a kernel, processes
            with suppress(subprocess.TimeoutExpired):
                assert running.wait(0.05) is None
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) != 0
    assert 128 + signal.SIGTERM in _orphans_end()  # scripts/vm was told, and did not just end


def _descendants(pid: int) -> list[int]:
    """All processes below ``pid``, without the guests that other tests use."""
    return descendants(pid, without={guest.pid for guest in serving.values()} - {pid})


def _orphans_end() -> list[int]:
    """Wait for all children of this process to end, and reap them; their exit codes.

    Orphans become children of this process (tests/conftest.py).
    """
    codes = []
    while children := _descendants(os.getpid()):
        pidfd = os.pidfd_open(children[0])
        ended, _, _ = select.select([pidfd], [], [], PATIENCE)
        os.close(pidfd)
        assert ended, f"process {children[0]} goes on"
        codes.append(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
    return codes


def test_what_is_not_built_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = subprocess.run(
        (VM, "run", "uml", "--", "true"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "scripts/vm setup uml" in done.stderr
    listing = subprocess.run((VM, "list"), capture_output=True, text=True, check=True).stdout
    assert listing.count("not built") == len(listing.splitlines()) == 4


def test_an_unknown_kernel_is_a_mistake_of_the_caller() -> None:
    done = subprocess.run(
        (VM, "run", "vms", "--", "true"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "debian-6.12" in done.stderr
