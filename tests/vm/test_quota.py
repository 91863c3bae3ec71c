"""Disks with quotas, of users and of projects: said in one line, nothing lost, nothing half made.

What the quotas let pass is seen in a guest, once (quota_in_guest.py); the tests look it up.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from tests.vm.guests import seen_by

pytestmark = pytest.mark.timeout(600)

#: The disks of quota_in_guest.py, and what they answer when the quota is used up.
EXCEEDED = {
    "ext4 by user": errno.EDQUOT,
    "ext4 by project": errno.EDQUOT,
    "xfs by project": errno.ENOSPC,  # as of a directory that is full
}


@pytest.fixture(scope="module", params=["uml", "debian-6.12"])
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param != "uml" and os.environ.get("FALLTHRU_VM") != "all":
        pytest.skip("needs: FALLTHRU_VM=all, because it takes a minute")
    return seen_by("quota_in_guest", request.param, 500)


@pytest.mark.parametrize("disk", EXCEEDED)
@pytest.mark.parametrize("driver", ["kernel", "engine"])
def test_copyup(seen: dict[str, Any], disk: str, driver: str) -> None:
    """The file of the bottom, or the whole copy; root is bound, too."""
    assert seen[disk][driver] == {
        "small": "done",
        "big": os.strerror(EXCEEDED[disk]),
        "whole": True,
        "on top": ["small"],
        "aside": [],
        "unbound": "done",
    }


@pytest.mark.parametrize("disk", EXCEEDED)
def test_commit(seen: dict[str, Any], disk: str) -> None:
    commit = seen[disk]["commit"]
    code, said = commit["first"]
    assert code == 5
    assert said.splitlines() == [
        f"fallthru: the commit could not be finished: {os.strerror(EXCEEDED[disk])}",
        "  → nothing is lost; run it again to go on",
    ]
    assert "big" in commit["on top"]
    assert "big" not in commit["on bottom"]
    assert "kept" in commit["on bottom"]
    assert (commit["again"], commit["whole"], commit["left"]) == ([0, ""], True, [])
