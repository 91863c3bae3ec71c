"""What copyup and lookup cost: bcc/eBPF probes, and the trace files they fill.

``with tracer.Session(mount="/mnt") as s: ...; s.frame()``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracer.selection import Selection
    from tracer.session import Session

__all__ = ["Selection", "Session"]


def __getattr__(name: str) -> Any:
    # When asked for: every fallthru command that touches the package would pay otherwise.
    if name == "Session":
        from tracer.session import Session

        return Session
    if name == "Selection":
        from tracer.selection import Selection

        return Selection
    raise AttributeError(f"module 'tracer' has no attribute {name!r}")
