"""How each clause is observed: one function a clause, registered under its id."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Final

from overlay.spec.bench import Bench
from overlay.spec.observe import Observation

__all__ = ["Check", "Observations", "all_checks", "check"]

Observations = Iterator[Observation]
Check = Callable[[Bench], Observations]

_MODULES: Final = (
    "examples",
    "lookup",
    "whiteouts",
    "fallthrus",
    "cookies",
    "copyup",
    "attributes",
    "acls",
    "nocopyup",
    "descriptors",
    "links",
    "rename",
    "permissions",
    "mounting",
    "roots",
    "readonly",
    "locking",
    "supported",
)
_registry: dict[str, Check] = {}


def check(clause: str) -> Callable[[Check], Check]:
    """Register the decorated function as the check of ``clause``."""

    def register(function: Check) -> Check:
        if clause in _registry:
            raise ValueError(f"two checks for the clause {clause}")
        _registry[clause] = function
        return function

    return register


def all_checks() -> dict[str, Check]:
    """Every check by its clause's id."""
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")
    return dict(_registry)
