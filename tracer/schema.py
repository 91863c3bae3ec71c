"""The trace file: one Parquet row per span, and the metadata that goes with a run.

A trace is a directory of Parquet parts (``part-00000.parquet`` …, zstd).  Each
part carries the whole run metadata in its schema metadata, so any part can be
read alone.  ``docs/trace-format.md`` describes the columns for other readers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from tracer.kinds import KINDS

__all__ = [
    "FTYPES",
    "HOWS",
    "KINDS",
    "METADATA_KEY",
    "PHASES",
    "SCHEMA",
    "SCHEMA_VERSION",
    "RunMetadata",
    "metadata_from_schema",
    "schema_with",
]

#: Raised by one when a column changes meaning or goes; new nullable columns don't raise it.
SCHEMA_VERSION = 2

FTYPES = ("file", "dir", "symlink", "char", "block", "fifo", "socket")
#: How a copyup's data got to the top.  ``copy``: bytes were moved; ``reflink``: the file
#: system shared the extents; ``metacopy``: only metadata went up, data stays on the
#: bottom; ``none``: there was no data to move (directory, symlink, empty file, …).
HOWS = ("copy", "reflink", "metacopy", "none")
#: The phases of a copyup in the order in which they happen.  Null where the backend
#: cannot tell, zero where the phase is known not to have happened.
PHASES = ("create", "data", "sync", "meta", "link")

METADATA_KEY = b"fallthru"

_category = pa.dictionary(pa.int32(), pa.string())
_ns = pa.duration("ns")


def _column(name: str, kind: pa.DataType, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null)


SCHEMA = pa.schema(
    [
        _column("ts", pa.timestamp("ns", "UTC")),  # start, CLOCK_REALTIME
        _column("dur", _ns),
        _column("kind", _category),
        _column("pid", pa.uint32()),  # thread group, in the initial PID namespace
        _column("tid", pa.uint32()),
        _column("uid", pa.uint32()),
        _column("comm", _category),
        _column("cgroup", _category, null=True),  # path below the cgroup2 root
        _column("container", _category, null=True),  # that the cgroup is, by name or short id
        _column("op", _category),  # the system call that caused it
        _column("flags", _category, null=True),  # that call's, if it opens or renames
        _column("path", pa.string(), null=True),  # inside the union, from its root: /etc/passwd
        _column("ftype", _category, null=True),  # null: nothing has the name
        _column("size", pa.int64()),  # bytes, of the file when the span ended
        _column("bytes", pa.int64(), null=True),  # bytes of data moved to the top
        _column("how", _category, null=True),
        *(_column(phase, _ns, null=True) for phase in PHASES),
        _column("errno", pa.int32()),  # 0, or the positive errno it failed with
        _column("mount", _category, null=True),  # the union's mount point
        _column("backend", _category),
        _column("id", pa.int64(), null=True),  # one in the run
        _column("parent", pa.int64(), null=True),  # id of the span this one was needed by
        _column("outcome", _category, null=True),  # of what is no copyup: tracer.kinds.OUTCOMES
        _column("layers", pa.int64(), null=True),  # that were asked
        _column("entries", pa.int64(), null=True),  # of a directory, that were given
        _column("stack", _category, null=True),  # the caller's, outermost function first: a;b;c
    ]
)


@dataclass(frozen=True)
class RunMetadata:
    """What a trace says about the run it came from.

    ``mounts`` maps a union's mount point to its options and the file systems of
    its layers: ``{"/mnt": {"options": "...", "top": "ext4", "bottoms": ["ext4"]}}``.
    ``lost`` counts events the kernel could not deliver; ``unmatched`` counts copyups
    seen but given up because their span never became complete.  ``removed`` counts spans of
    parts that rotation has removed.  ``runs`` lists the runs that a merged trace came from.
    ``latencies`` are histograms of what has no rows (:func:`tracer.latencies.described`),
    ``unseen`` the kinds that the backend cannot see at all.
    """

    kernel: str
    hostname: str
    backend: str
    started_ns: int
    clock: str = "CLOCK_REALTIME"
    ended_ns: int | None = None
    command: list[str] = field(default_factory=list)
    filters: dict[str, Any] = field(default_factory=dict)
    mounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    spans: int = 0
    lost: int = 0
    unmatched: int = 0
    removed: int = 0
    runs: list[dict[str, Any]] = field(default_factory=list)
    latencies: list[dict[str, Any]] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    tool: str = "fallthru"
    tool_version: str = ""
    version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def schema_with(metadata: RunMetadata) -> pa.Schema:
    """:data:`SCHEMA` carrying ``metadata``, as every part is written."""
    return SCHEMA.with_metadata({METADATA_KEY: metadata.to_json().encode()})


def metadata_from_schema(schema: pa.Schema) -> dict[str, Any] | None:
    """The run metadata of a part as plain data, or None when the file is no trace.

    Plain data rather than :class:`RunMetadata`: a newer fallthru may have written
    keys that this one does not know.
    """
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        return None
    decoded = json.loads(raw)
    return decoded if isinstance(decoded, dict) else None
