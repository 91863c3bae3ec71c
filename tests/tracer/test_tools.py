"""``trace show``, ``hist``, ``merge`` and ``export`` on traces whose content is known."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.load import load
from tests.analysis import synthetic
from tests.running import fallthru
from tracer import merge
from tracer.selection import Selection
from tracer.tracefile import TraceWriter

SPANS = 997


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("traces") / "one"
    made = synthetic.columns(synthetic.Workload(spans=SPANS))
    made["errno"] = [28 if number % 101 == 0 else 0 for number in range(SPANS)]
    synthetic.write(directory, made, parts=3)
    return directory


@pytest.fixture(scope="module")
def frame(trace: Path) -> pd.DataFrame:
    return pd.read_parquet(trace)


def answer(*arguments: str | Path, code: int = 0) -> Any:
    done = fallthru("trace", *arguments)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else None


# show


def test_show_selects_sorts_and_limits(trace: Path, frame: pd.DataFrame) -> None:
    shown = answer(
        "show", trace, "--comm", "sed", "--min-duration", "100us", "--sort", "-dur",
        "--limit", "7", "--json",
    )  # fmt: skip
    wanted = frame[(frame["comm"] == "sed") & (frame["dur"] >= pd.Timedelta("100us"))]
    wanted = wanted.sort_values("dur", ascending=False).head(7)
    assert [row["path"] for row in shown["spans"]] == wanted["path"].tolist()
    assert [row["dur"] for row in shown["spans"]] == wanted["dur"].astype("int64").tolist()
    failed = answer("show", trace, "--failed", "--json")["spans"]
    assert len(failed) == (frame["errno"] == 28).sum() == 10


def test_show_a_column_that_is_none(trace: Path) -> None:
    done = fallthru("trace", "show", trace, "--sort", "weight")
    assert done.returncode == 2
    assert "errno" in done.stderr


# hist


@pytest.mark.parametrize("what", ["dur", "sync", "bytes", "size"])
def test_hist_counts_every_span_once(trace: Path, frame: pd.DataFrame, what: str) -> None:
    (one,) = answer("hist", trace, "--of", what, "--fine", "4", "--json")["histograms"]
    values = frame[what].astype("int64")
    assert (one["count"], one["sum"]) == (SPANS, values.sum())
    assert (one["min"], one["max"]) == (values.min(), values.max())
    for low, high, count in one["buckets"]:
        assert count == ((values >= low) & (values < high)).sum()
    assert one["p99"] == pytest.approx(np.quantile(values, 0.99, method="inverted_cdf"), rel=1 / 16)


def test_hist_by_a_column(trace: Path, frame: pd.DataFrame) -> None:
    made = answer("hist", trace, "--by", "op", "--top", "2", "--json")["histograms"]
    sums = frame.groupby("op", observed=True)["dur"].sum().astype("int64").sort_values()[::-1]
    assert [(one["value"], one["sum"]) for one in made] == list(sums.head(2).items())


def test_hist_of_what_is_unknown(tmp_path: Path) -> None:
    work = synthetic.Workload(spans=211, rest={"null_sync": True})
    made = synthetic.columns(work)
    synthetic.write(tmp_path / "t", made)
    told = answer("hist", tmp_path / "t", "--of", "sync", "--json")
    assert told["unknown"] == made["sync"].null_count > 0
    assert told["histograms"][0]["count"] == 211 - told["unknown"]


def test_hist_as_text(trace: Path) -> None:
    lines = fallthru("trace", "hist", trace).stdout.splitlines()
    bars = [line for line in lines if " – " in line]
    counts = [re.search(r" – +\S+ \S+ +([\d,]+)", line) for line in bars]
    assert sum(int(count[1].replace(",", "")) for count in counts if count) == SPANS
    assert max(len(line) for line in lines) <= 80
    assert max(line.count("█") for line in bars) == 40


def test_hist_of_what_the_kernel_kept(tmp_path: Path) -> None:
    """By kind, outcome and layers; of two unions together, or of one."""
    from tracer.histogram import Histogram

    counted = {"/a": [3_000, 5_000, 5_001], "/b": [70_000] * 7}
    latencies = []
    for mount, values in counted.items():
        one = Histogram()
        one.add(values)
        latencies.append(
            {"mount": mount, "kind": "lookup", "outcome": "bottom", "layers": 2,
             "sum_ns": sum(values), "count": len(values),
             "buckets": {str(index): count for index, count in one.counts.items()}}
        )  # fmt: skip
    latencies.append({**latencies[0], "kind": "readdir", "outcome": None, "layers": 0})
    changes = {"latencies": latencies}
    synthetic.write(tmp_path / "t", synthetic.empty(), changes=changes)
    lookups, readdirs = answer("hist", tmp_path / "t", "--kept", "--json")["histograms"]
    assert (lookups["value"], readdirs["value"]) == ("lookup bottom (2 layers)", "readdir")
    assert (lookups["count"], lookups["sum"]) == (10, 13_001 + 490_000)
    assert sum(count for *_, count in lookups["buckets"]) == 10
    (one_union,) = answer(
        "hist", tmp_path / "t", "--kept", "--kind", "lookup", "--mount", "/b", "--json"
    )["histograms"]
    assert one_union["count"] == 7
    assert 70_000 <= one_union["p50"] <= 70_000 * 17 // 16


# merge


def rows(directory: Path) -> Counter[tuple[Any, ...]]:
    frame = pd.read_parquet(directory)
    return Counter(map(tuple, frame.astype(object).where(frame.notna(), None).to_numpy().tolist()))


def changed(directory: Path, seed: int, spans: int, **changes: Any) -> Path:
    made = synthetic.columns(synthetic.Workload(spans=spans, seed=seed))
    synthetic.write(directory, made, parts=2, changes=changes)
    return directory


def test_merge(trace: Path, tmp_path: Path) -> None:
    """Rows of both, in order; what was lost adds up; what is merged again is not doubled."""
    start = synthetic.START_NS + 10**9
    other = changed(tmp_path / "b", 5, 499, started_ns=start, lost=3, unmatched=2)
    told = answer("merge", trace, other, "-o", tmp_path / "c", "--json")
    assert told == {"spans": SPANS + 499, "twice": 0, "runs": 2}
    assert rows(tmp_path / "c") == rows(trace) + rows(other)
    merged = load(tmp_path / "c")
    assert merged.damage == ()
    assert merged.frame["ts"].is_monotonic_increasing
    metadata = merged.runs[0].metadata
    assert (metadata.lost, metadata.unmatched, metadata.spans) == (3, 2, SPANS + 499)
    assert [one["started_ns"] for one in metadata.runs] == [synthetic.START_NS, start]
    again = answer("merge", tmp_path / "c", other, trace, "-o", tmp_path / "d", "--json")
    assert again == {"spans": SPANS + 499, "twice": SPANS + 499, "runs": 2}
    assert rows(tmp_path / "d") == rows(tmp_path / "c")
    assert load(tmp_path / "d").runs[0].metadata.lost == 3


def test_merge_by_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of few rows hold the same, in order; numbers stay apart, twins are never parted."""
    monkeypatch.setattr(merge, "_PART_ROWS", 97)
    for number, name in enumerate("ab"):
        made = synthetic.columns(synthetic.Workload(spans=499, seed=number))
        made["id"] = range(1, 500)
        changes = {"started_ns": synthetic.START_NS + number}
        synthetic.write(tmp_path / name, made, parts=3, changes=changes)
    shutil.copytree(tmp_path / "a", tmp_path / "twin")
    for others, spans, twice in (("b", 998, 0), ("twin", 499, 499)):
        where = tmp_path / f"a and {others}"
        found = merge.survey([str(tmp_path / "a"), str(tmp_path / others)], Selection())
        metadata, again = merge.merge(found, TraceWriter(str(where)))
        assert (metadata.spans, again) == (spans, twice)
        merged = load(where)
        assert (merged.damage, merged.runs[0].metadata.spans) == ((), spans)
        assert merged.frame["ts"].is_monotonic_increasing
        assert sorted(merged.frame["id"]) == [*range(1, 500), *range(501, 2 + spans)]
        assert len(list(where.iterdir())) == -(-2 * 499 // 97)
        expected = Counter(load(tmp_path / "a").frame["path"])
        if others == "b":
            expected += Counter(load(tmp_path / "b").frame["path"])
        assert Counter(merged.frame["path"]) == expected


def test_merge_of_one_trace_selects(trace: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    answer("merge", trace, "-o", tmp_path / "m", "--comm", "rsync")
    assert sorted(os.listdir(tmp_path / "m")) == ["part-00000.parquet"]
    made = load(tmp_path / "m")
    assert made.damage == ()
    assert len(made.frame) == (frame["comm"] == "rsync").sum() > 0


def test_merge_of_different_machines_is_refused(trace: Path, tmp_path: Path) -> None:
    other = changed(tmp_path / "b", 5, 11, hostname="elsewhere")
    done = fallthru("trace", "merge", trace, other, "-o", tmp_path / "c")
    assert done.returncode == 2
    assert "elsewhere, synthetic" in done.stderr
    assert not (tmp_path / "c").exists()


def test_merge_never_writes_into_a_trace(trace: Path) -> None:
    before = sorted(os.listdir(trace))
    assert fallthru("trace", "merge", trace, "-o", trace).returncode == 4
    assert sorted(os.listdir(trace)) == before


def test_merge_leaves_out_what_is_damaged(trace: Path, tmp_path: Path) -> None:
    shutil.copytree(trace, tmp_path / "t")
    (tmp_path / "t" / "part-00001.parquet").write_bytes(b"PAR1")
    done = fallthru("trace", "merge", tmp_path / "t", "-o", tmp_path / "m")
    assert done.returncode == 1
    assert "part-00001.parquet" in done.stderr
    assert len(load(tmp_path / "m").frame) == SPANS - len(
        pd.read_parquet(trace / "part-00001.parquet")
    )


# export: checked against the rules of the format, by code that knows nothing of ours


def check_trace_events(made: dict[str, Any]) -> None:
    """The rules of "Trace Event Format" that importers insist on."""
    slices: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    arrows: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for event in made["traceEvents"]:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
        elif event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            start = round(event["ts"] * 1000)
            end = start + round(event["dur"] * 1000)
            slices[event["pid"], event["tid"]].append((start, -end))
        elif event["ph"] in "sf":
            arrows[event["cat"], event["id"]].append(event)
        else:
            raise AssertionError(event["ph"])
    for of_thread in slices.values():
        # Slices of a thread form a stack: each ends before the one around it does.
        open_until: list[float] = []
        for start, minus_end in sorted(of_thread):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or -minus_end <= open_until[-1]
            open_until.append(-minus_end)
    for ends in arrows.values():
        assert [event["ph"] for event in ends] == ["s", "f"]
        assert ends[0]["ts"] <= ends[1]["ts"]
        for event in ends:  # an arrow holds on to a slice of its thread
            at = round(event["ts"] * 1000)
            around = slices[event["pid"], event["tid"]]
            assert any(start <= at <= -minus_end for start, minus_end in around)


def one_thread_each(made: dict[str, Any]) -> None:
    """Made-up spans of one thread overlap, which real ones cannot."""
    made["tid"] = np.arange(len(made["ts"]), dtype="u4") + 5000


def test_perfetto(tmp_path: Path) -> None:
    made = synthetic.columns(synthetic.Workload(spans=SPANS))
    one_thread_each(made)
    synthetic.write(tmp_path / "t", made)
    assert answer("export", tmp_path / "t", "--format", "perfetto", "-o", tmp_path / "o") is None
    document = json.loads((tmp_path / "o").read_text())
    check_trace_events(document)
    events = document["traceEvents"]
    spans = [event for event in events if event.get("cat") == "copyup"]
    assert len(spans) == SPANS
    origin = document["otherData"]["origin_ns"]
    assert sorted(origin + round(event["ts"] * 1000) for event in spans) == sorted(made["ts"])
    phases = Counter[str]()
    for event in events:
        if event.get("cat") == "phase":
            phases[event["name"]] += round(event["dur"] * 1000)
    for phase in ("create", "data", "sync", "meta", "link"):
        assert phases[phase] == sum(made[phase].to_pylist())


def test_perfetto_arrows(tmp_path: Path) -> None:
    """Two directories that went up for a file's sake point at it; others' do not."""
    made = synthetic.columns(synthetic.Workload(spans=6))
    made["tid"] = [7, 7, 7, 8, 7, 7]
    made["path"] = ["/a", "/a/b", "/a/b/f", "/a/b/g", "/c", "/d/f"]
    made["ftype"] = ["dir", "dir", "file", "file", "dir", "file"]
    made["op"] = ["openat"] * 6
    synthetic.write(tmp_path / "t", made)
    done = answer("export", tmp_path / "t", "--format", "perfetto")
    check_trace_events(done)
    events = done["traceEvents"]
    starts = {round(event["ts"] * 1000) for event in events if event["ph"] == "s"}
    ends = [round(event["ts"] * 1000) for event in events if event["ph"] == "f"]
    times = [int(ts) - done["otherData"]["origin_ns"] for ts in made["ts"]]
    assert starts == set(times[:2])
    assert ends == [times[2]] * 2


def test_perfetto_takes_the_arrows_that_the_backend_told(tmp_path: Path) -> None:
    """By the numbers of the spans, whatever stands between them."""
    made = synthetic.columns(synthetic.Workload(spans=5))
    made["pid"] = [7] * 5
    made["tid"] = [7, 8, 7, 9, 7]
    made["ftype"] = ["dir", "file", "dir", "file", "file"]
    made["path"] = ["/a", "/x", "/a/b", "/y", "/a/b/f"]
    made["id"], made["parent"] = [1, 2, 3, 4, 5], [5, None, 5, None, None]
    synthetic.write(tmp_path / "t", made)
    done = answer("export", tmp_path / "t", "--format", "perfetto")
    check_trace_events(done)
    times = [int(ts) - done["otherData"]["origin_ns"] for ts in made["ts"]]
    arrows = [(e["ph"], round(e["ts"] * 1000)) for e in done["traceEvents"] if e["ph"] in "sf"]
    assert sorted(arrows) == sorted(
        [("s", times[0]), ("f", times[4]), ("s", times[2]), ("f", times[4])]
    )


def test_folded(trace: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Stacks add up to the whole, whatever they weigh."""
    for weight, total in (
        ("time", frame["dur"].astype("int64").sum()),
        ("bytes", frame["bytes"].sum()),
        ("count", SPANS),
    ):
        done = fallthru("trace", "export", trace, "--format", "folded", "--weight", weight)
        lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
        assert sum(int(value) for *_, value in lines) == total
        stacks = [stack for stack, *_ in lines]
        assert stacks == sorted(set(stacks), key=lambda stack: stack.split(";"))
        assert all(
            stack.startswith(tuple(f"{c};" for c in synthetic.PROCESSES)) for stack in stacks
        )
    sed = [stack for stack, *_ in lines if stack.startswith("sed;openat;/mnt;/usr;/share;")]
    assert sed


def test_names_cannot_break_a_stack(tmp_path: Path) -> None:
    made = synthetic.columns(synthetic.Workload(spans=1))
    made["path"], made["comm"] = ["/a;b c/d"], ["x;y"]
    synthetic.write(tmp_path / "t", made)
    done = fallthru("trace", "export", tmp_path / "t", "--format", "folded", "--weight", "count")
    assert done.stdout.split(";")[0] == "x,y"
    assert done.stdout.endswith(";/a,b c;/d 1\n")


def test_export_writes_whole_files_only(trace: Path, tmp_path: Path) -> None:
    for target, code in (("no/such", 2), (".", 2)):
        made = fallthru("trace", "export", trace, "--format", "folded", "-o", tmp_path / target)
        assert made.returncode == code
    assert os.listdir(tmp_path) == []
