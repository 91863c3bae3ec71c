"""Loading: types, several traces, and everything that can be wrong with a trace."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.load import (
    NewerTrace,
    NotATrace,
    UnreadableTrace,
    batches,
    load,
    load_metadata,
)
from overlay.errors import UsageError
from tests.analysis import synthetic
from tests.analysis.synthetic import Workload
from tracer.schema import METADATA_KEY, SCHEMA, SCHEMA_VERSION, schema_with


def rows(directory: Path) -> list[dict[str, object]]:
    """The trace as plain Python, read by pyarrow alone."""
    found: list[dict[str, object]] = []
    for part in sorted(directory.glob("*.parquet")):
        table = pq.read_table(part)
        plain = [
            column.cast(pa.int64())
            if pa.types.is_temporal(column.type)
            else column.cast(pa.string())
            if pa.types.is_dictionary(column.type)
            else column
            for column in table.columns
        ]
        found += pa.table(plain, names=table.column_names).to_pylist()
    return found


def test_every_value_arrives_with_its_type(tmp_path: Path) -> None:
    synthetic.trace(tmp_path / "one", Workload(spans=101, rest={"null_sync": True}), parts=3)
    frame = load(tmp_path / "one").frame
    assert str(frame["ts"].dtype) == "datetime64[ns, UTC]"
    assert str(frame["dur"].dtype) == "timedelta64[ns]"
    assert str(frame["size"].dtype) == "int64"
    assert str(frame["bytes"].dtype) == "Int64"
    assert isinstance(frame["comm"].dtype, pd.CategoricalDtype)
    assert isinstance(frame["path"].dtype, pd.StringDtype)
    expected = rows(tmp_path / "one")
    assert len(frame) == len(expected) == 101
    assert frame["ts"].astype("int64").tolist() == [row["ts"] for row in expected]
    for name in ("dur", "create", "sync"):
        ours = [None if pd.isna(value) else value.value for value in frame[name]]
        assert ours == [row[name] for row in expected]
    assert any(row["sync"] is None for row in expected)
    for name in ("kind", "comm", "op", "path", "how", "size", "bytes", "pid", "errno", "mount"):
        assert frame[name].tolist() == [row[name] for row in expected], name


def test_nulls_stay_null_and_integers_stay_integers(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=3))
    made["bytes"] = pa.array([2**53 + 1, None, 0], pa.int64())  # 2**53 + 1 is no float
    made["path"] = ["/a", None, "/c"]
    made["how"] = ["copy", None, "none"]
    synthetic.write(tmp_path / "one", made)
    frame = load(tmp_path / "one").frame
    assert frame["bytes"].tolist() == [2**53 + 1, pd.NA, 0]
    assert frame["path"].isna().tolist() == [False, True, False]
    assert frame["how"].isna().tolist() == [False, True, False]


def test_runs_are_told_apart_and_metadata_is_theirs(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "document", synthetic.columns(Workload(spans=7)))
    changes = {"kernel": "7.0.0-later", "lost": 3}
    synthetic.write(tmp_path / "fallthru", synthetic.columns(Workload(spans=5)), changes=changes)
    trace = load([tmp_path / "document", tmp_path / "fallthru"])
    assert [run.name for run in trace.runs] == ["document", "fallthru"]
    assert [run.spans for run in trace.runs] == [7, 5]
    assert [run.metadata.kernel for run in trace.runs] == ["6.18.0", "7.0.0-later"]
    assert [run.metadata.lost for run in trace.runs] == [0, 3]
    assert trace.frame["run"].tolist() == ["document"] * 7 + ["fallthru"] * 5
    assert len(trace.run("fallthru")) == 5
    assert trace.damage == ()
    assert [run.metadata for run in load_metadata(tmp_path)] == [one.metadata for one in trace.runs]


def test_one_part_a_glob_and_a_directory_of_traces(tmp_path: Path) -> None:
    parts = synthetic.write(tmp_path / "a" / "trace", synthetic.columns(Workload(spans=9)), parts=3)
    synthetic.write(tmp_path / "b" / "trace", synthetic.columns(Workload(spans=4)))
    assert len(load(parts[1]).frame) == 3
    assert load(parts[1]).damage == ()
    assert len(load(f"{tmp_path}/*/trace").frame) == 13
    assert len(load(f"{tmp_path}/a/trace/part-*1.parquet").frame) == 3
    both = load(tmp_path)
    assert [run.name for run in both.runs] == ["a/trace", "b/trace"]
    assert len(load([parts[0], tmp_path / "a" / "trace"]).frame) == 9  # no part twice


def test_only_the_columns_asked_for(tmp_path: Path) -> None:
    synthetic.trace(tmp_path / "one", Workload(spans=11))
    frame = load(tmp_path / "one", columns=["size", "dur"]).frame
    assert list(frame.columns) == ["run", "dur", "size"]
    assert len(frame) == 11
    with pytest.raises(UsageError, match="no column colour"):
        load(tmp_path / "one", columns=["colour"])


def test_an_empty_trace_loads(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "one", synthetic.empty())
    trace = load(tmp_path / "one")
    assert len(trace.frame) == 0
    assert list(trace.frame.columns) == ["run", "host", *SCHEMA.names]
    assert trace.runs[0].spans == 0


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "replaced"])
def test_a_damaged_part_costs_only_itself_and_is_reported(tmp_path: Path, harm: str) -> None:
    made = synthetic.columns(Workload(spans=300))
    parts = synthetic.write(tmp_path / "one", made, parts=3)
    whole = Path(parts[1]).read_bytes()
    if harm == "cut":
        Path(parts[1]).write_bytes(whole[: len(whole) // 2])
    elif harm == "flipped":
        # In the first data page, where only the page's checksum can tell.
        Path(parts[1]).write_bytes(whole[:200] + bytes([whole[200] ^ 0xFF]) + whole[201:])
    elif harm == "emptied":
        Path(parts[1]).write_bytes(b"")
    else:
        pq.write_table(pa.table({"x": [1]}), parts[1])
    trace = load(tmp_path / "one")
    assert len(trace.frame) == trace.runs[0].spans == 200
    for name in ("path", "comm", "size", "pid"):
        assert trace.frame[name].tolist() == [*made[name][:100], *made[name][200:]], name
    assert [damage.path for damage in trace.damage] == [parts[1]]
    assert trace.damage[0].reason


def test_a_part_that_is_gone_is_missed(tmp_path: Path) -> None:
    parts = synthetic.write(tmp_path / "one", synthetic.columns(Workload(spans=300)), parts=3)
    os.unlink(parts[1])
    trace = load(tmp_path / "one")
    assert len(trace.frame) == 200
    assert [damage.reason for damage in trace.damage] == ["100 of 300 spans are missing"]


def test_text_that_is_not_utf8_is_damage_not_a_crash(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=2))
    buffers = pa.array([b"/a\xff", b"/b"], pa.binary()).buffers()
    made["path"] = pa.StringArray.from_buffers(2, buffers[1], buffers[2])
    synthetic.write(tmp_path / "one", made)
    with pytest.raises(UnreadableTrace, match="UTF"):
        load(tmp_path / "one")


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    parts = synthetic.write(tmp_path / "one", synthetic.columns(Workload(spans=300)), parts=2)
    for part in parts:
        Path(part).write_bytes(b"PAR1 no longer")
    with pytest.raises(UnreadableTrace) as caught:
        load(tmp_path / "one")
    assert caught.value.exit_code == 5


def test_what_is_not_a_trace_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "foreign.parquet")
    for path in ("missing", "empty", "foreign.parquet", "*.nothing"):
        with pytest.raises(NotATrace) as caught:
            load(tmp_path / path)
        assert caught.value.exit_code == 2
        assert caught.value.hint
    with pytest.raises(NotATrace):
        load([])


def test_a_newer_version_says_so(tmp_path: Path) -> None:
    changes = {"version": SCHEMA_VERSION + 1, "tool_version": "9.1"}
    synthetic.write(tmp_path / "new", synthetic.columns(Workload(spans=3)), changes=changes)
    synthetic.write(tmp_path / "now", synthetic.columns(Workload(spans=3)))
    for paths in ([tmp_path / "new"], [tmp_path / "now", tmp_path / "new"]):
        with pytest.raises(NewerTrace, match=f"version {SCHEMA_VERSION + 1}") as caught:
            load(paths)
        assert caught.value.exit_code == 3
        assert "9.1" in str(caught.value.hint)


def test_columns_of_an_older_or_a_later_writer(tmp_path: Path) -> None:
    """New nullable columns don't raise the version: absent is null, unknown is left alone."""
    part = synthetic.write(tmp_path / "one", synthetic.columns(Workload(spans=3)))[0]
    table = pq.read_table(part)
    changed = table.drop_columns(["cgroup"]).append_column("colour", pa.array(["red"] * 3))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), part)
    frame = load(part).frame
    assert frame["cgroup"].isna().all()
    assert "colour" not in frame
    pq.write_table(table.drop_columns(["dur"]), part)
    with pytest.raises(UnreadableTrace, match="column dur is missing"):
        load(part)


