"""Traces made up from known parameters, written as the contract in tracer.schema says.

A copyup's latency is ``fixed + bytes / bandwidth + sync`` times noise, so a test
knows what must come out.  Nothing here uses the code under test.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tracer.schema import PHASES, RunMetadata, schema_with

START_NS = 1_790_000_000_000_000_000
MOUNT = "/mnt/usr"
PROCESSES = ("chown", "sed", "logrotate", "python3", "rsync")
OPS = {"chown": "fchownat", "sed": "openat", "logrotate": "openat", "python3": "openat"}
DIRECTORIES = ("/share/doc/zlib1g", "/share/doc/bash/examples", "/share/man/man1", "/lib/x", "")

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Workload:
    """What a made-up run did, and how fast its top was."""

    spans: int = 997
    seed: int = 1
    fixed_ns: int = 35_000
    sync_ns: int = 150_000
    bytes_per_second: float = 1.2e9
    metacopy: bool = False
    rest: dict[str, Any] = field(default_factory=dict)


def metadata(spans: int, **changes: Any) -> RunMetadata:
    made = RunMetadata(
        kernel="6.18.0",
        hostname="synthetic",
        backend="tracepoints",
        started_ns=START_NS,
        ended_ns=START_NS + 30_000_000_000,
        command=["sh", "-c", "chown -R 7:7 /mnt/usr/share/doc"],
        mounts={
            MOUNT: {
                "options": "metacopy=off,redirect_dir=off,index=off,xino=off",
                "top": "ext4",
                "bottoms": ["ext4"],
            }
        },
        spans=spans,
        tool_version="0.1.0",
    )
    return replace(made, **changes)


def columns(work: Workload) -> dict[str, Any]:
    """The columns of a run, ready for :func:`write`."""
    rng = np.random.default_rng(work.seed)
    count = work.spans
    kinds = rng.choice(["file", "dir", "symlink"], count, p=[0.9, 0.07, 0.03])
    size = np.where(rng.random(count) < 0.02, 0, np.exp(rng.normal(9.2, 2.3, count))).astype("i8")
    size = np.where(kinds == "file", size, np.where(kinds == "dir", 4096, 17))
    comm = rng.choice(PROCESSES, count, p=[0.5, 0.3, 0.05, 0.1, 0.05])
    op = np.array([OPS.get(one, "truncate") for one in comm], dtype=object)
    data = kinds == "file"
    how = np.where(data & (size > 0), "copy", "none").astype(object)
    if work.metacopy:
        how[(how == "copy") & (comm == "chown")] = "metacopy"
    moved = np.where(how == "copy", size, 0).astype("i8")
    phases = _phases(work, rng, moved, how, data)
    known = {name: np.zeros(count, bool) for name in PHASES}
    if work.rest.get("null_sync"):
        known["sync"] = rng.random(count) < 0.25
    gap = rng.integers(0, 2_000, count)
    dur = sum(phases.values(), gap)
    slot = 30_000_000_000 // max(count, 1)
    ts = START_NS + np.arange(count) * slot + rng.integers(0, max(slot // 2, 1), count)
    where = rng.integers(0, len(DIRECTORIES), count)
    path = [f"{DIRECTORIES[place]}/file-{number:05d}" for number, place in enumerate(where)]
    made: dict[str, Any] = {
        "ts": ts,
        "dur": dur,
        "kind": ["copyup"] * count,
        "pid": (1000 + rng.integers(0, 5, count)).astype("u4"),
        "tid": (1000 + rng.integers(0, 5, count)).astype("u4"),
        "uid": np.zeros(count, "u4"),
        "comm": comm,
        "cgroup": ["/user.slice"] * count,
        "op": op,
        "path": path,
        "ftype": kinds,
        "size": size,
        "bytes": moved,
        "how": how,
        "errno": np.zeros(count, "i4"),
        "mount": [MOUNT] * count,
        "backend": ["tracepoints"] * count,
    }
    for name, values in phases.items():
        made[name] = pa.array(values, mask=known[name])
    return made


def _phases(
    work: Workload,
    rng: np.random.Generator,
    moved: Int64s,
    how: npt.NDArray[np.object_],
    data: npt.NDArray[np.bool_],
) -> dict[str, Int64s]:
    def noisy(base: npt.ArrayLike) -> Int64s:
        return (np.asarray(base) * np.exp(rng.normal(0, 0.25, work.spans))).astype("i8")

    synced = data & (how == "copy")
    return {
        "create": noisy(work.fixed_ns * 0.5),
        "data": noisy(moved / work.bytes_per_second * 1e9),
        "sync": noisy(np.where(synced, work.sync_ns + moved * 0.25, 0)),
        "meta": noisy(work.fixed_ns * 0.2),
        "link": noisy(work.fixed_ns * 0.3),
    }


def write(
    directory: str | os.PathLike[str],
    made: dict[str, Any],
    *,
    parts: int = 1,
    changes: dict[str, Any] | None = None,
) -> list[str]:
    """Write ``made`` as ``parts`` parts; returns their paths."""
    count = len(made["ts"])
    schema = schema_with(metadata(**{"spans": count} | (changes or {})))
    arrays = [_array(made.get(item.name, [None] * count), item.type) for item in schema]
    table = pa.table(arrays, schema=schema)
    os.makedirs(directory, exist_ok=True)
    paths = []
    edges = np.linspace(0, count, parts + 1).astype(int)
    for number, (first, last) in enumerate(pairwise(edges)):
        path = os.path.join(directory, f"part-{number:05d}.parquet")
        piece = table.slice(int(first), int(last - first))
        pq.write_table(piece, path, compression="zstd", write_page_checksum=True)
        paths.append(path)
    return paths


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.cast(kind)
    if pa.types.is_dictionary(kind):
        return pa.array(list(values), pa.string()).dictionary_encode().cast(kind)
    if pa.types.is_temporal(kind):
        return pa.array(values, pa.int64()).cast(kind)
    return pa.array(values, kind)


def trace(
    directory: str | os.PathLike[str], work: Workload | None = None, *, parts: int = 3
) -> dict[str, Any]:
    """Make and write one run; returns its columns."""
    made = columns(work or Workload())
    write(directory, made, parts=parts)
    return made


def empty() -> dict[str, Any]:
    """The columns of a run without a single span."""
    return columns(Workload(spans=0))
