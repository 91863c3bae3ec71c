"""Fleets: on Dask and without, what comes out is what one large frame would say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pandas as pd
import pytest

import overlay
from analysis import compare, fleet, fleetplots, regress, stats, style
from analysis.load import load
from analysis.sketch import VALUE_ERROR
from overlay.errors import EnvironmentLacks, UsageError
from tests.analysis import synthetic
from tests.analysis.commands import Fallthru
from tests.analysis.synthetic import Workload
from tests.processes import orphans_reaped
from tests.running import fallthru as command
from tracer.parts import NewerTrace, UnreadableTrace
from tracer.schema import SCHEMA_VERSION

KEYS = ["host", "run", "process", "size", "directory", "how", "pid", ("host", "op")]
HOSTS = {"web1": 1009, "web2": 503, "db": 211}


#: A cluster as its administrator would start it, until its standard input ends.
CLUSTER = """
import sys, distributed
def main():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as cluster:
        cluster.wait_for_workers(2)
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two workers, each a process."""
    command = [sys.executable, "-c", CLUSTER]
    with (
        orphans_reaped(),
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as running,
    ):
        assert running.stdout is not None
        assert running.stdin is not None
        yield running.stdout.readline().strip()
        running.stdin.close()
        assert running.wait() == 0


@dataclass(frozen=True)
class Hosts:
    path: Path

    def of(self, run: int) -> str:
        return f"{self.path}/*/run={run}"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    """Three hosts with two runs each, the second with metadata-only copyup, in several parts."""
    path = tmp_path_factory.mktemp("fleet")
    for number, (host, spans) in enumerate(HOSTS.items()):
        for run in (1, 2):
            work = Workload(spans, seed=number, metacopy=run == 2, rest={"null_sync": True})
            made = synthetic.columns(work)
            made["path"][3] = None
            made["cgroup"] = [None if at % 3 else f"/{host}" for at in range(spans)]
            made["errno"][7] = 30
            synthetic.write(path / f"host={host}" / f"run={run}", made, parts=number + 1)
    return Hosts(path)


def same_table(found: pd.DataFrame, exact: pd.DataFrame) -> None:
    """Percentiles within the stated error, all else exactly."""
    exact = exact.copy()
    if not isinstance(exact.index, pd.MultiIndex):
        exact.index = pd.Index(exact.index.astype(object), name=exact.index.name)
        found = found.set_axis(pd.Index(found.index.astype(object), name=found.index.name))
    assert set(found.index) == set(exact.index)
    found = found.reindex(exact.index)
    assert list(found.columns) == list(exact.columns)
    for name in exact:
        mine, theirs = found[name], exact[name]
        if str(name).startswith("p"):
            assert mine.isna().tolist() == theirs.isna().tolist()
            mine, theirs = (one.dropna().astype("int64") for one in (mine, theirs))
            np.testing.assert_allclose(mine, theirs, rtol=VALUE_ERROR, atol=1)
        else:
            pd.testing.assert_series_equal(mine, theirs, check_index=False)


@pytest.mark.parametrize("engine", ["pandas", "dask"])
def test_a_survey_says_what_one_frame_says(hosts: Hosts, cluster: str, engine: str) -> None:
    scheduler = cluster if engine == "dask" else None
    found = fleet.survey(hosts.path, KEYS, depth=2, engine=engine, scheduler=scheduler)
    frame = load(hosts.path).frame
    for key in KEYS:
        same_table(found.summarise(key), stats.summarise(frame, key, depth=2))
    same_table(found.phases(), stats.phases(frame))
    whole, exact = found.overview(), stats.overview(frame)
    assert "processes" not in whole
    for name, value in whole.items():
        if name in stats.PERCENTILES:
            assert abs(value / exact[name] - 1) <= VALUE_ERROR
        else:
            assert value == exact[name], name
    assert {run.name: (run.host, run.spans, run.parts) for run in found.runs} == {
        f"host={host}/run={run}": (host, spans, number + 1)
        for number, (host, spans) in enumerate(HOSTS.items())
        for run in (1, 2)
    }
    assert found.damage == ()


def test_both_engines_say_the_same_to_the_last_bit(hosts: Hosts, cluster: str) -> None:
    here = fleet.survey(hosts.path, KEYS)
    there = fleet.survey(hosts.path, KEYS, engine="dask", scheduler=cluster)
    for key in (None, *KEYS):
        one, other = here.tally(key), there.tally(key)
        for name in ("cells", "times", "counts", "sums", "least", "greatest"):
            assert getattr(one.durations, name).tolist() == getattr(other.durations, name).tolist()
    assert here.files.hashes.tolist() == there.files.hashes.tolist()


def test_two_surveys_compare_as_two_frames_do(hosts: Hosts, cluster: str) -> None:
    before, after = (
        fleet.survey(hosts.of(run), ["op", "host"], engine="dask", scheduler=cluster)
        for run in (1, 2)
    )
    frames = [load(hosts.of(run)).frame for run in (1, 2)]
    for key in (None, "op", "host"):
        pd.testing.assert_frame_equal(
            fleet.compare(before, after, key),
            compare.compare(frames[0], frames[1], key),
            check_index_type=False,
            check_categorical=False,
        )
        found = fleet.ratios(before, after, key)
        exact = regress.ratios(frames[0], frames[1], key).reindex(found.index)
        # Two medians, each within the error; and the whole of the exact interval.
        np.testing.assert_allclose(found["ratio"], exact["ratio"], rtol=2.1 * VALUE_ERROR)
        assert (found["ratio_low"] <= exact["ratio_low"]).all()
        assert (found["ratio_high"] >= exact["ratio_high"]).all()
        np.testing.assert_allclose(found["ratio_low"], exact["ratio_low"], rtol=10 * VALUE_ERROR)
        np.testing.assert_allclose(found["ratio_high"], exact["ratio_high"], rtol=10 * VALUE_ERROR)
    assert fleet.overlap(before, after) == compare.overlap(frames[0], frames[1])
    # The second run gave chown's data up, so the first one is what got slower.
    worse = {(one.group, one.what) for one in fleet.past(after, before, 1.1)}
    assert worse == {(one.group, one.what) for one in regress.past(frames[1], frames[0], 1.1)}
    assert ("fchownat", "typical time") in worse
    assert ("all", "bytes") in worse


def test_only_the_kinds_asked_for(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=30))
    made["kind"] = ["copyup", "lookup", "readdir"] * 10
    synthetic.write(tmp_path / "one", made)
    assert fleet.survey(tmp_path).overview()["spans"] == 10
    every = fleet.survey(tmp_path, "kind", kinds=None)
    assert every.summarise("kind")["spans"].to_dict() == dict.fromkeys(
        ("copyup", "lookup", "readdir"), 10
    )
    nothing = fleet.survey(tmp_path, ["kind", ("host", "op")], kinds=("open",))
    assert nothing.overview()["spans"] == 0
    assert nothing.overview()["p50"] is None
    assert nothing.summarise("kind").empty


def test_what_was_not_asked_is_refused(hosts: Hosts) -> None:
    with pytest.raises(UsageError, match="no such group: colour"):
        fleet.survey(hosts.path, ["colour"])
    with pytest.raises(UsageError, match="no groups by op"):
        fleet.survey(hosts.path).summarise("op")
    with pytest.raises(UsageError, match="no engine spark"):
        fleet.survey(hosts.path, engine="spark")
    with pytest.raises(UsageError, match="scheduler"):
        fleet.survey(hosts.path, scheduler="tcp://127.0.0.1:1")


def test_damage_costs_only_itself_wherever_it_is_found(tmp_path: Path, cluster: str) -> None:
    made = synthetic.columns(Workload(spans=300))
    broken = synthetic.write(tmp_path / "host=a" / "run=1", made, parts=3)
    gone = synthetic.write(tmp_path / "host=b" / "run=1", made, parts=3)
    Path(broken[1]).write_bytes(b"x")
    Path(gone[2]).unlink()
    found = fleet.survey(tmp_path, "host", engine="dask", scheduler=cluster)
    assert found.summarise("host")["spans"].to_dict() == {"a": 200, "b": 200}
    exact = load(tmp_path)
    assert found.damage == exact.damage
    assert [one.path for one in found.damage] == [broken[1], str(Path(gone[2]).parent)]
    Path(broken[0]).write_bytes(b"x")
    Path(broken[2]).write_bytes(b"x")
    with pytest.raises(UnreadableTrace):
        fleet.survey(tmp_path, engine="dask", scheduler=cluster)
    changes = {"version": SCHEMA_VERSION + 1}
    synthetic.write(tmp_path / "host=c", made, changes=changes)
    with pytest.raises(NewerTrace) as caught:
        fleet.survey(tmp_path, engine="dask", scheduler=cluster)
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_processes_of_this_machine_need_no_cluster(hosts: Hosts) -> None:
    with orphans_reaped():
        done = command("fleet", hosts.path, "--engine", "dask", "--json", "--by", "host")
    assert (done.returncode, done.stderr) == (0, "")
    (survey,) = json.loads(done.stdout)["surveys"]
    assert {row["host"]: row["spans"] for row in survey["by"]["host"]} == {
        host: 2 * spans for host, spans in HOSTS.items()
    }


def test_a_client_that_is_there_is_used(hosts: Hosts, cluster: str) -> None:
    with distributed.Client(cluster) as client:  # type: ignore[no-untyped-call]
        found = fleet.survey(hosts.of(1), engine="dask")
        assert found.overview()["spans"] == sum(HOSTS.values())
        assert client.status == "running"  # and left as it was


def test_what_a_cluster_lacks_is_said(
    hosts: Hosts, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        pytest.raises(EnvironmentLacks, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"),
    ):
        fleet.survey(hosts.path, engine="dask", scheduler="tcp://127.0.0.1:1")
    monkeypatch.setattr(fleet, "__version__", "99.9")
    with pytest.raises(EnvironmentLacks, match=f"has fallthru {overlay.__version__}.*99.9"):
        fleet.survey(hosts.path, engine="dask", scheduler=cluster)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EnvironmentLacks, match="needs distributed") as caught:
        fleet.survey(hosts.path, engine="dask", scheduler=cluster)
    assert "fallthru[fleet]" in str(caught.value.hint)


def test_the_command_on_a_cluster(hosts: Hosts, cluster: str, fallthru: Fallthru) -> None:
    here = fallthru("fleet", hosts.path, "--by", "host,op", "--by", "size", "--json")
    there = fallthru(
        *("fleet", hosts.path, "--by", "host,op", "--by", "size", "--json"),
        *("--scheduler", cluster),
    )
    assert here.returncode == there.returncode == 0
    data = json.loads(here.stdout)
    assert data == json.loads(there.stdout)
    (survey,) = data["surveys"]
    frame = load(hosts.path).frame
    assert survey["copyups"]["time_ns"] == stats.overview(frame)["time"].value
    assert len(survey["by"]["host,op"]) == 9
    assert survey["precision"]["percentiles"] == VALUE_ERROR
    said = fallthru("fleet", hosts.path).stdout
    assert said.startswith("3 hosts, 6 runs: 3,446 copyups of ")
    assert "By system call:" in said
    assert "By phase:" in said


def test_the_command_compares_and_fails_above_a_limit(hosts: Hosts, fallthru: Fallthru) -> None:
    pair = (hosts.of(2), hosts.of(1))  # the second with more to copy
    done = fallthru("fleet", "--compare", *pair, "--by", "op", "--fail-above", "1.1")
    assert done.returncode == 1
    assert "past 1.1: bytes of all" in done.stderr
    assert "Typical time by system call:" in done.stdout
    done = fallthru("fleet", "--compare", *pair, "--json", "--fail-above", "1000")
    assert done.returncode == 0
    comparison = json.loads(done.stdout)["comparison"]
    frames = [load(one).frame for one in pair]
    exact = compare.compare(frames[0], frames[1]).iloc[0]
    assert comparison["time_saved_ns"] == exact["time_saved"].value
    assert comparison["bytes_after"] == exact["bytes_after"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Name traces"),
        (["missing"], 2, "no such trace"),
        ([".", "--fail-above", "1.1"], 2, "--compare"),
        ([".", "--engine", "pandas", "--scheduler", "tcp://x:1"], 2, "engine dask"),
        ([".", "--by", "colour"], 2, "no such group: colour"),
    ],
)
def test_the_command_refuses(
    fallthru: Fallthru, arguments: list[str], code: int, said: str
) -> None:
    done = fallthru("fleet", *arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_damage_is_told_by_exit_1(tmp_path: Path, fallthru: Fallthru) -> None:
    made: Any = synthetic.columns(Workload(spans=90))
    parts = synthetic.write(tmp_path / "host=a", made, parts=3)
    Path(parts[0]).write_bytes(b"x")
    done = fallthru("fleet", tmp_path)
    assert done.returncode == 1
    assert "60 copyups" in done.stdout
    assert f"damaged trace: {parts[0]}" in done.stderr


def test_pictures_show_each_group_and_what_became_of_it(hosts: Hosts) -> None:
    before, after = (fleet.survey(hosts.of(run), ["host", ("host", "op")]) for run in (2, 1))
    drawn = fleetplots.groups(before)
    left = drawn.axes[0]
    names = [text.get_text() for text in left.get_yticklabels()]
    medians = before.summarise("host")["p50"]
    assert names == list(medians.sort_values(ascending=False).index)
    assert "<svg" in style.svg(drawn, "t", "d", key="k")
    drawn = fleetplots.ratios(before, after, ("host", "op"))
    table = fleet.ratios(before, after, ("host", "op"))
    texts = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert texts == [", ".join(key) for key in table.index]
    handles, labels = drawn.axes[0].get_legend_handles_labels()
    counts = table["verdict"].value_counts()
    assert set(labels) == {f"{name} ({count})" for name, count in counts.items()}
    assert len(handles) == len(counts) > 1


def test_pictures_of_nothing_say_so(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "one", synthetic.empty())
    nothing = fleet.survey(tmp_path, "host")
    for drawn in (fleetplots.groups(nothing), fleetplots.ratios(nothing, nothing)):
        assert any("no" in text.get_text() for text in drawn.axes[0].texts)
