"""Columns of a table, taken out of their dictionaries."""

from __future__ import annotations

from typing import Any

__all__ = ["plain"]


def plain(column: Any) -> Any:
    """A category's values themselves, which is what comparisons and sorting want."""
    import pyarrow as pa

    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
