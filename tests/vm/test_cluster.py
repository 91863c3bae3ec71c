"""A cluster with one root over NFS, and an overlay of its own on each node (L36–L40)."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.vm.guests import seen_by

pytestmark = pytest.mark.timeout(700)


@functools.cache
def cluster() -> dict[str, Any]:
    return seen_by("cluster_job", "uml", 500)


def test_nodes_share_a_root_and_see_only_their_own_changes() -> None:
    answer = cluster()
    assert answer["untouched"]
    assert len(answer["nodes"]) == 3
    for number, node in enumerate(answer["nodes"]):
        assert "failed" not in node, node["failed"]
        assert (node["before"], node["bottom"]) == ("master\n", "master\n")
        assert node["after"] == f"node{number}\n"
        assert node["names"] == ["etc", f"own{number}"]
        assert node["etc"] == ["name"]


def test_the_guard_says_what_nfs_cannot_promise() -> None:
    """Read-only here is not read-only everywhere: L580."""
    for node in cluster()["nodes"]:
        (bottom,) = node["status"]["bottoms"]
        assert (bottom["fstype"], bottom["hold"]) == ("nfs4", "mount")
        assert not bottom["really_read_only"]
        for text in (bottom["reason"], node["required"]):
            assert "its server, or another client, can change it" in text
