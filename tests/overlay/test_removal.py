"""Removing trees: all of them goes, whatever their shape, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.removal import remove_all
from tests.processes import children
from tests.running import in_child


def _remove(stage: Path, *names: str) -> None:
    fd = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove_all(fd, map(os.fsencode, names))
    finally:
        os.close(fd)


def test_large_deep_and_linked_trees_go_and_nothing_beside_them(tmp_path: Path) -> None:
    """So large that several processes remove it; what a symlink leads to stays."""
    (tmp_path / "stage" / "kept").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    for number in range(61):
        for name in range(59):
            path = tmp_path / "stage" / "wide" / f"d{number}" / f"e{name % 7}"
            path.mkdir(parents=True, exist_ok=True)
            (path / f"f{name}").touch()
            (path / f"l{name}").symlink_to(tmp_path / "outside")
    deep = tmp_path / "stage" / "deep"
    deep.mkdir()
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(501):
        # Deeper than a path may be long.
        os.mkdir("d" * 50, dir_fd=fd)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = children()
    _remove(tmp_path / "stage", "wide", "deep")
    assert children() == before
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["kept"]
    assert (tmp_path / "outside" / "file").exists()


@pytest.mark.usefixtures("root")
def test_an_ordinary_user_removes_empty_directories_that_he_may_not_write(tmp_path: Path) -> None:
    """He cannot move them: their ``..`` would change."""
    closed = tmp_path / "tree" / "closed"
    closed.mkdir(parents=True, mode=0o555)
    for path in (tmp_path, tmp_path / "tree", closed):
        os.chown(path, 65534, 65534)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

    def remove() -> str:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        remove_all(fd, [b"tree"])
        return "removed"

    assert in_child(remove) == "removed"
    os.close(fd)
    assert list(tmp_path.iterdir()) == []
