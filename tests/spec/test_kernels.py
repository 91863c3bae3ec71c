"""How a run on another kernel is shared out among guests, and what is made of their answers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from overlay.spec.catalogue import load, select
from overlay.spec.kernels import Request, results, shares
from overlay.spec.runner import Result


@pytest.mark.parametrize("most", [1, 2, 3, 500])
def test_every_clause_once_and_in_order_for_all_targets(most: int) -> None:
    request = Request(("lookup.*", "boot.root"), ("a", "b"), ("mount x",), shuffle=7)
    parts = shares(request, most)
    wanted = [clause.id for clause in select(load(), request.clauses)]
    dealt = [part.clauses for part in parts]
    assert len(parts) == min(most, len(wanted))
    assert sorted(id for ids in dealt for id in ids) == sorted(wanted)
    assert all(list(ids) == sorted(ids, key=wanted.index) for ids in dealt)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert {replace(part, clauses=()) for part in parts} == {replace(request, clauses=())}


def test_one_guest_has_all_that_takes_a_server() -> None:
    parts = shares(Request((), ("a",)), 3)
    holding = [part for part in parts if any(id.startswith("nfs.") for id in part.clauses)]
    assert len(holding) == 1
    assert {"nfs.bottom", "nfs.top"} <= set(holding[0].clauses)


def test_what_a_guest_had_said_before_it_died_counts_but_for_half_a_line() -> None:
    said = [Result(f"a.{n}", "engine", "6.1", "kept", "x", "x", ("1",)) for n in range(2)]
    printed = "".join(json.dumps(asdict(result)) + "\n" for result in said)
    assert results("debian-6.1", printed + printed[: len(printed) // 3]) == said
    assert results("debian-6.1", printed[:20]) == []
