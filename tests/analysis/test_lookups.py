"""Lookups and listings in reports, and advice about priming, from histograms of known workloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis import lookupplots, lookups, priming, tables
from analysis.advise import advise
from analysis.load import UnreadableTrace, load, load_metadata
from tests.analysis import synthetic
from tests.analysis.commands import Fallthru
from tests.analysis.synthetic import MOUNT, Workload
from tracer.histogram import Histogram

#: What a lookup costs (ns): to begin with, by whether the name is there, and for each layer.  With
#: two and three layers these are the greatest values of their buckets, so nothing is rounded.
MISSING, THERE, EACH = 3_071, 4_607, 1_024
MOUNTS = {
    MOUNT: {
        "options": "rw,lowerdir+=/srv/b1,lowerdir+=/srv/b2,upperdir=/srv/top,workdir=/srv/w",
        "top": "ext4",
        "bottoms": ["ext4", "ext4"],
    }
}


def row(kind: str, outcome: str, layers: int, times: list[int]) -> dict[str, Any]:
    """As a trace has it, counted by the tracer's own histogram."""
    counts = Histogram()
    counts.add(times)
    return {
        "mount": MOUNT,
        "kind": kind,
        "outcome": outcome,
        "layers": layers,
        "count": len(times),
        "sum_ns": sum(times),
        "buckets": {str(bucket): count for bucket, count in counts.counts.items()},
    }


def looked_up(outcome: str, layers: int, count: int) -> dict[str, Any]:
    """``count`` lookups that take what their layers cost, exactly."""
    fixed = THERE if outcome == "bottom" else MISSING
    return row("lookup", outcome, layers, [fixed + layers * EACH] * count)


def recorded(directory: Path, latencies: list[dict[str, Any]], **changes: Any) -> Path:
    made = synthetic.columns(Workload(spans=1))
    made.update(dur=[1000], op=["unlink"], how=["none"], bytes=[0], data=[0], sync=[0])
    synthetic.write(directory, made, changes={"mounts": MOUNTS, "latencies": latencies, **changes})
    return directory


KNOWN = [
    looked_up("absent", 3, 1009),
    looked_up("absent", 2, 211),
    looked_up("bottom", 2, 503),
    looked_up("bottom", 3, 307),
    row("readdir", "merged", 3, [400_000] * 53),
    row("readdir", "cached", 0, [20_000] * 53),
]


def test_the_costs_of_layers_are_found(tmp_path: Path) -> None:
    (run,) = load_metadata(recorded(tmp_path / "one", KNOWN))
    found = priming.costs(lookups.counted(run.metadata.latencies))
    assert found is not None
    assert found.fitted
    assert found.each == pytest.approx(EACH, rel=1e-9)
    assert found.missing == pytest.approx(MISSING, rel=1e-9)
    # With one number of layers alone nothing can be fitted: each is taken to cost alike.
    alone = priming.costs(lookups.counted([looked_up("absent", 3, 100)]))
    assert alone == priming.Costs(0.0, (MISSING + 3 * EACH) / 3, fitted=False)
    assert priming.costs(lookups.counted([looked_up("bottom", 3, 100)])) is None


def test_priming_saves_the_layers_and_the_merges(tmp_path: Path) -> None:
    found = {one.name: one for one in advise(load(recorded(tmp_path / "one", KNOWN)))}
    merges = 53 * 400_000 / 3  # each of three layers took a third
    index, prime = found["index"], found["prime"]
    # Over an index two layers are asked, the top and the index; primed it is one.  Where only
    # the bottoms were asked the top has no such directory, and the index is asked alone.
    assert index.time.value == pytest.approx((1009 + 211) * EACH + merges)
    assert index.spans == 1009 + 211 + 53
    below = 503 * (THERE + 2 * EACH) + 307 * (THERE + 3 * EACH)
    negative = (1009 * 2 + 211) * EACH
    assert prime.time.value == pytest.approx(negative + 2 * merges - below / 2)
    assert prime.spans == 1009 + 211 + 53
    for one in (index, prime):
        assert one.confidence == "medium"
        assert one.time.low < one.time.value < one.time.high
        assert one.bytes == 0
        assert one.mount == MOUNT
    assert index.command == (
        "fallthru prime --shared --bottom /srv/b1 --bottom /srv/b2 -o INDEX && "
        f"fallthru umount {MOUNT} && fallthru mount --index INDEX --bottom /srv/b1 "
        f"--bottom /srv/b2 --top NEW-TOP {MOUNT}"
    )
    assert "fallthru prime --recursive --top /srv/top --bottom /srv/b1" in prime.command


def test_the_prediction_came_true() -> None:
    """Traces of a guest (Linux 6.12, fentry, ten bottoms; scripts/bench lookups tells how): what
    the merged union's says that priming saves, against what it took primed.  Of medians: under
    emulation a few lookups wait a hundred times as long as others."""
    traces = {}
    for line in (Path(__file__).parent / "priming.jsonl").read_text().splitlines():
        one = json.loads(line)
        traces[one["case"]] = lookups.counted(one["metadata"]["latencies"])

    def typical(case: str, kind: str, *outcomes: str) -> float:
        mine = [one for one in traces[case] if one.kind == kind and one.outcome in outcomes]
        return sum(one.count * one.times.quantile(0.5) for one in mine)

    cost = priming.costs(traces["merged"])
    assert cost is not None
    assert cost.fitted
    absent, primed = typical("merged", "lookup", "absent"), typical("primed", "lookup", "opaque")
    predicted = absent * (1 - cost.of_missing(1) / cost.of_missing(10))
    assert predicted == pytest.approx(absent - primed, rel=0.3)
    listings = [typical("merged", "readdir", "merged"), typical("primed", "readdir", "plain")]
    assert listings[0] * 9 / 10 == pytest.approx(listings[0] - listings[1], rel=0.3)
    stubs, names = typical("primed", "lookup", "top"), typical("merged", "lookup", "bottom")
    assert 1.5 * names == pytest.approx(stubs, rel=0.3)


