"""Reading the command line of ``try`` without click: the same answers, or none."""

from __future__ import annotations

import itertools
from typing import Any

import click
import pytest

from overlay.cli import plainwords, trying
from overlay.cli.wishes import Asked, Wishes

_WORDS = (
    *("--commit", "--discard", "--yes", "--json", "--keep", "--only", "--except", "--share"),
    *("--disk", "--size", "--keep=x", "--dis", "-h", "--", "-", "", "4K", "true"),
)


def _by_click(arguments: tuple[str, ...]) -> Asked | None:
    """What click reads; None where it shows help or finds a mistake."""
    try:
        read: dict[str, Any] = trying.try_.make_context("try", list(arguments)).params
    except (click.ClickException, click.exceptions.Exit):
        return None
    place = {name: read.pop(name) for name in ("words", "disk", "size", "shared")}
    return Asked(wishes=Wishes(**read), **place)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_what_is_read_is_what_click_reads(length: int) -> None:
    read = 0
    for arguments in itertools.product(_WORDS, repeat=length):
        found = plainwords.trial(arguments)
        if found is not None:
            read += 1
            assert found == _by_click(arguments), arguments
    assert read > length, "some are plain"
