"""How read-only a bottom is: judged on real file systems, and checked by trying to write."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from overlay import errors, guard, syscalls
from overlay.guard import Hold
from tests.fsimages import loop_filesystem, tmpfs


def remount_read_write(mount_point: Path) -> bool:
    """Whether the kernel lets root make the file system writable again."""
    done = subprocess.run(
        ["mount", "-o", "remount,rw", str(mount_point)], capture_output=True, check=False
    )
    return done.returncode == 0


def test_a_writable_file_system_is_not_held(tmpfs_dir: Path) -> None:
    state = guard.assess(str(tmpfs_dir))
    assert (state.hold, state.fstype) == (Hold.NONE, "tmpfs")
    assert not state.really_read_only


def test_a_read_only_mount_can_be_undone(tmp_path: Path, root: None) -> None:
    """L259–L261: read-only now is pointless to check, so it is not called a guarantee."""
    with tmpfs(tmp_path, options={}):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        state = guard.assess(str(tmp_path))
        assert state.hold is Hold.MOUNT
        assert not state.really_read_only
        assert remount_read_write(tmp_path)


def test_a_read_only_bind_of_a_writable_file_system(tmpfs_dir: Path) -> None:
    bound = tmpfs_dir / "bound"
    bound.mkdir()
    tree = syscalls.open_tree(syscalls.AT_FDCWD, tmpfs_dir, syscalls.OPEN_TREE_CLONE)
    try:
        syscalls.mount_setattr(
            tree, "", syscalls.AT_EMPTY_PATH, attr_set=syscalls.MOUNT_ATTR_RDONLY
        )
        syscalls.move_mount(tree, "", syscalls.AT_FDCWD, bound, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)
    try:
        state = guard.assess(str(bound))
        assert state.hold is Hold.MOUNT
        assert "the tmpfs below is not" in state.reason
    finally:
        syscalls.umount2(bound)


def test_a_read_only_device_holds(root: None) -> None:
    """L263–L264: read-only for as long as it is a bottom; here the kernel itself refuses."""
    with loop_filesystem("ext4", read_only=True) as mount_point:
        state = guard.assess(str(mount_point))
        assert state.hold is Hold.DEVICE
        assert state.really_read_only
        assert not remount_read_write(mount_point)


def test_blkroset_makes_a_device_hold(root: None) -> None:
    with loop_filesystem("ext4") as mount_point:
        device = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", str(mount_point)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        subprocess.run(["mount", "-o", "remount,ro", str(mount_point)], check=True)
        assert guard.assess(str(mount_point)).hold is Hold.MOUNT
        fd = os.open(device, os.O_RDONLY)
        try:
            syscalls.blkroset(fd, True)
            assert syscalls.blkroget(fd)
            assert guard.assess(str(mount_point)).hold is Hold.DEVICE
            assert not remount_read_write(mount_point)
        finally:
            syscalls.blkroset(fd, False)
            os.close(fd)


def test_requiring_a_hold_says_why_there_is_none(tmpfs_dir: Path) -> None:
    with pytest.raises(errors.Refused, match="tmpfs is mounted read-write"):
        guard.require_read_only(str(tmpfs_dir))
