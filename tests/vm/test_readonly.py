"""Bottoms without a device that is heeded, kept read-only by the BPF LSM program.

The development kernel permits no such program, so all is done in a guest, once
(held_in_guest.py); the tests look up what it saw.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.vm.guests import seen_by

#: On two idle cores a run takes a minute and a half, most of it to compile the program.
KERNELS = ("debian-6.12", "debian-6.1", "debian-7")
pytestmark = pytest.mark.timeout(900)

DONE, REFUSED = 0, 32  # exit codes of mount(8)


@pytest.fixture(scope="module", params=KERNELS)
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param != KERNELS[0] and os.environ.get("FALLTHRU_VM") != "all":
        pytest.skip("needs: FALLTHRU_VM=all, because it takes minutes")
    return seen_by("held_in_guest", request.param, 800)


def test_what_is_mounted_read_only_gets_really_so(seen: dict[str, Any]) -> None:
    bottom = seen["status"]
    assert (bottom["fstype"], bottom["hold"], bottom["users"]) == ("tmpfs", "lsm", 1)
    assert bottom["really_read_only"]
    assert bottom["held_by_fallthru"]


def test_remounting_is_refused_by_either_interface(seen: dict[str, Any]) -> None:
    assert seen["remount rw"] == REFUSED
    assert seen["new api rw"] == "Operation not permitted"
    assert seen["after refusals"]["reason"].endswith("so far 2 times")
    assert seen["after refusals"]["tainted"] == []


def test_nothing_else_is_refused(seen: dict[str, Any]) -> None:
    assert (seen["remount ro"], seen["new api ro"]) == (DONE, "done")
    assert (seen["unrelated"], seen["unrelated write"]) == (DONE, "done")
    # A mount made read-write does not make the file system below it so.
    assert (seen["remount bind"], seen["write bound"]) == (DONE, "Read-only file system")
    assert seen["union"] == "below above"


def test_the_last_user_releases_it(seen: dict[str, Any]) -> None:
    assert (seen["with one left"], seen["with none left"]) == (REFUSED, DONE)


def test_the_next_command_drops_what_is_stale(seen: dict[str, Any]) -> None:
    assert (seen["stale"], seen["stale, after a look"]) == (REFUSED, DONE)
    assert seen["killed"] == -9
    assert (seen["killed, stale"], seen["killed, after a look"]) == (REFUSED, DONE)


def test_a_file_system_that_went_is_on_no_list(seen: dict[str, Any]) -> None:
    assert (seen["listed"], seen["listed, after the end"]) == (2, 1)


def test_btrfs_is_not_made_writable_by_another_mount(seen: dict[str, Any]) -> None:
    assert seen["btrfs"]["hold"] == "lsm"
    assert seen["btrfs, remount rw"] == seen["btrfs, again rw"] == REFUSED
    assert seen["btrfs, new api rw"] == "Operation not permitted"
    assert seen["btrfs, write"] == "Read-only file system"
    assert seen["btrfs, again ro"] == DONE
    assert (seen["btrfs, again rw, after"], seen["btrfs, write, after"]) == (DONE, "done")


def test_jffs2_does_not_heed_its_device(seen: dict[str, Any]) -> None:
    assert seen["jffs2, remount rw"] == DONE
    assert (seen["jffs2"]["fstype"], seen["jffs2"]["hold"]) == ("jffs2", "lsm")
    assert seen["jffs2, remount rw, held"] == REFUSED


def test_taking_it_out_taints(seen: dict[str, Any]) -> None:
    assert seen["undone"]["hold"] == "mount"
    assert "it was held by its lsm" in seen["undone"]["tainted"][0]["what"]
    assert seen["undone, remount rw"] == DONE
    assert seen["left"] == []
