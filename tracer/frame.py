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
afterwards would need that again; here each part is converted as it is read and let go.
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
    made = Columns(table.column_names)
    made.add(table)
    return pd.DataFrame(made.series(), copy=False)


class Columns:
    """The columns ``names``: :meth:`add` takes the rows of a part, :meth:`series` joins all."""

    def __init__(self, names: Iterable[str]) -> None:
        self._made = {name: _builder(name) for name in names}

    def add(self, table: pa.Table) -> None:
        """Append the rows of a table with exactly these columns in the schema's types."""
        for name, builder in self._made.items():
            for chunk in table.column(name).chunks:
                builder.add(chunk)

    def series(self) -> dict[str, pd.Series[Any]]:
        """The columns; their pieces are let go one by one, so this can be asked once."""
        return {
            name: pd.Series(self._made.pop(name).done(), name=name, copy=False)
            for name in list(self._made)
        }


def _builder(name: str) -> _Plain | _Nullable | _Category | _Text:
    kind = SCHEMA.field(name).type
    if pa.types.is_dictionary(kind):
        return _Category()
    if pa.types.is_string(kind):
        return _Text()
    return _Nullable() if name in _NULLABLE_INT else _Plain(kind)


def _joined(pieces: list[npt.NDArray[Any]], kind: Any) -> npt.NDArray[Any]:
    return np.concatenate(pieces) if pieces else np.empty(0, kind)


class _Plain:
    """Numbers and times; what is null becomes NaT, which only times may be."""

    def __init__(self, kind: pa.DataType) -> None:
        self._zone = kind.tz if pa.types.is_timestamp(kind) else None
        self._kind = "M8[ns]" if self._zone else kind.to_pandas_dtype()
        self._pieces: list[npt.NDArray[Any]] = []

    def add(self, chunk: pa.Array) -> None:
        # A copy: a view would keep all of the part's columns alive.
        self._pieces.append(np.array(chunk.to_numpy(zero_copy_only=False)))

    def done(self) -> Any:
        values = _joined(self._pieces, self._kind)
        return pd.DatetimeIndex(values, copy=False, tz=self._zone) if self._zone else values


class _Nullable:
    """Integers that may be null and have to stay exact; nothing is kept of parts that tell none."""

    def __init__(self) -> None:
        self._pieces: list[npt.NDArray[Any]] = []
        self._missing: list[npt.NDArray[Any]] = []
        self._silent = 0  # rows before the first that tells something

    def add(self, chunk: pa.Array) -> None:
        if not self._pieces:
            if chunk.null_count == len(chunk):
                self._silent += len(chunk)
                return
            self._pieces.append(np.zeros(self._silent, np.int64))
            self._missing.append(np.ones(self._silent, bool))
        self._pieces.append(np.array(chunk.fill_null(0).to_numpy(zero_copy_only=False)))
        self._missing.append(chunk.is_null().to_numpy(zero_copy_only=False))

    def done(self) -> Any:
        if not self._pieces:
            # Zeros that nobody touches take no memory.
            return pd.arrays.IntegerArray(
                np.zeros(self._silent, np.int64), np.ones(self._silent, bool)
            )
        return pd.arrays.IntegerArray(np.concatenate(self._pieces), np.concatenate(self._missing))


class _Category:
    """Words that repeat: every part has its own dictionary, the column one for all."""

    def __init__(self) -> None:
        self._pieces: list[npt.NDArray[Any]] = []
        self._known: dict[str, int] = {}

    def add(self, chunk: pa.DictionaryArray) -> None:
        known = self._known
        ours = [known.setdefault(word, len(known)) for word in chunk.dictionary.to_pylist()]
        # The last place is for null, which -1 reaches from the other end.
        codes = np.asarray([*ours, -1], dtype=np.min_scalar_type(-max(len(known), 1)))
        self._pieces.append(codes[chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)])

    def done(self) -> Any:
        return category(_joined(self._pieces, np.int8), self._known)


class _Text:
    """Paths, mostly told once each: Arrow keeps them as they were read, without an object each."""

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []

    def add(self, chunk: pa.Array) -> None:
        self._chunks.append(chunk)

    def done(self) -> Any:
        chunks = pa.chunked_array(self._chunks, pa.string())
        return pd.array(chunks, dtype=pd.StringDtype("pyarrow"))
