"""Check: everything planted is found, once, and repaired for good, on the real kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from overlay.checking.check import Suspect, check
from overlay.checking.repair import repair
from overlay.checking.rules import RULES, Finding
from tests.conftest import Layers, make_layers
from tests.overlay.plants import MANY, PLANTS, populate, visible


def suspect(layers: Layers) -> Suspect:
    return Suspect(str(layers.top), (str(layers.bottom),))


def user_data(layers: Layers) -> int:
    """How many of the user's files there are, in the top or kept in the work directory."""
    found: set[int] = set()
    for base in (layers.top, layers.work):
        for path in base.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.read_bytes() == b"user data":
                found.add(path.stat().st_ino)
    return len(found)


def copied(layers: Layers) -> Layers:
    """A copy with all marks, over the same bottom, for a look that must change nothing."""
    base = layers.base / "copy"
    base.mkdir()
    copy = make_layers(base)
    for source, target in ((layers.top, copy.top), (layers.work, copy.work)):
        target.rmdir()
        subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    return Layers(base, layers.bottom, copy.top, copy.work, copy.mnt)


def found(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    return [(each.code, each.layer, os.fsdecode(each.path)) for each in findings]


def test_every_repairable_code_is_planted() -> None:
    planted = {code for code, _ in PLANTS.values()}
    assert planted == set(RULES) - {"bottom-hostile", "unreadable"}


@pytest.mark.parametrize("name", list(PLANTS))
def test_damage_is_found_once_and_repaired_for_good(layers: Layers, name: str) -> None:
    code, plant = PLANTS[name]
    populate(layers)
    planted = plant(layers)
    before = None if planted.hurts_mount else visible(copied(layers))
    shutil.rmtree(layers.base / "copy", ignore_errors=True)
    kept = user_data(layers)
    suspected = suspect(layers)

    report = check(suspected, notes=planted.notes)
    assert found(report.findings) == [(code, planted.layer, planted.path)]
    if planted.notes:
        assert check(suspected).findings == ()

    outcome = repair(suspected, lambda _: True, notes=planted.notes)
    assert outcome.failed == ()
    assert found(outcome.left.findings) == []
    assert (code, planted.layer, planted.path) in found(outcome.repaired)
    assert check(suspected, notes=planted.notes).findings == ()
    assert user_data(layers) == kept

    after = visible(layers)
    if before is not None:
        expected = {**before, **planted.changes}
        for path, value in planted.changes.items():
            if value is None:
                del expected[path]
        assert after == expected
    assert after["mine"] == ("file", b"user data")
    assert "gone" not in after


@pytest.mark.parametrize("name", [n for n, (c, _) in PLANTS.items() if RULES[c].repair == "ask"])
def test_what_needs_a_decision_is_left_when_the_answer_is_no(layers: Layers, name: str) -> None:
    _, plant = PLANTS[name]
    populate(layers)
    planted = plant(layers)
    before = listing(layers)
    asked: list[Finding] = []

    def refuse(each: Finding) -> bool:
        asked.append(each)
        return False

    outcome = repair(suspect(layers), refuse, notes=planted.notes)
    assert len(asked) == 1
    assert outcome.repaired == ()
    assert outcome.left.findings == tuple(asked)
    assert listing(layers) == before


def listing(layers: Layers) -> dict[str, object]:
    """All entries of top and work directory, with their marks."""
    seen: dict[str, object] = {}
    for base in (layers.top, layers.work):
        for path in [base, *sorted(base.rglob("*"))]:
            marks = {
                each: os.getxattr(path, each, follow_symlinks=False)
                for each in os.listxattr(path, follow_symlinks=False)
            }
            info = path.lstat()
            seen[str(path)] = (info.st_mode, info.st_size, info.st_rdev, marks)
    return seen


def test_checking_changes_nothing(layers: Layers) -> None:
    populate(layers)
    for name in MANY:
        PLANTS[name][1](layers)
    before = listing(layers)
    assert len(check(suspect(layers), notes=True).findings) == len(MANY)
    assert listing(layers) == before


def test_a_mark_in_a_bottom_that_breaks_lookups_is_told(layers: Layers) -> None:
    populate(layers)
    middle = layers.base / "middle"
    (middle / "dir" / "sub").mkdir(parents=True)
    (layers.bottom / "dir" / "sub").mkdir()
    (layers.top / "dir" / "sub").mkdir()
    os.setxattr(middle / "dir" / "sub", "trusted.overlay.redirect", b"a//b")
    report = check(Suspect(str(layers.top), (str(middle), str(layers.bottom))))
    assert found(report.findings) == [("bottom-hostile", "top", "dir/sub")]
    outcome = repair(Suspect(str(layers.top), (str(middle), str(layers.bottom))), lambda _: True)
    assert outcome.repaired == ()


def test_the_documentation_has_every_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text()
    rows = {
        cells[1].strip().strip("`"): (cells[2].strip(), cells[3].strip())
        for cells in (line.split("|") for line in page.splitlines() if line.startswith("| `"))
    }
    assert rows == {code: (rule.severity, rule.repair) for code, rule in RULES.items()}
