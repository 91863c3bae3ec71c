"""How records become rows of the trace file.

Whole batches at once: numpy for everything that is a number, one pass over the paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from overlay.text import printable
from tracer.callflags import flags_of
from tracer.kinds import KINDS, OUTCOMES
from tracer.records import (
    F_CLONED,
    F_COPIED,
    F_DATA_ONLY,
    F_EXACT,
    F_FAILED,
    F_METACOPY,
    F_MISSED,
    F_UNSEEN,
    PATH_IN_RECORD,
    Batch,
)
from tracer.schema import HOWS, SCHEMA
from tracer.sysnames import name_of, numbers_of

__all__ = ["to_table"]

_FTYPES = {
    0o100000: "file",
    0o040000: "dir",
    0o120000: "symlink",
    0o020000: "char",
    0o060000: "block",
    0o010000: "fifo",
    0o140000: "socket",
}

_TMPFS = 0x01021994
_XFS = 0x58465342
_BTRFS = 0x9123683E
_BCACHEFS = 0xCA451A4E
_OCFS2 = 0x7461636F
#: File systems whose files can share extents; there, data that never was in the page
#: cache was shared.
_SHARING = (_XFS, _BTRFS, _BCACHEFS, _OCFS2)
#: File systems whose fsync the probes see, or that have none.
_SYNC_KNOWN = (_TMPFS, _XFS, _BTRFS, 0xEF53, 0xF2F52010)

#: These copy a file up because its data will change.
_DATA_CALLS = np.array(
    numbers_of("open", "openat", "openat2", "creat", "truncate", "open_by_handle_at"), np.uint32
)

_EINTR = 4
_RESTART = 512  # the kernel's own codes for "interrupted, maybe start again"


def _path(raw: bytes) -> str:
    """Names from the file up, each with a slash behind it, as a path from the root."""
    return printable(b"/" + b"/".join(raw.split(b"/")[-2::-1]))


def _paths(spans: npt.NDArray[np.void], long_paths: Mapping[int, bytes]) -> list[str | None]:
    if not len(spans):
        return []
    block = np.ascontiguousarray(spans["path"]).tobytes()
    out: list[str | None] = []
    lengths = spans["path_len"].tolist()
    idents = spans["id"].tolist()
    for number, (length, ident) in enumerate(zip(lengths, idents, strict=True)):
        at = number * PATH_IN_RECORD
        if length <= PATH_IN_RECORD:
            out.append(_path(block[at : at + length]) if length else None)
            continue
        raw = block[at : at + PATH_IN_RECORD] + long_paths.get(ident, b"")
        out.append(_path(raw) if len(raw) == length else None)
    return out


def _comms(spans: npt.NDArray[np.void]) -> list[str | None]:
    names = spans["comm"].tolist()
    told = {name: printable(name) for name in set(names)}
    return [told[name] for name in names]


def _coded(values: list[str | None]) -> pa.DictionaryArray:
    return pa.array(values, pa.string()).dictionary_encode()


def _lookup(codes: npt.NDArray[np.generic], name: Callable[[int], str | None]) -> pa.Array:
    """A dictionary column: ``name`` is asked once for each distinct code."""
    distinct, index = np.unique(codes, return_inverse=True)
    names = [name(int(code)) for code in distinct]
    column = pa.array(names, pa.string()).take(pa.array(index.astype(np.int32)))
    return column.dictionary_encode()


def _stacks(
    spans: npt.NDArray[np.void], name: Callable[[int, int], str | None] | None
) -> list[str | None]:
    if name is None:
        return [None] * len(spans)
    return list(map(name, spans["stack"].tolist(), spans["pid"].tolist()))


def _counted(values: npt.NDArray[np.unsignedinteger[Any]]) -> pa.Array:
    """A column in which all bits set mean that nobody counted."""
    unknown = values == np.iinfo(values.dtype).max
    return pa.array(values.astype(np.int64), mask=unknown)


def _errnos(ret: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    errnos = np.where(ret < 0, -ret.astype(np.int64), 0)
    return np.where(errnos >= _RESTART, _EINTR, errnos).astype(np.int32)


def _calls(spans: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """The system call's number and, above it, the lower half of its flags, as one code."""
    return (spans["call_flags"] << np.uint64(32)) | spans["nr"].astype(np.uint64)


