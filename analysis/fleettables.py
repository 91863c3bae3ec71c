"""The tables of a fleet by chosen groups, whoever shows them: the terminal or a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from analysis import fleet, tables
from analysis.survey import Survey
from analysis.tables import Table

__all__ = ["Key", "changes", "groups"]

#: The columns by which spans are grouped.
Key = Sequence[str]

_WORDS: Final = {"op": "system call", "size": "file size", "ftype": "type", "mount": "mount point"}


def groups(survey: Survey, keys: Sequence[Key], top: int) -> Iterator[Table]:
    """What the groups by each of ``keys`` took, ``top`` rows of each."""
    for key in keys:
        yield tables.groups(survey.summarise(key), key, _title(key), _columns(key), top=top)


def changes(before: Survey, after: Survey, keys: Sequence[Key], top: int) -> Iterator[Table]:
    """For each of ``keys`` how the typical time of its groups changed, then what they took."""
    whole = fleet.ratios(before, after)
    for key in keys:
        slower = fleet.ratios(before, after, key).head(top)
        title = f"Typical time {_title(key).lower()}"
        yield tables.typical_times(whole, slower, title, _columns(key))
        found = fleet.compare(before, after, key)
        yield tables.changed(found, key, _title(key), _columns(key), top=top)


def _columns(key: Key) -> tuple[str, ...]:
    return tuple(_WORDS.get(name, name) for name in key)


def _title(key: Key) -> str:
    return f"By {' and '.join(_columns(key))}"
