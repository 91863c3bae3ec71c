"""The Parquet parts of traces: finding them, and reading one so that damage costs only itself."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from overlay.errors import EnvironmentLacks, OperationFailed, UsageError
from overlay.text import printable
from tracer import latencies
from tracer.partfile import footer_intact
from tracer.places import PlaceFailed, is_url, place_of
from tracer.schema import METADATA_KEY, SCHEMA, SCHEMA_VERSION, RunMetadata

__all__ = [
    "NewerTrace",
    "NotATrace",
    "PartError",
    "StrPath",
    "UnreadableTrace",
    "discover",
    "read_part",
    "rows_of",
    "siblings",
    "whole_run",
]

StrPath = str | os.PathLike[str]

_SUFFIX = ".parquet"
#: One of the pieces that will make a part: ``part-00003.0001.parquet``.
_PIECE = re.compile(r"(part-\d+)\.\d+\.parquet")


class NotATrace(UsageError):
    """What was named is not a trace: no such place, no parts, or someone else's Parquet."""


class NewerTrace(EnvironmentLacks):
    """A newer fallthru wrote the trace, and its columns may mean something else now."""


class UnreadableTrace(OperationFailed):
    """It is (or was) a trace, and no part of it can be read."""


class PartError(Exception):
    """One part cannot be used; the others may."""


# Finding the parts.


def discover(paths: StrPath | Iterable[StrPath]) -> dict[str, list[str]]:
    """The parts that ``paths`` stand for, by the (absolute) directory or URL that holds them.

    Raises :class:`NotATrace` where there are none, and for URLs what :mod:`tracer.places` raises.
    """
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not named:
        raise NotATrace("no trace was named", hint="name a directory that trace record wrote")
    directories: dict[str, list[str]] = {}
    for path in named:
        name = os.fspath(path)
        for part in map(place_of(name).whole, _parts(name)):
            parts = directories.setdefault(os.path.dirname(part), [])
            if part not in parts:
                parts.append(part)
    return directories


def _parts(path: str) -> list[str]:
    """The Parquet files that ``path`` stands for, in order."""
    place = place_of(path)
    if place.is_directory(path):
        return _parts_below(path)
    if place.exists(path):
        return [path]
    matches = place.matches(path)
    if not matches:
        raise NotATrace(
            f"no such trace: {printable(path)}",
            hint="name a directory that `fallthru trace record -o DIR` wrote",
        )
    return [part for match in matches for part in _parts(match)]


def siblings(directory: str) -> list[str]:
    """The parts directly in ``directory``, in order.  Hidden files are still being written."""
    return [
        os.path.join(directory, name) for name in _current(place_of(directory).names(directory))
    ]


def _current(names: Iterable[str]) -> list[str]:
    """Those of a directory's files that count, in order.

    A recorder that was killed between making a part of its pieces and removing them
    leaves both: the pieces count only while there is no such part.
    """
    parts = {name for name in names if name.endswith(_SUFFIX) and not name.startswith(".")}
    return sorted(
        name
        for name in parts
        if not (piece := _PIECE.fullmatch(name)) or piece[1] + _SUFFIX not in parts
    )


def _parts_below(directory: str) -> list[str]:
    own = siblings(directory)
    if own:
        return own
    deeper = sorted(
        os.path.join(where, name)
        for where, names in place_of(directory).below(directory)
        for name in _current(names)
    )
    if not deeper:
        raise NotATrace(
            f"not a trace: {printable(directory)} holds no Parquet part",
            hint="name a directory that `fallthru trace record -o DIR` wrote",
        )
    return deeper


# Reading one.


def rows_of(path: str) -> int:
    """How many rows a part says it has; none where that cannot be told."""
    try:
        with place_of(path).open(path) as opened:
            return int(pq.read_metadata(opened).num_rows)
    except (PlaceFailed, pa.ArrowException, OSError, ValueError):
        return 0  # reading it says why


