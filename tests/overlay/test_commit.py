"""Committing: the bottom is afterwards what a mount showed before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from overlay.committing.commit import commit
from tests.overlay.committing import groups, plain, shown, whole
from tests.overlay.test_changes import OPTIONS, Step, histories, run, stacked
from tests.rawoverlay import overlay

KINDS = {**OPTIONS, "index": {"index": "on"}}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("bottoms", [1, 2])
def test_the_bottom_becomes_what_the_mount_showed(tmpfs_dir: Path, kind: str, bottoms: int) -> None:
    examples = iter(range(10**6))

    def history(steps: list[list[Step]]) -> None:
        base = tmpfs_dir / str(next(examples))
        base.mkdir()
        one_history(base, steps, KINDS[kind])
        shutil.rmtree(base)

    histories(bottoms, history, 25)


def one_history(base: Path, steps: list[list[Step]], options: dict[str, str]) -> None:
    layers, stack = stacked(base, steps[:-1], options)
    with overlay(layers.mnt, stack, layers.top, layers.work, options):
        run(layers.mnt, steps[-1])
        expected, links = whole(layers.mnt), groups(layers.mnt)
    paths = [str(path) for path in stack]
    family = "user" if "userxattr" in options else "trusted"
    deep = len(stack) > 1 and "metacopy" in options
    if deep:
        copy = base / "copy"
        commit(str(layers.top), paths, str(copy), family=family)
        assert whole(copy) == expected
        assert not list(plain(copy))
        return
    result = commit(str(layers.top), paths, family=family)
    assert result.emptied
    assert not list(layers.top.iterdir())
    if len(stack) == 1:
        assert whole(layers.bottom) == expected
        assert groups(layers.bottom) >= links
        assert not list(plain(layers.bottom))
    else:
        assert shown(layers, stack, options) == expected
