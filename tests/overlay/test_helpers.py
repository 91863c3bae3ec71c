"""Processes that share out work: all of it is done once, and none of them is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from overlay.errors import OperationFailed, Refused
from overlay.helpers import work_off
from tests.processes import children


def _run(do: Callable[[int], bytes], batches: list[int]) -> list[bytes]:
    before = children()
    found: list[bytes] = []
    try:
        work_off(
            lambda: do,
            3,
            lambda: batches.pop() if batches else None,
            lambda _, answer: found.append(answer),
        )
    finally:
        assert children() == before
    return found


def test_what_is_found_on_the_way_is_done_too() -> None:
    """Every number stands for two that are half as large: as a tree of directories."""
    pending, done = [64], list[int]()
    pids: set[int] = set()

    def account(batch: int, answer: tuple[int, list[int]]) -> None:
        done.append(batch)
        pids.add(answer[0])
        pending.extend(answer[1])

    work_off(
        lambda: lambda number: (os.getpid(), [number // 2] * 2 if number > 1 else []),
        3,
        lambda: pending.pop() if pending else None,
        account,
    )
    assert sorted(done) == sorted(n for n in (64, 32, 16, 8, 4, 2, 1) for _ in range(64 // n))
    assert os.getpid() not in pids
    assert len(pids) <= 3


def test_more_than_a_pipe_holds_goes_both_ways() -> None:
    large = 300_000
    found = _run(lambda number: bytes(large + number), [1, 2, 3, 4])
    assert sorted(map(len, found)) == [large + number for number in (1, 2, 3, 4)]


def test_an_error_is_raised_as_it_was() -> None:
    def fail(number: int) -> bytes:
        raise Refused("no more", hint="wait") if number == 7 else OSError(28, "full", "name")

    with pytest.raises(Refused, match="no more") as refused:
        _run(fail, [7])
    assert refused.value.hint == "wait"
    with pytest.raises(OSError, match="full") as full:
        _run(fail, [1])
    assert (full.value.errno, full.value.filename) == (28, "name")


def test_a_killed_one_is_told_and_the_others_end() -> None:
    def die(number: int) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL if number == 1 else signal.SIGSTOP)
        return b""

    with pytest.raises(OperationFailed, match="was killed"):
        _run(die, [1, 2, 2])