def read_part(path: str, names: list[str] | None) -> tuple[RunMetadata, pa.Table | None]:
    """The metadata of one part, and its columns ``names`` (no table when None).

    Raises :class:`NotATrace`, :class:`NewerTrace`, :class:`UnreadableTrace` (no
    permission), and :class:`PartError` for damage.
    """
    try:
        with place_of(path).open(path) as opened:
            if not footer_intact(opened):
                raise PartError("damaged: its footer is not what was written")
            # Arrow opens a file by its name itself: reading is then free of the interpreter's lock.
            source = opened if is_url(path) else path
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                metadata = _metadata(file.schema_arrow, path)
                if names is None:
                    return metadata, None
                present = [name for name in names if name in file.schema_arrow.names]
                table = file.read(columns=present)
        table = _conform(table, names)
        # Text that is not UTF-8 or a code outside its dictionary would otherwise
        # surface far from here, as a crash in whatever touches the column first.
        table.validate(full=True)
    except PlaceFailed as error:
        raise PartError(error.message) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise UnreadableTrace(
                f"{printable(path)} cannot be read", hint="run as its owner", errno=error.errno or 0
            ) from error
        raise PartError(f"damaged: {_first_line(error)}") from error
    return metadata, table


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def _metadata(schema: pa.Schema, path: str) -> RunMetadata:
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise NotATrace("a Parquet file, but not one of fallthru's")
    values = json.loads(raw)  # ValueError: the part is damaged
    version = values.get("version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise PartError("damaged: its metadata has no schema version")
    if version > SCHEMA_VERSION:
        raise NewerTrace(
            f"{printable(path)} has schema version {version};"
            f" this fallthru reads up to {SCHEMA_VERSION}",
            hint=f"use fallthru {printable(str(values.get('tool_version') or 'of that version'))}"
            " or newer",
        )
    known = {one.name: one for one in dataclasses.fields(RunMetadata)}
    try:
        metadata = RunMetadata(**{key: val for key, val in values.items() if key in known})
    except TypeError as error:
        raise PartError(f"damaged: metadata incomplete: {error}") from error
    _check_metadata(metadata)
    return metadata


def _check_metadata(metadata: RunMetadata) -> None:
    """Its JSON came from a file: what the page relies on must have the right shape."""
    shapes = (
        (metadata.kernel, str),
        (metadata.hostname, str),
        (metadata.started_ns, int),
        (metadata.command, list),
        (metadata.mounts, dict),
        (metadata.spans, int),
        (metadata.lost, int),
        (metadata.unmatched, int),
        (metadata.removed, int),
        (metadata.runs, list),
        (metadata.latencies, list),
        (metadata.unseen, list),
    )
    sound = all(isinstance(value, shape) for value, shape in shapes)
    sound = sound and all(map(latencies.sound, metadata.latencies))
    sound = sound and (metadata.ended_ns is None or isinstance(metadata.ended_ns, int))
    if not sound or not all(isinstance(one, dict) for one in metadata.mounts.values()):
        raise PartError("damaged: a metadata value has the wrong type")


def whole_run(parts: Sequence[RunMetadata]) -> RunMetadata:
    """What the parts of one run say together: the last writing wins, counters only grow."""
    last = max(parts, key=lambda one: (one.ended_ns or 0, one.spans))
    return dataclasses.replace(
        last,
        spans=max(one.spans for one in parts),
        lost=max(one.lost for one in parts),
        unmatched=max(one.unmatched for one in parts),
        removed=max(one.removed for one in parts),
    )


def _conform(table: pa.Table, names: list[str]) -> pa.Table:
    """``table`` with exactly the columns ``names``, in the schema's types.

    A nullable column that the part lacks is filled with nulls: an older
    fallthru did not write it yet.
    """
    columns = []
    for name in names:
        want = SCHEMA.field(name)
        if name in table.column_names:
            column = table.column(name)
            if pa.types.is_dictionary(want.type) and not pa.types.is_dictionary(column.type):
                column = column.dictionary_encode()
            if column.null_count and not want.nullable:
                raise PartError(f"damaged: nulls in column {name}")
            columns.append(column.cast(want.type))
        elif want.nullable:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, want.type)]))
        else:
            raise PartError(f"damaged: column {name} is missing")
    return pa.table(columns, schema=pa.schema([SCHEMA.field(name) for name in names]))
