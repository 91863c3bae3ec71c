"""Random damage: what check passes the kernel can read, and after a repair it can too."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path

import pytest

from overlay import kernel
from overlay.checking.check import Suspect, check
from overlay.checking.repair import repair
from overlay.kernel import Overlay
from tests.conftest import Layers
from tests.overlay.plants import Seen, look, stub, whiteout, xattr

NAMES = ["a", "b", "c", "d"]
REDIRECTS = [b"/a", b"/b", b"/a/b", b"/c/d", b"/d/a/b", b"a", b"c", b"d", b"/a/../b", b"a//b", b""]
REDIRECTS += [b"/none", b"none", b"/", b"//a", b"."]


def random_tree(base: Path, chance: random.Random, depth: int, marks: str = "") -> None:
    """``marks``: none, ``odd`` (that the kernel passes over) or ``broken``."""
    for name in NAMES:
        path = base / name
        match chance.randrange(9):
            case 0 | 1 | 2 | 3 if depth:
                path.mkdir()
                if marks:
                    mark_directory(path, chance, marks)
                random_tree(path, chance, depth - 1, marks)
            case 4 | 5:
                path.write_text("user data")
                if marks and chance.random() < 0.2:
                    xattr(path, chance.choice(["opaque", "redirect", "whiteout", "origin"]), b"")
            case 6 if marks == "broken":
                size = chance.choice([9, 9, 9, 4])
                to = chance.choice([None, *REDIRECTS])
                stub(path, size, to, chance.choice([b"", b"", b"", b"\0\4\0\0", b"\7"]))
            case 7 if marks:
                whiteout(path)
            case 8:
                path.symlink_to("a")


def mark_directory(path: Path, chance: random.Random, marks: str) -> None:
    match chance.randrange(6):
        case 0:
            xattr(path, "opaque", chance.choice([b"y", b"y", b"x", b"no"]))
        case 1 | 2 if marks == "broken":
            xattr(path, "redirect", chance.choice(REDIRECTS))
        case 3:
            xattr(path, chance.choice(["metacopy", "whiteout"]), b"")


def mount_and_look(layers: Layers, bottoms: tuple[str, ...]) -> Seen:
    overlay = Overlay(bottoms, str(layers.top), profile="fallthru")
    with kernel.mounted(overlay, str(layers.mnt)):
        return look(layers.mnt)


def errors(seen: Seen) -> dict[str, object]:
    return {
        path: os.strerror(value[1])
        for path, value in seen.items()
        if value[0] == "error" and isinstance(value[1], int)
    }


def readable(seen: Seen) -> Seen:
    return {path: value for path, value in seen.items() if value[0] != "error"}


def data(layers: Layers) -> int:
    """How many files with the user's data there are, hidden ones and kept ones included."""
    paths = [path for base in (layers.top, layers.work) for path in base.rglob("*")]
    files = [path for path in paths if stat.S_ISREG(path.lstat().st_mode)]
    return sum(path.read_bytes() == b"user data" for path in files)


def explained(path: str, error: object, found: dict[str, str], codes: set[str]) -> bool:
    """Whether the check says why the kernel fails to read ``path``.

    Of two redirects to one thing the kernel fails whichever is looked up last.
    """
    twice = bool(codes & {"redirect-duplicate", "redirect-loop"})
    return path in found or (error == os.strerror(errno.ESTALE) and twice)


@pytest.mark.parametrize("seed", range(60))
def test_what_the_kernel_cannot_read_is_found_and_repaired(layers: Layers, seed: int) -> None:
    chance = random.Random(seed)
    middle = layers.base / "middle"
    middle.mkdir()
    random_tree(layers.bottom, chance, 3)
    random_tree(middle, chance, 3)
    random_tree(layers.top, chance, 3, "broken")
    lowest = str(layers.bottom)
    bottoms = (str(middle), lowest) if seed % 2 else (lowest,)
    suspect = Suspect(str(layers.top), bottoms)
    found = {os.fsdecode(each.path): each.code for each in check(suspect).findings}
    kept = data(layers)

    broken = errors(mount_and_look(layers, bottoms))
    codes = set(found.values())
    assert [item for item in broken.items() if not explained(*item, found, codes)] == []

    outcome = repair(suspect, lambda _: True)
    assert outcome.failed == ()
    assert outcome.left.findings == ()
    assert data(layers) == kept
    assert errors(mount_and_look(layers, bottoms)) == {}
    assert check(suspect).findings == ()


@pytest.mark.parametrize("seed", range(40))
def test_safe_repairs_change_nothing_that_can_be_read(layers: Layers, seed: int) -> None:
    chance = random.Random(seed)
    random_tree(layers.bottom, chance, 3)
    random_tree(layers.top, chance, 3, "odd")
    suspect = Suspect(str(layers.top), (str(layers.bottom),))
    before = mount_and_look(layers, suspect.bottoms)
    outcome = repair(suspect, lambda _: False)
    assert {each.code for each in outcome.left.findings} <= {"mark-value"}
    after = mount_and_look(layers, suspect.bottoms)
    # Names that readdir shows and nobody can open are what is repaired.
    assert readable(after) == readable(before)
    assert set(errors(after)) <= set(errors(before))
