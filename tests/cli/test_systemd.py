"""Overlays as systemd's mount units: from fstab by its generator, and mounted by a manager."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay import mountinfo, syscalls
from overlay.roots.cgroups import Group
from tests.conftest import Layers
from tests.processes import PATIENCE, orphans_reaped
from tests.running import in_child

GENERATOR = "/usr/lib/systemd/system-generators/systemd-fstab-generator"
MANAGER = "/usr/lib/systemd/systemd"


#: Enter control groups, and become a manager there.
ENTER = """
manager=$1; shift
for group; do echo $$ >"$group/cgroup.procs" || exit; done
exec "$manager" --user --unit=basic.target
"""


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs: {os.path.basename(program)}")


def unit_name(path: Path) -> str:
    done = subprocess.run(
        ["systemd-escape", "--path", "--suffix=mount", path],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def generated(fstab: Path, directory: Path) -> None:
    """What the generator makes of a line is made of it in ``directory``."""
    need(GENERATOR)
    directory.mkdir()
    subprocess.run(
        [GENERATOR, *[directory] * 3], env={**os.environ, "SYSTEMD_FSTAB": str(fstab)}, check=True
    )


@pytest.fixture
def units(layers: Layers, tmp_path: Path) -> Path:
    """Made of a line of fstab that stands on another unit."""
    fstab, directory = tmp_path / "fstab", tmp_path / "units"
    fstab.write_text(
        f"fallthru:document {layers.mnt} fallthru bottom={layers.bottom},top={layers.top},nosuid,"
        "x-systemd.requires=before.service,x-systemd.requires-mounts-for=/var/lib 0 0\n"
    )
    generated(fstab, directory)
    (directory / "before.service").write_text(
        "[Unit]\nDefaultDependencies=no\n"  # as for all that file systems need
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        f"ExecStart=/bin/sh -c 'echo made before > {layers.bottom}/file'\n"
    )
    # A manager is ready when it has come here.
    (directory / "basic.target").write_text("[Unit]\nDefaultDependencies=no\n")
    return directory


def test_a_line_of_fstab_becomes_a_unit(units: Path, layers: Layers) -> None:
    unit = ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(units / unit_name(layers.mnt))
    assert unit["Mount"]["Type"] == "fallthru"
    assert unit["Mount"]["What"] == "fallthru:document"
    assert f"bottom={layers.bottom},top={layers.top},nosuid" in unit["Mount"]["Options"]
    assert unit["Unit"]["Requires"] == unit["Unit"]["After"] == "before.service"
    assert unit["Unit"]["RequiresMountsFor"] == "/var/lib"


def test_a_unit_is_as_systemd_wants_it(units: Path, layers: Layers) -> None:
    need("systemd-analyze")
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(units / unit_name(layers.mnt))],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    about_it = [line for line in told.stderr.splitlines() if unit_name(layers.mnt) in line]
    assert (told.returncode, about_it) == (0, [])


@contextmanager
def own_groups() -> Iterator[list[Path]]:
    """Control groups for a manager alone, which makes more in them and moves all in them there.

    Yields those that make it the manager of them: of version 2, and systemd's of version 1.
    """
    mounts = [each for each in mountinfo.read() if each.fstype in ("cgroup", "cgroup2")]
    if not mounts:
        pytest.skip("needs: control groups")
    made: list[Path] = []
    try:
        for each in mounts:
            made.append(Path(each.mount_point, f"fallthru-test-{os.getpid()}"))
            try:
                made[-1].mkdir()
            except OSError as error:
                made.pop()
                pytest.skip(f"needs: control groups that can be made ({error.strerror})")
        yield [
            directory
            for each, directory in zip(mounts, made, strict=True)
            if each.fstype == "cgroup2" or ("name", "systemd") in each.super_options
        ]
    finally:
        for directory in made:
            for below, _, _ in os.walk(directory, topdown=False):
                Group(below).remove()


@pytest.mark.usefixtures("helper")
def test_a_manager_mounts_it_and_unmounts_it(units: Path, layers: Layers) -> None:
    """A user manager, in a mount namespace of its own; it has the mounting from the other kind."""
    need(MANAGER)
    need("systemctl")
    unit = unit_name(layers.mnt)

    def managed() -> object:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("run", "/run", "tmpfs", 0, None)
        os.makedirs("/run/systemd/system")  # "has been booted with systemd"
        os.makedirs("/run/user")
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ready.bind("/run/ready")
        ready.settimeout(PATIENCE)
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": "/run/ready",
            "XDG_RUNTIME_DIR": "/run/user",
            "SYSTEMD_UNIT_PATH": str(units),
        }
        manager = subprocess.Popen(
            ["sh", "-c", ENTER, "sh", MANAGER, *groups],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while b"READY=1" not in ready.recv(4096):
                pass
            seen = []
            for verb in ("start", "stop"):
                done = subprocess.run(
                    ["systemctl", "--user", verb, unit],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                content = Path(layers.mnt, "file")
                text = content.read_text().strip() if content.exists() else None
                seen.append((done.returncode, os.path.ismount(layers.mnt), text))
            return seen
        finally:
            manager.send_signal(signal.SIGKILL)
            manager.wait()

    with own_groups() as groups, orphans_reaped():
        told = in_child(managed)
    assert told == str([(0, True, "made before"), (0, False, None)])
