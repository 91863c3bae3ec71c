"""Killed, or refused by the disk, at every step: the union is as before or as after."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from overlay.marks import Whiteout
from overlay.spec.fuzz.trees import Tree, engine_tree
from overlay.union import Union
from tests.overlay.faults import crash_before, faulty, never

START = 0  # every time counts as "now": a crash may leave a directory's time behind


@dataclass(frozen=True)
class Scenario:
    """One operation, on a union prepared by ``before``."""

    name: str
    run: Callable[[Union], object]
    before: Callable[[Union], object] = field(default=lambda union: None)
    whiteouts: Whiteout = Whiteout.DEVICE


def _append(union: Union) -> None:
    os.close(union.open("d/file", os.O_WRONLY | os.O_APPEND))


def _directory_and_whiteout(union: Union) -> None:
    union.unlink("d/file")
    union.mkdir("new")


def _empty_directory(union: Union) -> None:
    union.unlink("d/file")
    union.unlink("d/link")
    union.rmdir("d/e")


def _changed_directory(union: Union) -> None:
    union.unlink("d/file")
    os.close(union.creat("d/e/new"))
    os.close(union.creat("d/x"))


SCENARIOS = (
    Scenario("copyup", _append),
    Scenario("chmod", lambda union: union.chmod("d/file", 0o600)),
    Scenario("chown of a symlink", lambda union: union.chown("d/link", 5, 5, follow=False)),
    Scenario("truncate", lambda union: union.truncate("d/file", 3)),
    Scenario("create", lambda union: os.close(union.creat("d/e/new"))),
    Scenario("mkdir", lambda union: union.mkdir("d/e/new")),
    Scenario("mkdir on a whiteout", lambda union: union.mkdir("d/e"), lambda u: u.rmdir("d/e")),
    Scenario("unlink", lambda union: union.unlink("d/file")),
    Scenario("unlink of a copy", lambda union: union.unlink("d/file"), _append),
    Scenario(
        "unlink with attributes", lambda union: union.unlink("d/file"), whiteouts=Whiteout.XATTR
    ),
    Scenario("rmdir", lambda union: union.rmdir("d/e")),
    Scenario(
        "rmdir of a mended directory",
        lambda union: union.rmdir("d"),
        _empty_directory,
    ),
    Scenario("rename", lambda union: union.rename("d/file", "moved")),
    Scenario("rename over a file", lambda union: union.rename("d/file", "other")),
    Scenario(
        "rename over a whiteout", lambda u: u.rename("new", "d/file"), _directory_and_whiteout
    ),
    Scenario("link", lambda union: union.link("d/file", "linked")),
    Scenario("exchange", lambda union: union.rename("d/file", "other", 2)),
    Scenario("directory copyup", lambda union: union.readdir("d")),
    Scenario(
        "directory copyup of a changed directory",
        lambda union: union.readdir("d"),
        _changed_directory,
    ),
    Scenario(
        "directory copyup over attribute whiteouts",
        lambda union: union.readdir("d"),
        lambda union: union.unlink("d/file"),
        whiteouts=Whiteout.XATTR,
    ),
)
EACH = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


class Bench:
    """Fresh layers for every run, all with the same content."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.count = 0
        self.bottom = base / "bottom"
        (self.bottom / "d" / "e").mkdir(parents=True)
        (self.bottom / "d" / "file").write_bytes(b"content" * 1000)
        os.setxattr(self.bottom / "d" / "file", "user.x", b"value")
        (self.bottom / "d" / "link").symlink_to("file")
        (self.bottom / "other").write_bytes(b"other")

    def union(self, scenario: Scenario, *, fresh: bool) -> Union:
        if fresh:
            self.count += 1
            self.top.mkdir()
        return Union(self.top, [self.bottom], whiteouts=scenario.whiteouts, move_directories=True)

    def prepare(self, scenario: Scenario) -> Tree:
        """A fresh union as it is before the operation."""
        with self.union(scenario, fresh=True) as union:
            scenario.before(union)
        return self.tree()

    @property
    def top(self) -> Path:
        return self.base / f"top{self.count}"

    def tree(self) -> Tree:
        return engine_tree((str(self.bottom),), self.top, START)

    def leftovers(self) -> list[str]:
        return os.listdir(f"{self.top}.work/work")

    def expected(self, scenario: Scenario) -> tuple[Tree, Tree, int]:
        """The trees before and after, and how many changing calls lie between."""
        before = self.prepare(scenario)
        with self.union(scenario, fresh=False) as union, faulty(never) as steps:
            scenario.run(union)
            count = steps()
        return before, self.tree(), count


@pytest.fixture
def bench(tmpfs_dir: Path) -> Bench:
    return Bench(tmpfs_dir)


@EACH
def test_killed_at_every_step(bench: Bench, scenario: Scenario) -> None:
    before, after, steps = bench.expected(scenario)
    assert steps > 1
    for number in range(1, steps + 1):
        bench.prepare(scenario)
        with bench.union(scenario, fresh=False) as union:
            assert crash_before(number, partial(scenario.run, union))
        assert bench.tree() in (before, after), f"killed before step {number} of {steps}"
        with bench.union(scenario, fresh=False):
            assert bench.leftovers() == []
        assert bench.tree() in (before, after), "what is left behind was part of the union"


@EACH
def test_refused_at_every_step(bench: Bench, scenario: Scenario) -> None:
    # The two that the document names (L629); they take the same ways out.
    number = (errno.ENOSPC, errno.EIO)[SCENARIOS.index(scenario) % 2]
    before, after, steps = bench.expected(scenario)
    for failing in range(1, steps + 1):
        bench.prepare(scenario)

        def fault(each: int, failing: int = failing) -> None:
            if each == failing:
                raise OSError(number, os.strerror(number))

        with bench.union(scenario, fresh=False) as union, faulty(fault):
            error = _error_of(scenario.run, union)
            now = bench.tree()
        assert error in (None, number)
        assert now in (before, after), f"refused at step {failing} of {steps}"
        if error is None:
            assert now == after
        with bench.union(scenario, fresh=False):
            assert bench.leftovers() == []


def _error_of(run: Callable[[Union], Any], union: Union) -> int | None:
    try:
        run(union)
    except OSError as error:
        return error.errno
    return None
