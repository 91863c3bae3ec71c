"""System call wrappers that no other test holds to account by using them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay import syscalls
from tests.fsimages import loops


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    return path


def test_a_loop_device_goes_with_its_last_descriptor(root: None, image: Path) -> None:
    fd = os.open(image, os.O_RDWR)
    device, name = syscalls.loop_attach(fd, read_only=False)
    os.close(fd)
    assert loops()[Path(name).name] == str(image)
    os.pwrite(device, b"written", 0)
    os.close(device)
    assert str(image) not in loops().values()
    assert image.read_bytes().startswith(b"written")


def test_a_device_left_read_only_can_be_written_by_the_next(root: None, image: Path) -> None:
    fd = os.open(image, os.O_RDWR)
    try:
        first, name = syscalls.loop_attach(fd, read_only=False)
        syscalls.blkroset(first, True)
        os.close(first)
        second, again = syscalls.loop_attach(fd, read_only=False)
        if again != name:
            os.close(second)
            pytest.skip("needs: the same loop device twice in a row")
        assert not syscalls.blkroget(second)
        os.close(second)
    finally:
        os.close(fd)


def test_an_option_that_is_refused_says_why_in_the_kernels_words(root: None) -> None:
    fs = syscalls.fsopen("tmpfs")
    try:
        with pytest.raises(OSError, match="Unknown parameter 'bogus'") as caught:
            syscalls.fsconfig_string(fs, "bogus", "1")
        assert caught.value.filename == "bogus"
    finally:
        os.close(fs)


def test_nothing_leads_out_of_a_tree_opened_beneath(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/out").symlink_to("/etc")
    (tmp_path / "inside/file").write_text("data")
    root = os.open(tmp_path / "inside", os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(syscalls.open_beneath(root, "file", os.O_RDONLY))
        for name in ("out/passwd", "../inside/file", "/etc/passwd", "out"):
            with pytest.raises(OSError, match=r"symbolic links|cross-device"):
                syscalls.open_beneath(root, name, os.O_RDONLY)
    finally:
        os.close(root)
