"""The BPF LSM program around the kernel that may not have it: what is said, what is left.

That it refuses, and is released, is shown in guests (tests/vm/test_readonly.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay import doctor, errors, guard, kernel, lsm, runstate, syscalls
from overlay.bpf.pinned import PinnedMap, pin
from overlay.guard import Hold
from tests.conftest import Layers
from tests.fsimages import tmpfs
from tests.overlay.surveys import survey
from tests.running import fallthru, in_user_namespace

BPF_FS = Path(lsm.PLACE).parent


@pytest.fixture
def bpf_fs(root: None) -> Iterator[Path]:
    """A BPF file system that nobody else sees, in the usual place."""
    syscalls.mount("bpf", BPF_FS, "bpf", 0, None)
    yield BPF_FS
    syscalls.umount2(BPF_FS)


@pytest.fixture
def read_only(layers: Layers) -> Iterator[str]:
    """A tmpfs that is mounted read-only, no more."""
    with tmpfs(layers.bottom):
        (layers.bottom / "file").write_text("below")
        syscalls.mount(None, layers.bottom, None, 32 | 1, None)  # MS_REMOUNT | MS_RDONLY
        yield str(layers.bottom)


def test_asked_for_it_holds_or_says_why_not(bpf_fs: Path, read_only: str, layers: Layers) -> None:
    overlay = kernel.Overlay((read_only,), str(layers.top), hold_lsm=True)
    lacking: errors.EnvironmentLacks | None = None
    try:
        kernel.mount(overlay, str(layers.mnt))
    except errors.EnvironmentLacks as error:
        lacking = error
    if lacking is not None:
        assert "BPF" in lacking.message
        assert lacking.hint
        assert not os.path.ismount(layers.mnt)
    else:
        (bottom,) = survey(layers)[0].bottoms
        assert bottom.state is not None
        assert bottom.state.hold is Hold.LSM
        kernel.unmount(str(layers.mnt))
    assert not lsm.installed()
    assert not [path.name for path in bpf_fs.iterdir() if path.name.startswith("fallthru")]


def test_required_it_is_what_decides(bpf_fs: Path, read_only: str, layers: Layers) -> None:
    overlay = kernel.Overlay((read_only,), str(layers.top), require_read_only=True)
    try:
        with kernel.mounted(overlay, str(layers.mnt)):
            assert guard.assess(read_only).really_read_only
    except errors.Refused as error:
        hint = error.hint or ""
    else:
        hint = "no BPF LSM: was needed"
    assert "no BPF LSM: " in hint


def test_not_asked_for_it_is_not_loaded(bpf_fs: Path, read_only: str, layers: Layers) -> None:
    with kernel.mounted(kernel.Overlay((read_only,), str(layers.top)), str(layers.mnt)):
        assert guard.assess(read_only).hold is Hold.MOUNT
        assert not lsm.installed()


def test_held_and_not_held_is_a_mistake(read_only: str, layers: Layers) -> None:
    overlay = kernel.Overlay((read_only,), str(layers.top), hold=False, hold_lsm=True)
    with pytest.raises(errors.UsageError, match="held and not be held"):
        kernel.open_overlay(overlay)


def test_others_than_root_can_hold_nothing(read_only: str, layers: Layers) -> None:
    for above in layers.base.parents:
        above.chmod(above.stat().st_mode | 0o001)
    for directory in (layers.base, layers.top, layers.work):
        os.chown(directory, 65534, 65534)
    overlay = kernel.Overlay((read_only,), str(layers.top), hold_lsm=True)
    with tmpfs(Path(runstate.DIRECTORY), options={"mode": "755"}):
        told = in_user_namespace(lambda: kernel.open_overlay(overlay))
    assert told == "NoPrivilege: only root of the machine can hold a bottom"


def test_without_a_bpf_mount_it_is_named(read_only: str, layers: Layers) -> None:
    if syscalls.statfs_type(BPF_FS) & 0xFFFFFFFF == 0xCAFE4A11:
        pytest.skip("needs: no BPF file system on the machine")
    done = fallthru(
        *("mount", "--hold-lsm", "--bottom", read_only, "--top", layers.top, layers.mnt)
    )
    assert done.returncode == 3
    assert "no BPF file system at /sys/fs/bpf" in done.stderr
    assert not os.path.ismount(layers.mnt)


def test_doctor_tries_it(root: None) -> None:
    *_, check = doctor.checks()
    assert check.name == "holding bottoms by BPF LSM"
    assert not check.required
    assert check.ok or check.remedy


@pytest.mark.parametrize("kind", ["directory", "open to all", "symlink"])
def test_what_others_may_have_put_there_is_not_believed(
    bpf_fs: Path, tmp_path: Path, kind: str
) -> None:
    """Anybody may make entries on a bpf mount of its default mode."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "kept").write_text("user data")
    place = Path(lsm.PLACE)
    if kind == "symlink":
        place.symlink_to(precious)
    else:
        place.mkdir()
        place.chmod(0o777 if kind == "open to all" else 0o700)
        os.chown(place, 0 if kind == "open to all" else 65534, 0)
    assert not lsm.installed()
    assert lsm.kept() == set()
    lsm.remove()
    assert os.listdir(precious) == ["kept"]
    assert os.path.lexists(place)
    with pytest.raises(lsm.NoLsm, match="does not belong to root alone"):
        lsm.install()


def test_a_pinned_map_outlives_its_maker(bpf_fs: Path) -> None:
    fd = syscalls.bpf(0, "IIIIIII16s", 1, 4, 8, 2, 0, 0, 0, b"test")  # BPF_MAP_CREATE, a hash
    path = str(bpf_fs / "test")
    pin(fd, path)
    os.close(fd)
    with PinnedMap(path, key_size=4, value_size=8) as pinned:
        assert list(pinned.keys()) == []
        pinned.setdefault(b"key1", b"value--1")
        pinned.setdefault(b"key1", b"value--2")
        pinned.setdefault(b"key2", b"value--2")
    with PinnedMap(path, key_size=4, value_size=8) as pinned:
        found = {key: pinned[key] for key in list(pinned.keys())}
        assert found == {b"key1": b"value--1", b"key2": b"value--2"}
        with pytest.raises(OSError, match="Argument list too long"):
            pinned.setdefault(b"key3", b"value--3")
        del pinned[b"key1"]
        assert list(pinned.keys()) == [b"key2"]
        with pytest.raises(KeyError):
            pinned[b"key1"]
        with pytest.raises(FileNotFoundError):
            del pinned[b"key1"]
