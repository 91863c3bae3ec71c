"""Conditions on spans: each alone, together, and against the same conditions in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.analysis import synthetic
from tracer.schema import SCHEMA
from tracer.selection import Selection

Row = dict[str, Any]


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory: Path = tmp_path_factory.mktemp("trace")
    made = synthetic.columns(synthetic.Workload(spans=997))
    made["uid"] = [number % 7 for number in range(997)]
    made["errno"] = [28 if number % 11 == 0 else 0 for number in range(997)]
    made["path"] = [None if number % 11 == 0 else path for number, path in enumerate(made["path"])]
    made["cgroup"] = [None if n % 5 else f"/a/b{n % 2}/c" for n in range(997)]
    made["container"] = [None if n % 3 else f"web{n % 2}" for n in range(997)]
    synthetic.write(directory, made)
    return pq.read_table(directory).cast(SCHEMA)


def nanoseconds(row: Row) -> int:
    value: int = row["dur"].value
    return value


CASES: list[tuple[Selection, Callable[[Row], bool]]] = [
    (Selection(pids=(1001, 1003)), lambda row: row["pid"] in (1001, 1003)),
    (Selection(uids=(3,)), lambda row: row["uid"] == 3),
    (Selection(comms=("sed",)), lambda row: row["comm"] == "sed"),
    (Selection(ops=("openat", "truncate")), lambda row: row["op"] in ("openat", "truncate")),
    (Selection(hows=("none",)), lambda row: row["how"] == "none"),
    (Selection(kinds=("lookup",)), lambda row: False),
    (Selection(failed=True), lambda row: row["errno"] != 0),
    (Selection(min_ns=150_000), lambda row: nanoseconds(row) >= 150_000),
    (Selection(mounts=(synthetic.MOUNT,)), lambda row: True),
    (Selection(mounts=("/elsewhere",)), lambda row: False),
    (
        Selection(under="/share/doc"),
        lambda row: row["path"] is not None and row["path"].startswith("/share/doc/"),
    ),
    (Selection(under="/share/do"), lambda row: False),
    (Selection(under="/"), lambda row: row["path"] is not None),
    (
        Selection(under=f"{synthetic.MOUNT}/lib/"),
        lambda row: row["path"] is not None and row["path"].startswith("/lib/"),
    ),
    (Selection(containers=("web1",)), lambda row: row["container"] == "web1"),
    (Selection(cgroups=("/a/b1",)), lambda row: (row["cgroup"] or "").startswith("/a/b1/")),
    (
        Selection(comms=("sed", "chown"), uids=(1,), min_ns=1),
        lambda row: row["comm"] in ("sed", "chown") and row["uid"] == 1,
    ),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_condition(spans: Any, number: int) -> None:
    selection, wanted = CASES[number]
    assert selection
    assert selection.apply(spans).to_pylist() == [r for r in spans.to_pylist() if wanted(r)]


def test_times_are_half_open(spans: Any) -> None:
    starts = sorted(stamp.value for stamp in spans["ts"].to_pylist())
    got = Selection(since=starts[10], until=starts[23]).apply(spans)
    assert sorted(stamp.value for stamp in got["ts"].to_pylist()) == starts[10:23]


def test_one_file_is_under_itself(spans: Any) -> None:
    path = next(row["path"] for row in spans.to_pylist() if row["path"])
    assert Selection(under=path).apply(spans)["path"].to_pylist() == [path]


def test_no_condition_is_no_work(spans: Any) -> None:
    assert not Selection()
    assert Selection().apply(spans) is spans
