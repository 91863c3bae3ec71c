"""How a run on another kernel is shared out among guests."""

from __future__ import annotations

import pytest

from overlay.spec.kernels import Request, shares


@pytest.mark.parametrize("most", [1, 2, 3, 64])
def test_every_target_once_and_in_order(most: int) -> None:
    request = Request(("lookup.*",), ("a", "b", "c"), ("mount x", "mount y"), shuffle=7)
    parts = shares(request, most)
    assert 1 <= len(parts) <= most
    assert [one for part in parts for one in part.targets] == ["a", "b", "c"]
    assert [one for part in parts for one in part.commands] == ["mount x", "mount y"]
    sizes = [len(part.targets) + len(part.commands) for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert {(part.clauses, part.shuffle) for part in parts} == {(("lookup.*",), 7)}
