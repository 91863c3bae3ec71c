"""The document line by line: every line is held by a clause or declared to set no rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overlay.spec import catalogue, coverage

CLAUSES = catalogue.load()


def test_every_line_is_held_or_declared_not_normative_and_none_is_both() -> None:
    held = set().union(*(coverage.lines_of(clause.lines) for clause in CLAUSES))
    declared = [coverage.lines_of([lines]) for lines in coverage.load()]
    silent = set().union(*declared)
    assert held & silent == set()
    assert held | silent == set(range(1, 709))
    assert sum(map(len, declared)) == len(silent)


def test_every_declaration_says_why() -> None:
    assert all(why.strip() for why in coverage.load().values())


def test_stretches_are_the_whole_document_in_order() -> None:
    stretches = coverage.stretches(CLAUSES)
    assert [stretch.first for stretch in stretches[1:]] == [s.last + 1 for s in stretches[:-1]]
    assert (stretches[0].first, stretches[-1].last) == (1, 708)
    for stretch in stretches:
        assert bool(stretch.clauses) is not bool(stretch.why), stretch
        for name in stretch.clauses:
            (clause,) = (c for c in CLAUSES if c.id == name)
            assert set(range(stretch.first, stretch.last + 1)) <= coverage.lines_of(clause.lines)


def test_a_gap_and_an_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match=r"held by nothing: \[118\]"):
        coverage.stretches([c for c in CLAUSES if "118" not in c.lines])
    first, *others = CLAUSES
    with pytest.raises(ValueError, match=r"not normative: \[41\]"):
        coverage.stretches([replace(first, lines=("41", *first.lines)), *others])
