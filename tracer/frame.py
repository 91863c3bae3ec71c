"""Rows as a pandas frame, with types that survive a null; filled part by part, held once.

=============================  ==================================================
``ts``                         datetime64[ns, UTC], start of the span
``dur``, phases                timedelta64[ns]; NaT where the tracer could not tell
``kind op flags comm ftype``,  category
``how mount cgroup backend``
``outcome stack container``
``path``                       Arrow string, path inside the union
``size``                       int64, bytes
``bytes``                      Int64 (nullable), bytes of data moved to the top
``id parent layers entries``   Int64 (nullable)
``pid tid uid``, ``errno``     uint32, int32
=============================  ==================================================

A trace of ten million spans takes about 1.3 GB.  Joining tables first and converting them
afterwards would need that again, and so would joining pieces: each part is converted into its
place in the whole column as it is read, and let go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from tracer.schema import SCHEMA

__all__ = ["Columns", "category", "frame_of"]

#: Numeric columns whose values must survive a null: pandas' default would be float64.
_NULLABLE_INT = frozenset({"bytes", "id", "parent", "layers", "entries"})


def category(codes: npt.NDArray[Any], values: Iterable[object]) -> pd.Categorical:
    """A category column from codes (-1: null) and the values they stand for."""
    return pd.Categorical.from_codes(codes, categories=pd.Index(list(values), dtype=object))


def frame_of(table: pa.Table) -> pd.DataFrame:
    """The rows of a table whose columns are of :data:`tracer.schema.SCHEMA`, as a frame."""
    made = Columns(table.column_names, table.num_rows)
    made.put(table, 0)
    return pd.DataFrame(made.series(), copy=False)


class Columns:
    """The columns ``names`` of ``rows`` rows: :meth:`put` takes those of a part, in any order and
    from several threads at once, :meth:`series` gives all."""

    def __init__(self, names: Iterable[str], rows: int) -> None:
        self._rows = rows
        self._filled: list[tuple[int, int]] = []
        self._made = {name: _builder(name, rows) for name in names}

    def put(self, table: pa.Table, first: int) -> None:
        """The rows from ``first`` on: a table with exactly these columns in the schema's types."""
        self._filled.append((first, first + table.num_rows))
        for name, builder in self._made.items():
            at = first
            for chunk in table.column(name).chunks:
                builder.put(chunk, at)
                at += len(chunk)

    def series(self) -> dict[str, pd.Series[Any]]:
        """The columns, without the rows that nobody has put; this can be asked once."""
        filled = sorted(self._filled)
        whole = sum(end - first for first, end in filled) == self._rows
        kept = [slice(0, self._rows)] if whole else [slice(*each) for each in filled]
        return {
            name: pd.Series(self._made.pop(name).done(kept), name=name, copy=False)
            for name in list(self._made)
        }


def _builder(name: str, rows: int) -> _Plain | _Nullable | _Category | _Text:
    kind = SCHEMA.field(name).type
    if pa.types.is_dictionary(kind):
        return _Category()
    if pa.types.is_string(kind):
        return _Text()
    return _Nullable(rows) if name in _NULLABLE_INT else _Plain(kind, rows)


def _kept(values: npt.NDArray[Any], kept: list[slice]) -> npt.NDArray[Any]:
    return (
        values[kept[0]]
        if len(kept) == 1
        else np.concatenate([values[:0], *(values[each] for each in kept)])
    )


class _Plain:
    """Numbers and times; what is null becomes NaT, which only times may be."""

    def __init__(self, kind: pa.DataType, rows: int) -> None:
        self._zone = kind.tz if pa.types.is_timestamp(kind) else None
        self._values = np.empty(rows, "M8[ns]" if self._zone else kind.to_pandas_dtype())

    def put(self, chunk: pa.Array, at: int) -> None:
        self._values[at : at + len(chunk)] = chunk.to_numpy(zero_copy_only=False)

    def done(self, kept: list[slice]) -> Any:
        values = _kept(self._values, kept)
        return pd.DatetimeIndex(values, copy=False, tz=self._zone) if self._zone else values


class _Nullable:
    """Integers that may be null and have to stay exact."""

    def __init__(self, rows: int) -> None:
        # Zeros that nobody touches take no memory: some columns tell nothing.
        self._values = np.zeros(rows, np.int64)
        self._missing = np.ones(rows, bool)

    def put(self, chunk: pa.Array, at: int) -> None:
        if chunk.null_count == len(chunk):
            return
        place = slice(at, at + len(chunk))
        self._values[place] = chunk.fill_null(0).to_numpy(zero_copy_only=False)
        if chunk.null_count:
            self._missing[place] = chunk.is_null().to_numpy(zero_copy_only=False)
        else:
            self._missing[place] = False

    def done(self, kept: list[slice]) -> Any:
        return pd.arrays.IntegerArray(_kept(self._values, kept), _kept(self._missing, kept))


class _Category:
    """Words that repeat: every part has its own dictionary, the column one for all, in the order
    of the rows."""

    def __init__(self) -> None:
        self._pieces: dict[int, tuple[list[str], npt.NDArray[Any]]] = {}

    def put(self, chunk: pa.DictionaryArray, at: int) -> None:
        words = chunk.dictionary.to_pylist()
        width = np.min_scalar_type(-max(len(words), 1))
        if chunk.null_count == len(chunk):
            codes = np.full(len(chunk), -1, width)
        else:
            indices = chunk.indices.fill_null(-1) if chunk.null_count else chunk.indices
            codes = indices.to_numpy(zero_copy_only=False).astype(width)
        self._pieces[at] = words, codes

    def done(self, kept: list[slice]) -> Any:
        known: dict[str, int] = {}
        pieces = [self._pieces.pop(at) for at in sorted(self._pieces)]
        places = [[known.setdefault(word, len(known)) for word in words] for words, _ in pieces]
        made = np.empty(
            sum(len(codes) for _, codes in pieces), np.min_scalar_type(-max(len(known), 1))
        )
        first = 0
        for ours, (_, codes) in zip(places, pieces, strict=True):
            place = slice(first, first := first + len(codes))
            if ours != list(range(len(ours))):
                # The last place is for null, which -1 reaches from the other end.
                made[place] = np.asarray([*ours, -1], made.dtype).take(codes, mode="wrap")
            else:
                made[place] = codes
        return category(made, known)


class _Text:
    """Paths, mostly told once each: Arrow keeps them, without an object each."""

    #: What pandas would otherwise make of all of them at once, beside those that were read.
    _KIND = pa.large_string()

    def __init__(self) -> None:
        self._chunks: dict[int, pa.Array] = {}

    def put(self, chunk: pa.Array, at: int) -> None:
        self._chunks[at] = chunk.cast(self._KIND)

    def done(self, kept: list[slice]) -> Any:
        chunks = pa.chunked_array([self._chunks[at] for at in sorted(self._chunks)], self._KIND)
        return pd.array(chunks, dtype=pd.StringDtype("pyarrow"))
