"""Planted faults fail at the clauses they break, and nothing is wrongly called kept."""

from __future__ import annotations

import pytest

from overlay.spec import runner
from overlay.spec.catalogue import load
from overlay.spec.targets import Target
from tests.spec import mutants
from tests.spec.test_runner import LACKING, QUICK

#: A top of each kind, with a whiteout and an opaque directory that have to last.
TOPS = {f"supported.top.{kind}" for kind in ("btrfs", "ext2", "ext4", "tmpfs", "xfs")}

#: What only looks, or is refused by any directory.
LOOKING = {
    "nocopyup.create-exclusive",
    "nocopyup.open.read-only",
    "nocopyup.open.read-only-flags",
    "nocopyup.readdir",
    "nocopyup.stat",
    "permission.before-copyup",
    "permission.create-refused",
    "readdir.inode-numbers-kept",
    "rename.refused-copies-nothing",
    "whiteout.rmdir-refused",
}

pytestmark = pytest.mark.usefixtures("root")


def judged(target: Target) -> dict[str, runner.Result]:
    return {result.id: result for result in runner.run(load(), [target])}


@pytest.fixture(scope="module")
def honest() -> dict[str, str]:
    """What the same overlay does without a fault."""
    results = judged(mutants.Honest())
    assert {r.status for r in results.values() if r.id not in LACKING} == {"kept", "departed"}
    return {name: result.status for name, result in results.items()}


@pytest.mark.parametrize(
    ("mutant", "broken"),
    [
        (mutants.DropsWhiteouts(), {"whiteout.stops-lookup", "whiteout.persists", *TOPS}),
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
                *TOPS,
            },
        ),
        (
            mutants.DropsFallthrus(),
            {
                "fallthru.without-reference",
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
NEVER_MOUNTED = {"mount.not-top-and-bottom", "mount.top-read-only", *LACKING}

#: Clauses that want the mount refused, and are content with a target that refuses them all.
REFUSALS = {
    "locking.exactly-two",
    "mount.over-writable-submount",
    "readonly.required",
}


@pytest.mark.parametrize(
    ("mutant", "traces", "spared", "otherwise"),
    [
        # A read-only bottom refuses the touch itself; two clauses leave no union to the end.
        (
            mutants.TouchesBottom(),
            ("the bottom: .: mtime_ns changed", "Read-only file system"),
            set(),
            {"locking.exactly-two", "readonly.released"},
        ),
        # Clauses that mount again are refused before they get to the end.
        (
            mutants.StaysMounted(),
            ("unmounting: it is still mounted", "Device or resource busy"),
            set(),
            {"dircopyup.same-listing", "opaque.persists", "whiteout.persists", "fallthru.unlink"},
        ),
        (mutants.MountsOnce(), ("the daemon is gone", "Input/output error"), REFUSALS, set()),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_fault_of_every_mount_fails_every_clause(
    mutant: Target, traces: tuple[str, ...], spared: set[str], otherwise: set[str]
) -> None:
    results = {result.id: result for result in runner.run(QUICK, [mutant])}
    failed = {name for name, result in results.items() if result.status == "failed"}
    assert failed == results.keys() - NEVER_MOUNTED - spared
    untold = {name for name in failed if not any(t in results[name].observed for t in traces)}
    assert untold <= otherwise


def test_the_bottom_itself_keeps_nothing_that_writes() -> None:
    results = judged(mutants.BottomItself())
    kept = {name for name, result in results.items() if result.status == "kept"}
    # Each of these only looks, or is refused; all of that holds on any directory.
    assert kept == {
        "link.directory-refused",
        "lookup.copies-nothing",
        "mount.covers-submounts",
        "readonly.released",
        "readonly.second-mount",
        *LOOKING,
    }
    assert "untouched" not in results["example.unlink.whiteout"].observed
    assert "the bottom: " in results["example.unlink.whiteout"].observed


def test_a_plain_copy_keeps_nothing_that_needs_the_top() -> None:
    results = judged(mutants.PlainCopy())
    kept = {name for name, result in results.items() if result.status == "kept"}
    # A copy is separate from the bottom and remembers; that is all these ask for.
    assert kept == {
        "descriptor.new-mapping-sees-change",
        "descriptor.survives-unlink",
        "link.directory-refused",
        "link.top-only",
        "lookup.copies-nothing",
        "lookup.missing",
        "mount.bottom-never-written",
        "mount.bottom-shared",
        "nonposix.directory-links",
        "nonposix.no-space-removal",
        "opaque.nothing-inherited",
        "opaque.persists",
        "permission.no-erofs",
        "readdir.inode-numbers",
        "readonly.released",
        "readonly.second-mount",
        *LOOKING,
    }
    assert results["example.edit.copyup"].observed.startswith("existingfile on the top: nothing")


def test_the_top_itself_keeps_only_what_the_top_decides() -> None:
    results = judged(mutants.TopItself())
    kept = {name for name, result in results.items() if result.status == "kept"}
    assert kept == {
        "lookup.directory-covers-file",
        "lookup.file-covers-directory",
        "lookup.top-covers",
        "mount.releases-layers",
    }
