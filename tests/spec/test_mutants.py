"""Planted faults fail at the clauses they break, and nothing is wrongly called kept."""

from __future__ import annotations

import pytest

from overlay.spec import runner
from overlay.spec.catalogue import load
from overlay.spec.targets import Target
from tests.spec import mutants

pytestmark = pytest.mark.usefixtures("root")


def judged(target: Target) -> dict[str, runner.Result]:
    return {result.id: result for result in runner.run(load(), [target])}


@pytest.fixture(scope="module")
def honest() -> dict[str, str]:
    """What the same overlay does without a fault."""
    results = judged(mutants.Honest())
    assert {result.status for result in results.values()} == {"kept", "departed"}
    return {name: result.status for name, result in results.items()}


@pytest.mark.parametrize(
    ("mutant", "broken"),
    [
        (mutants.DropsWhiteouts(), {"whiteout.stops-lookup", "whiteout.persists"}),
        (
            mutants.DropsOpaque(),
            {
                "opaque.hides-bottom",
                "opaque.persists",
                "fallthru.overrides-opaque",
                "fallthru.directory",
                "fallthru.copyup",
                "fallthru.unlink",
                "userland.fallthrus-unseen",
            },
        ),
        (
            mutants.DropsFallthrus(),
            {
                "fallthru.overrides-opaque",
                "fallthru.copyup",
                "fallthru.unlink",
                "userland.fallthrus-unseen",
            },
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_fault_fails_exactly_the_clauses_it_breaks(
    mutant: Target, broken: set[str], honest: dict[str, str]
) -> None:
    results = judged(mutant)
    changed = {name for name in results if results[name].status != honest[name]}
    assert changed == broken
    assert {results[name].status for name in broken} == {"failed"}


#: Clauses during which no union is mounted at all: nothing to be at fault there.
NEVER_MOUNTED = {"mount.not-top-and-bottom"}


@pytest.mark.parametrize(
    ("mutant", "trace", "otherwise"),
    [
        # A read-only bottom refuses the touch itself.
        (
            mutants.TouchesBottom(),
            "the bottom: .: mtime_ns changed",
            {"permission.no-erofs"},
        ),
        # Clauses that mount again are refused before they get to the end.
        (
            mutants.StaysMounted(),
            "unmounting: it is still mounted",
            {"dircopyup.same-listing", "opaque.persists", "whiteout.persists", "fallthru.unlink"},
        ),
        # Clauses about what is accepted tell the refusal in their own words.
        (
            mutants.MountsOnce(),
            "the daemon is gone",
            {
                "fallthru.overrides-opaque",
                "fallthru.directory",
                "fallthru.copyup",
                "fallthru.unlink",
                "userland.fallthrus-unseen",
            },
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_fault_of_every_mount_fails_every_clause(
    mutant: Target, trace: str, otherwise: set[str]
) -> None:
    results = judged(mutant)
    failed = {name for name, result in results.items() if result.status == "failed"}
    assert failed == results.keys() - NEVER_MOUNTED
    assert {name for name in failed if trace not in results[name].observed} <= otherwise


def test_the_bottom_itself_keeps_nothing_that_writes() -> None:
    results = judged(mutants.BottomItself())
    kept = {name for name, result in results.items() if result.status == "kept"}
    # Each of these only looks, or is refused; all of that holds on any directory.
    assert kept == {
        "mount.covers-submounts",
        "nocopyup.open.read-only",
        "nocopyup.open.read-only-flags",
        "nocopyup.readdir",
        "nocopyup.stat",
        "permission.before-copyup",
        "whiteout.rmdir-refused",
    }
    assert "untouched" not in results["example.unlink.whiteout"].observed
    assert "the bottom: " in results["example.unlink.whiteout"].observed


def test_a_plain_copy_keeps_nothing_that_needs_the_top() -> None:
    results = judged(mutants.PlainCopy())
    kept = {name for name, result in results.items() if result.status == "kept"}
    # A copy is separate from the bottom and remembers; that is all these ask for.
    assert kept == {
        "mount.bottom-never-written",
        "mount.bottom-shared",
        "nocopyup.open.read-only",
        "nocopyup.open.read-only-flags",
        "nocopyup.readdir",
        "nocopyup.stat",
        "opaque.persists",
        "permission.before-copyup",
        "permission.no-erofs",
        "readdir.inode-numbers",
        "whiteout.rmdir-refused",
    }
    assert results["example.edit.copyup"].observed.startswith("existingfile on the top: nothing")


def test_the_top_itself_keeps_only_what_the_top_decides() -> None:
    results = judged(mutants.TopItself())
    kept = {name for name, result in results.items() if result.status == "kept"}
    assert kept == {
        "lookup.directory-covers-file",
        "lookup.file-covers-directory",
        "lookup.top-covers",
    }