def test_no_advice_where_there_is_nothing_to_save(tmp_path: Path) -> None:
    names = ("index", "prime")
    # Everything ends in the top, and every list is one layer's own: it is primed.
    primed = [looked_up("opaque", 1, 1009), row("readdir", "plain", 1, [20_000] * 53)]
    # Names that are there are looked up, none is missing: a stub would only take longer.
    there = [looked_up("bottom", 2, 1009), looked_up("bottom", 3, 503)]
    for number, latencies in enumerate((primed, there, [])):
        trace = load(recorded(tmp_path / str(number), latencies))
        assert not [one for one in advise(trace) if one.name in names]
    # Little, next to what copyup takes.
    little = [looked_up("absent", 3, 2)]
    made = synthetic.columns(Workload(spans=101))
    synthetic.write(tmp_path / "busy", made, changes={"mounts": MOUNTS, "latencies": little})
    assert not [one for one in advise(load(tmp_path / "busy")) if one.name in names]
    # It has an index already.
    options = {MOUNT: {**MOUNTS[MOUNT], "options": "lowerdir+=/m,datadir+=/b1,upperdir=/t"}}
    trace = load(recorded(tmp_path / "indexed", KNOWN, mounts=options))
    assert not [one for one in advise(trace) if one.name in names]


def test_the_command_advises_or_says_that_it_cannot_see(tmp_path: Path, fallthru: Fallthru) -> None:
    done = fallthru("advise", recorded(tmp_path / "one", KNOWN))
    assert done.returncode == 0
    assert "index: mount over a shared index" in done.stdout
    assert "of the time in copyup, lookups and listings" in done.stdout
    assert "in 1,273 lookups and listings" in done.stdout
    assert "nothing about priming" not in done.stdout
    blind = recorded(tmp_path / "blind", [], unseen=["lookup", "readdir"])
    done = fallthru("advise", blind)
    assert "nothing about priming: lookups and listings are not seen in blind" in done.stdout
    data = json.loads(fallthru("advise", tmp_path / "one", blind, "--json").stdout)
    first = next(one for one in data["advice"] if one["advice"] == "index")
    assert first["lookups_and_listings"] == 1273
    assert data["unseen"] == {"one": [], "blind": ["lookup", "readdir"]}


def test_a_report_shows_outcomes_by_layers(tmp_path: Path, fallthru: Fallthru) -> None:
    directory = recorded(tmp_path / "one", KNOWN)
    said = fallthru("report", directory).stdout
    line = next(
        one.split() for one in said.splitlines() if one.startswith("  lookup") and " 3 " in one
    )
    assert line[:4] == ["lookup", "bottom", "3", "307"]
    fallthru("report", directory, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Lookup outcomes by layers" in page
    assert '<td class="">1,009</td>' in page
    blind = recorded(tmp_path / "blind", [], unseen=["lookup", "readdir"])
    fallthru("report", blind, "-o", tmp_path / "page.html")
    assert "the backend tracepoints cannot see them" in (tmp_path / "page.html").read_text()


def test_the_picture_has_a_column_for_each_outcome() -> None:
    drawn = lookupplots.outcomes(lookups.counted(KNOWN))
    titles = [axes.get_title(loc="left") for axes in drawn.axes]
    assert titles[:2] == ["bottom  810", "absent  1,220"]  # listings are not in it
    counts = [[round(bar.get_height()) for bar in axes.patches] for axes in drawn.axes[:2]]  # type: ignore[attr-defined]
    assert counts == [[503, 307], [211, 1009]]
    nothing = lookupplots.outcomes([])
    assert nothing.axes[0].texts[0].get_text() == "no lookups were counted"


def test_runs_add_up_exactly(tmp_path: Path) -> None:
    halves = [looked_up("absent", 3, 500), looked_up("absent", 3, 509)]
    runs = load_metadata([recorded(tmp_path / str(at), [half]) for at, half in enumerate(halves)])
    (whole,) = lookups.together(runs)
    assert whole.count == 1009
    assert whole.times.sum == halves[0]["sum_ns"] + halves[1]["sum_ns"]
    frame = lookups.table([whole])
    assert frame["mean"].dt.total_seconds()[0] == pytest.approx(whole.mean / 1e9, abs=1e-9)
    assert frame["p50"][0].value == MISSING + 3 * EACH
    assert tables.lookups([whole]).rows[0][:4] == ("lookup", "absent", "3", "1,009")


@pytest.mark.parametrize(
    "wrong",
    [
        "text",
        {"kind": "lookup"},
        {**KNOWN[0], "buckets": {"x": 1}},
        {**KNOWN[0], "buckets": {"3": -1}},
        {**KNOWN[0], "buckets": {"99999": 1}},
        {**KNOWN[0], "layers": "2"},
        {**KNOWN[0], "kind": None},
    ],
)
def test_a_histogram_that_is_none_is_damage(tmp_path: Path, wrong: object) -> None:
    made = synthetic.columns(Workload(spans=3))
    synthetic.write(tmp_path / "one", made, changes={"latencies": [wrong]})
    with pytest.raises(UnreadableTrace, match="wrong type"):
        load(tmp_path / "one")
