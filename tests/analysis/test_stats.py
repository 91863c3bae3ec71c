"""Summaries against the same sums done by hand in plain Python."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from analysis import stats
from analysis.compare import compare, overlap
from analysis.findings import findings
from analysis.load import load
from overlay.errors import UsageError
from tests.analysis import synthetic
from tests.analysis.synthetic import Workload
from tracer.schema import PHASES

Row = dict[str, Any]


def plain(made: dict[str, Any]) -> list[Row]:
    """The columns of a made-up run as rows of plain Python values."""
    columns = {
        name: values.to_pylist() if isinstance(values, pa.Array) else list(values)
        for name, values in made.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def percentile(values: list[int], at: float) -> float:
    """Linear interpolation between order statistics, from its definition."""
    ordered = sorted(values)
    place = at * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def expected_directory(path: str, depth: int) -> str:
    names = path.split("/")[1:-1]
    return "/" + "/".join(names[:depth])


def expected_size(size: int) -> str:
    for end, name in (
        (0, "empty"),
        (4096, "≤ 4 KiB"),
        (16384, "≤ 16 KiB"),
        (65536, "≤ 64 KiB"),
        (262144, "≤ 256 KiB"),
        (1048576, "≤ 1 MiB"),
        (4194304, "≤ 4 MiB"),
        (16777216, "≤ 16 MiB"),
        (67108864, "≤ 64 MiB"),
        (268435456, "≤ 256 MiB"),
    ):
        if size <= end:
            return name
    return "> 256 MiB"


@pytest.mark.parametrize("key", ["process", "directory", "size", "op", "how", "mount", "pid"])
def test_groups_add_up(tmp_path: Path, key: str) -> None:
    made = synthetic.trace(tmp_path / "one", Workload(spans=1009))
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in plain(made):
        value = {
            "process": row["comm"],
            "directory": expected_directory(row["path"], 2),
            "size": expected_size(row["size"]),
        }.get(key, row.get(key))
        groups[value].append(row)
    found = stats.summarise(load(tmp_path / "one").frame, key, depth=2)
    assert set(found.index) == set(groups)
    whole = sum(row["dur"] for row in plain(made))
    for name, mine in groups.items():
        row = found.loc[name]
        durations = [int(one["dur"]) for one in mine]
        assert row["spans"] == len(mine)
        assert row["time"].value == sum(durations)
        assert row["bytes"] == sum(one["bytes"] for one in mine)
        assert row["share"] == pytest.approx(sum(durations) / whole)
        assert row["max"].value == max(durations)
        for label, at in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            assert row[label].value == pytest.approx(percentile(durations, at), abs=1)
    times = found["time"].tolist()
    if key == "size":
        assert list(found.index) == [name for name in stats.SIZE_CLASSES if name in groups]
    else:
        assert times == sorted(times, reverse=True)


def test_two_keys_and_what_is_unknown(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=4))
    made.update(comm=["a", "a", "b", "b"], path=["/x/1", None, "/x/2", "/y/3"], errno=[0, 30, 0, 0])
    made["bytes"] = pa.array([10, None, 5, 7], pa.int64())
    synthetic.write(tmp_path / "one", made)
    frame = load(tmp_path / "one").frame
    found: Any = stats.summarise(frame, ["process", "directory"])
    counts = {tuple(map(str, index)): row["spans"] for index, row in found.iterrows()}
    assert counts == {("a", "/x"): 1, ("a", "nan"): 1, ("b", "/x"): 1, ("b", "/y"): 1}
    by_process = stats.summarise(frame, "process")
    assert by_process["bytes"].to_dict() == {"a": 10, "b": 12}
    assert by_process["untold"].to_dict() == {"a": 1, "b": 0}
    assert by_process["errors"].to_dict() == {"a": 1, "b": 0}
    with pytest.raises(UsageError, match="no such group: colour"):
        stats.summarise(frame, "colour")


@pytest.mark.parametrize(
    ("path", "depth", "expected"),
    [
        ("/etc/passwd", 2, "/etc"),
        ("/vmlinuz", 2, "/"),
        ("/share/doc/bash/README", 2, "/share/doc"),
        ("/share/doc/bash/README", 3, "/share/doc/bash"),
        ("/share/doc/bash/README", 9, "/share/doc/bash"),
        ("/a\nb/c\nd/e", 1, "/a\nb"),
        ("/a b/ü/€/x", 2, "/a b/ü"),
        ("/", 2, "/"),
        ("relative", 2, "/"),
    ],
)
def test_directories_are_cut(path: str, depth: int, expected: str) -> None:
    assert stats.directory(pd.Series([path]), depth).tolist() == [expected]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65536, 65537, 1 << 20, 1 << 28, 1 << 40])
def test_size_classes_end_where_they_say(size: int) -> None:
    assert stats.size_class(pd.Series([size])).tolist() == [expected_size(size)]


def test_a_phase_that_is_not_told_is_left_out_of_its_share(tmp_path: Path) -> None:
    made = synthetic.trace(tmp_path / "one", Workload(spans=997, rest={"null_sync": True}))
    found: Any = stats.phases(load(tmp_path / "one").frame)
    rows = plain(made)
    assert list(found.index) == [*PHASES, "other"]
    for phase in PHASES:
        told = [row for row in rows if row[phase] is not None]
        time = sum(row[phase] for row in told)
        assert found.loc[phase, "known"] == len(told)
        assert found.loc[phase, "unknown"] == len(rows) - len(told)
        assert found.loc[phase, "happened"] == sum(row[phase] > 0 for row in told)
        assert found.loc[phase, "time"] == pd.Timedelta(time, unit="ns")
        assert found.loc[phase, "share"] == pytest.approx(time / sum(row["dur"] for row in told))
    assert found.loc["sync", "unknown"] > 0
    whole = [row for row in rows if all(row[phase] is not None for phase in PHASES)]
    rest = sum(row["dur"] - sum(row[phase] for phase in PHASES) for row in whole)
    assert found.loc["other", "time"] == pd.Timedelta(rest, unit="ns")
    assert found.loc["other", "known"] == len(whole)


def test_top_files_sum_what_happened_to_one_path(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=401))
    made["path"] = [None if number % 50 == 0 else f"/f/{number % 37}" for number in range(401)]
    synthetic.write(tmp_path / "one", made)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in plain(made):
        if row["path"] is not None:
            groups[row["path"]].append(row)
    ordered = sorted(groups, key=lambda path: -sum(row["dur"] for row in groups[path]))
    found: Any = stats.top_files(load(tmp_path / "one").frame, 5)
    assert list(found.index) == ordered[:5]
    for path, top in found.iterrows():
        mine = groups[str(path)]
        longest = max(mine, key=lambda one: int(one["dur"]))
        assert top["spans"] == len(mine)
        assert top["time"].value == sum(one["dur"] for one in mine)
        assert top["bytes"] == sum(one["bytes"] for one in mine)
        assert top["size"] == max(one["size"] for one in mine)
        assert (top["op"], top["process"]) == (longest["op"], longest["comm"])


def test_the_timeline_holds_every_span_once(tmp_path: Path) -> None:
    made = synthetic.trace(tmp_path / "one", Workload(spans=503))
    found = stats.timeline(load(tmp_path / "one").frame, bins=7)
    step = found.attrs["step"].value
    rows = plain(made)
    first = min(int(row["ts"]) for row in rows)
    for number in range(7):
        mine = [row for row in rows if (int(row["ts"]) - first) // step == number]
        assert found.iloc[number]["spans"] == len(mine)
        assert found.iloc[number]["bytes"] == sum(row["bytes"] for row in mine)
        assert found.iloc[number]["max"].value == max(row["dur"] for row in mine)
        assert found.index[number].value == first + number * step
    assert found["spans"].sum() == 503


def test_nothing_gives_empty_answers(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "one", synthetic.empty())
    frame = load(tmp_path / "one").frame
    assert stats.summarise(frame, "process").empty
    assert stats.summarise(frame, "directory").empty
    assert stats.summarise(frame, "size").empty
    assert stats.top_files(frame).empty
    assert stats.timeline(frame).empty
    assert stats.phases(frame)["known"].sum() == 0
    assert stats.overview(frame)["spans"] == 0
    assert stats.overview(frame)["p99"] is None
    assert findings(frame) == []


def test_what_the_second_run_saves(tmp_path: Path) -> None:
    before = plain(synthetic.trace(tmp_path / "document", Workload(spans=811)))
    after = plain(synthetic.trace(tmp_path / "fallthru", Workload(spans=811, metacopy=True)))
    trace = load([tmp_path / "document", tmp_path / "fallthru"])
    found = compare(trace.run("document"), trace.run("fallthru"), "op")
    for op in {row["op"] for row in before + after}:
        first = sum(int(row["dur"]) for row in before if row["op"] == op)
        second = sum(int(row["dur"]) for row in after if row["op"] == op)
        assert found.loc[op, "time_saved"] == pd.Timedelta(first - second, unit="ns")
        assert found.loc[op, "time_ratio"] == pytest.approx(first / second)
    saved = sum(row["bytes"] for row in before) - sum(row["bytes"] for row in after)
    whole = compare(trace.run("document"), trace.run("fallthru"))
    assert whole.loc["all", "bytes_saved"] == saved
    assert saved > 0
    # Only chown's copyups differ between the two, so only fchownat can have gained.
    assert found.index[0] == "fchownat"
    assert found.loc["openat", "time_saved"] == pd.Timedelta(0)


def test_a_group_that_only_one_run_has(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=2))
    made.update(op=["chmod", "chmod"], path=["/a", "/b"])
    synthetic.write(tmp_path / "a", made)
    made.update(op=["openat", "openat"], path=["/b", "/c"])
    synthetic.write(tmp_path / "b", made)
    trace = load([tmp_path / "a", tmp_path / "b"])
    found: Any = compare(trace.run("a"), trace.run("b"), "op")
    assert found.loc["chmod", ["spans_before", "spans_after"]].tolist() == [2, 0]
    assert found.loc["openat", ["spans_before", "spans_after"]].tolist() == [0, 2]
    assert math.isnan(found.loc["openat", "time_ratio"])
    alike = overlap(trace.run("a"), trace.run("b"))
    assert (alike.both, alike.only_before, alike.only_after) == (1, 1, 1)
    assert alike.share == pytest.approx(1 / 3)


def test_findings_name_what_was_put_in(tmp_path: Path) -> None:
    made = synthetic.trace(tmp_path / "document", Workload(spans=997))
    said = " ".join(one.what for one in findings(load(tmp_path / "document").frame))
    rows = plain(made)
    avoidable = [row for row in rows if row["op"] == "fchownat" and row["how"] == "copy"]
    share = sum(row["bytes"] for row in avoidable) / sum(row["bytes"] for row in rows)
    assert f"({share:.0%} of all data)" in said
    assert "is fsync" in said
    synthetic.trace(tmp_path / "volatile", Workload(spans=997, sync_ns=0, metacopy=True))
    said = " ".join(one.what for one in findings(load(tmp_path / "volatile").frame))
    assert "is fsync" not in said
    assert "attribute" not in said


def test_data_after_metadata_is_no_repetition(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=6))
    made.update(ftype=["file"] * 6, path=["/a", "/a", "/b", "/b", "/b", "/c"])
    made["how"] = ["metacopy", "copy", "copy", "copy", "copy", "copy"]
    synthetic.write(tmp_path / "one", made)
    (found,) = [
        one for one in findings(load(tmp_path / "one").frame) if "more than once" in one.what
    ]
    assert found.what.startswith("1 files")
    assert found.why.startswith("2 copyups repeat earlier ones, most often /b (3 times)")


def test_copyups_leave_other_kinds_out(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=3))
    made["kind"] = ["copyup", "lookup", "copyup"]
    synthetic.write(tmp_path / "one", made)
    frame = load(tmp_path / "one").frame
    assert len(stats.copyups(frame)) == 2
    assert stats.summarise(frame, "kind")["spans"].to_dict() == {"copyup": 2, "lookup": 1}