def _hows(spans: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Per span: the index into ``HOWS``, and the bytes of data moved."""
    flags, size, magic = spans["flags"], spans["size"].astype(np.int64), spans["magic"]
    regular = (spans["mode"] & 0o170000) == 0o100000
    data_only = (flags & F_DATA_ONLY) != 0
    dirtied = spans["dirtied"].astype(np.int64)
    tmpfs = magic == _TMPFS
    # Holes are not copied.  tmpfs counts pages in use; other file systems may allocate
    # later, but what was written has dirtied page cache, and some of it is still there.
    # (Dirtying alone says little: it counts the file system's own metadata, too.)
    cached = np.where(spans["pages"] > 0, dirtied, 0)
    written = np.where(tmpfs, spans["blocks"].astype(np.int64) * 512, cached)
    shared = (flags & F_CLONED) != 0
    # Only metadata: the file has its size, but nothing was written, nor asked for.
    stub = regular & ((flags & F_METACOPY) != 0) & ~data_only & ~shared
    stub &= (size > 0) & (written == 0)
    stub &= ~np.isin(spans["nr"], _DATA_CALLS)
    # Who saw the functions need not guess.
    exact = (flags & F_EXACT) != 0
    copied = (flags & F_COPIED) != 0
    stub = np.where(exact, ~copied & ~shared & ((flags & F_FAILED) == 0), stub)
    written = np.where(exact, dirtied, written)
    unmoved = ~exact & np.isin(magic, _SHARING) & (written == 0) & ~stub
    shared |= unmoved
    has_data = regular & (size > 0) & ~(exact & ((flags & F_FAILED) != 0) & ~copied & ~shared)
    how = np.select(
        [~has_data, stub, shared],
        [3, 2, 1],  # none, metacopy, reflink: see HOWS
        0,
    )
    moved = np.where(how == 0, np.minimum(size, written), 0)
    return how.astype(np.int64), moved


def _phases(
    spans: npt.NDArray[np.void], how: npt.NDArray[np.int64]
) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """Per phase: ns, and where it is unknown.  Known phases add up to the duration."""
    column = {
        name: spans[name].astype(np.int64)
        for name in ("start", "create_end", "data_end", "sync", "link_start", "end")
    }
    start, end, sync = column["start"], column["end"], column["sync"]
    flags = spans["flags"]
    data_only = (flags & F_DATA_ONLY) != 0
    # Without the end of creation or the linking nothing in between can be told apart.
    blind = ((column["create_end"] == 0) | (column["link_start"] == 0)) & ~data_only
    blind |= data_only & ((flags & F_UNSEEN) != 0)
    blind |= (flags & F_MISSED) != 0
    copied = how == 0
    # Extents that are shared are part of making the file: no data moves.
    made = np.where((how == 1) & (column["data_end"] > 0), column["data_end"], column["create_end"])
    made = np.where(data_only, start, made)
    filled = np.where(copied & (column["data_end"] > 0), column["data_end"], made)
    filled = np.where(data_only, end, filled)
    link_start = np.where(data_only, end, column["link_start"])
    create, data = made - start, np.where(data_only & ~copied, 0, filled - made)
    data = np.where(data_only, np.maximum(data - sync, 0), data)
    meta = np.maximum(link_start - filled - np.where(data_only, 0, sync), 0)
    link = end - link_start
    unsynced = ~np.isin(spans["magic"], _SYNC_KNOWN) & ((flags & F_EXACT) == 0)
    values = {"create": create, "data": data, "sync": sync, "meta": meta, "link": link}
    return {
        name: (value, blind | unsynced if name == "sync" else blind)
        for name, value in values.items()
    }


def to_table(
    batch: Batch,
    *,
    clock_offset: int,
    backend: str,
    mount_name: Callable[[int], str | None],
    cgroup_name: Callable[[int], str | None],
    container_name: Callable[[int], str | None],
    stack_name: Callable[[int, int], str | None] | None = None,
) -> pa.Table:
    """The spans of a batch as rows of :data:`~tracer.schema.SCHEMA`.

    ``clock_offset`` (ns) turns the kernel's monotonic clock into the time of day.
    """
    spans = batch.spans
    count = len(spans)
    how, moved = _hows(spans)
    start = spans["start"].astype(np.int64)
    modes = (spans["mode"] & 0o170000).astype(np.int64)
    hows = pa.array(HOWS)
    other = spans["what"] != KINDS.index("copyup")
    columns: dict[str, pa.Array] = {
        "ts": pa.array(start + clock_offset, pa.int64()).cast(pa.timestamp("ns", "UTC")),
        "dur": pa.array(spans["end"].astype(np.int64) - start).cast(pa.duration("ns")),
        "kind": _lookup(spans["what"], KINDS.__getitem__),
        "pid": pa.array(spans["pid"]),
        "tid": pa.array(spans["tid"]),
        "uid": pa.array(spans["uid"]),
        "comm": _coded(_comms(spans)),
        "cgroup": _lookup(spans["cgroup"], cgroup_name),
        "container": _lookup(spans["cgroup"], container_name),
        "op": _lookup(spans["nr"], name_of),
        "flags": _lookup(_calls(spans), flags_of),
        "path": pa.array(_paths(spans, batch.long_paths), pa.string()),
        "ftype": _lookup(modes, lambda mode: _FTYPES.get(mode, "file" if mode else None)),
        "size": pa.array(spans["size"].astype(np.int64)),
        "bytes": pa.array(moved, mask=other | ((spans["flags"] & F_MISSED) != 0)),
        "how": pa.DictionaryArray.from_arrays(pa.array(how.astype(np.int32), mask=other), hows),
        "errno": pa.array(_errnos(spans["ret"])),
        "mount": _lookup(spans["mount"], mount_name),
        "backend": _coded([backend] * count),
        "id": pa.array(spans["id"].astype(np.int64)),
        "parent": pa.array(spans["parent"].astype(np.int64), mask=spans["parent"] == 0),
        "outcome": _lookup(spans["outcome"], OUTCOMES.__getitem__),
        "layers": _counted(spans["layers"]),
        "entries": _counted(spans["entries"]),
        "stack": _coded(_stacks(spans, stack_name)),
    }
    for name, (value, unknown) in _phases(spans, how).items():
        columns[name] = pa.array(value, pa.int64(), mask=unknown | other).cast(pa.duration("ns"))
    return pa.table([columns[name] for name in SCHEMA.names], names=SCHEMA.names).cast(SCHEMA)
