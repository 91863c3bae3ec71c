"""Starting the workloads, and the copyups that were recorded in a form that compares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from tests.running import REPOSITORY

WORKLOAD = Path(__file__).with_name("workload.py")


class Step(NamedTuple):
    """One operation that copies up ``path`` (in the union, from its root)."""

    op: str
    path: str


class Seen(NamedTuple):
    """What must be right about a copyup."""

    pid: int
    op: str
    path: str | None
    ftype: str
    size: int
    bytes: int
    how: str
    errno: int = 0


def seen(table: pa.Table) -> Counter[Seen]:
    """The copyups of a trace, each with the number of times that it was reported."""
    return Counter(Seen(*(row[name] for name in Seen._fields)) for row in table.to_pylist())


def rows(table: pa.Table, **conditions: Any) -> list[dict[str, Any]]:
    """Rows that have these values, durations and time as whole nanoseconds."""
    for name in ("ts", "dur", "create", "data", "sync", "meta", "link"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.int64()))
    return [
        row
        for row in table.to_pylist()
        if all(row[name] == value for name, value in conditions.items())
    ]


def start_recording(*arguments: str | Path) -> subprocess.Popen[str]:
    """``trace record`` with these arguments; its standard error is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "overlay", "trace", "record", *arguments],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )


def _start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", str(WORKLOAD), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def write_plan(where: Path, mnt: Path, steps: Sequence[Step]) -> Path:
    lines = [step.op.encode() + b" " + os.fsencode(f"{mnt}{step.path}") for step in steps]
    where.write_bytes(b"\n".join(lines) + b"\n")
    return where


class Writers:
    """Processes that will each carry out a plan, all at once; ``pids`` are known before."""

    def __init__(self, scratch: Path, mnt: Path, plans: Sequence[Sequence[Step]]) -> None:
        self._running = [
            _start("copyup", write_plan(scratch / f"plan{number}", mnt, steps))
            for number, steps in enumerate(plans)
        ]
        self.pids = [process.pid for process in self._running]

    def run(self) -> None:
        for process in self._running:
            assert process.stdin is not None
            process.stdin.write(b"!")
            process.stdin.flush()
        for process in self._running:
            process.communicate()
            assert process.returncode == 0


@contextmanager
def noise(*kinds: tuple[str, Path]) -> Iterator[None]:
    """Workloads of ``workload.NOISE``, going on from before the body until after it."""
    running = [_start(kind, directory) for kind, directory in kinds]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == b"going\n"
        yield
    finally:
        rounds = [process.communicate()[0] for process in running]
    for (kind, _), process, done in zip(kinds, running, rounds, strict=True):
        assert process.returncode == 0, kind
        assert int(done) >= 3, f"{kind} made no noise"