@pytest.mark.parametrize(
    "raw", [b"{", b"[]", b'{"version": 1}', b'{"version": "1"}', b"\xff", b'{"version": null}']
)
def test_broken_metadata_is_damage(tmp_path: Path, raw: bytes) -> None:
    part = synthetic.write(tmp_path / "one", synthetic.columns(Workload(spans=3)))[0]
    pq.write_table(pq.read_table(part).replace_schema_metadata({METADATA_KEY: raw}), part)
    with pytest.raises(UnreadableTrace):
        load(part)


def test_metadata_of_the_wrong_shape_is_damage(tmp_path: Path) -> None:
    part = synthetic.write(tmp_path / "one", synthetic.columns(Workload(spans=3)))[0]
    wrong = synthetic.metadata(3, mounts=["not", "a", "mapping"])
    pq.write_table(pq.read_table(part).cast(schema_with(wrong)), part)
    with pytest.raises(UnreadableTrace, match="wrong type"):
        load(part)


def test_a_partitioned_data_set_names_its_hosts_and_runs(tmp_path: Path) -> None:
    for host, run, spans in (("web1", 1, 5), ("web1", 2, 3), ("db", 1, 7)):
        directory = tmp_path / f"host={host}" / f"run={run}"
        synthetic.write(directory, synthetic.columns(Workload(spans=spans)))
    synthetic.write(tmp_path / "run=9", synthetic.columns(Workload(spans=2)))
    trace = load(tmp_path)
    assert {run.name: (run.host, run.spans) for run in trace.runs} == {
        "host=web1/run=1": ("web1", 5),
        "host=web1/run=2": ("web1", 3),
        "host=db/run=1": ("db", 7),
        f"{tmp_path.name}/run=9": ("synthetic", 2),
    }
    counts = trace.frame["host"].value_counts().to_dict()
    assert counts == {"web1": 8, "db": 7, "synthetic": 2}
    assert len(trace.run("host=web1/run=2")) == 3
    assert list(load(tmp_path, columns=["host", "dur"]).frame) == ["run", "host", "dur"]


