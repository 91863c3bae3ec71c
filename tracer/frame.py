"""Rows as a pandas frame, with types that survive a null.

=============================  ==================================================
``ts``                         datetime64[ns, UTC], start of the span
``dur``, phases                timedelta64[ns]; NaT where the tracer could not tell
``kind op comm ftype how``,    category
``mount cgroup backend``
``path``                       Arrow string, path inside the union
``size``                       int64, bytes
``bytes``                      Int64 (nullable), bytes of data moved to the top
``pid tid uid``, ``errno``     uint32, int32
=============================  ==================================================
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

__all__ = ["frame_of"]

#: Numeric columns whose values must survive a null: pandas' default would be float64.
_NULLABLE_INT = frozenset({"bytes"})


def frame_of(columns: dict[str, pa.ChunkedArray]) -> pd.DataFrame:
    """The columns as a frame.  Takes them away one by one, so that none is there twice."""
    made = {name: _series(name, columns.pop(name)) for name in list(columns)}
    return pd.DataFrame(made, copy=False)


def _series(name: str, column: pa.ChunkedArray) -> pd.Series[Any]:
    series: pd.Series[Any]
    if pa.types.is_string(column.type):
        series = column.to_pandas(types_mapper={pa.string(): pd.StringDtype("pyarrow")}.get)
    elif name in _NULLABLE_INT:
        series = column.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    else:
        series = column.to_pandas()
    return series
