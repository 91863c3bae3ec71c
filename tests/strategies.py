"""Hypothesis strategies: what :mod:`overlay.spec.fuzz.steps` draws, for Hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from overlay.spec.fuzz.steps import DOMAINS, OPERATIONS

__all__ = ["arguments_of"]


def arguments_of(operation: str) -> st.SearchStrategy[tuple[Any, ...]]:
    """The arguments of one operation, each from its domain."""
    return st.tuples(*(st.sampled_from(DOMAINS[kind]) for kind in OPERATIONS[operation]))