def test_batches_are_the_same_spans_part_by_part(tmp_path: Path) -> None:
    parts = synthetic.write(tmp_path / "a", synthetic.columns(Workload(spans=301)), parts=3)
    synthetic.write(tmp_path / "b", synthetic.columns(Workload(spans=7, seed=2)))
    Path(parts[2]).write_bytes(b"gone")
    whole, pieces = load(tmp_path), list(batches(tmp_path))
    assert [len(piece.frame) for piece in pieces] == [100, 100, 7]
    assert [piece.runs[0].name for piece in pieces] == ["a", "a", "b"]
    assert [one.path for piece in pieces for one in piece.damage] == [parts[2]]
    joined = pd.concat([piece.frame for piece in pieces])
    for name in whole.frame:
        assert joined[name].astype(object).tolist() == whole.frame[name].astype(object).tolist()


def test_more_words_than_a_byte_can_number(tmp_path: Path) -> None:
    """Codes grow from one byte to two between parts, and null stays null."""
    made = synthetic.columns(Workload(spans=600))
    made["comm"] = [f"worker-{number // 2}" for number in range(600)]
    made["cgroup"] = [None if number % 3 else f"/{number}" for number in range(600)]
    synthetic.write(tmp_path / "one", made, parts=5)
    frame = load(tmp_path / "one").frame
    assert frame["comm"].tolist() == made["comm"]
    assert [None if pd.isna(one) else one for one in frame["cgroup"]] == made["cgroup"]


def test_a_column_that_begins_to_tell_in_a_later_part(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=6))
    made["bytes"] = pa.array([None, None, None, None, 7, None], pa.int64())
    made["layers"] = pa.nulls(6, pa.int64())
    synthetic.write(tmp_path / "one", made, parts=3)
    frame = load(tmp_path / "one").frame
    assert [None if pd.isna(one) else one for one in frame["bytes"]] == [None] * 4 + [7, None]
    assert frame["layers"].isna().all()
    assert str(frame["layers"].dtype) == "Int64"
