"""Traces behind URLs: found, read, summarised; and what is missing is said by name."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from analysis import fleet
from analysis.load import NotATrace, load
from tests.analysis import synthetic
from tests.analysis.commands import Fallthru
from tests.analysis.synthetic import Workload
from tracer.places import MissingFileSystem, PlaceFailed


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    for host, spans in (("a", 31), ("b", 17)):
        made = synthetic.columns(Workload(spans=spans))
        synthetic.write(tmp_path / "set" / f"host={host}" / "run=1", made, parts=2)
    return tmp_path / "set"


@pytest.fixture
def stored(hosts: Path) -> Iterator[str]:
    """The same in fsspec's memory: no file system of the machine has it."""
    memory = fsspec.filesystem("memory")
    name = f"/{uuid.uuid4()}"
    memory.put(f"{hosts}/", f"{name}/", recursive=True)
    yield f"memory:/{name}"
    memory.rm(name, recursive=True)


def test_a_url_is_read_like_a_directory(hosts: Path, stored: str) -> None:
    here, there = load(hosts), load(stored)
    assert [(run.name, run.host, run.spans) for run in there.runs] == [
        (run.name, run.host, run.spans) for run in here.runs
    ]
    assert there.frame["dur"].tolist() == here.frame["dur"].tolist()
    assert len(load(f"{stored}/*/run=1").frame) == 48
    assert len(load(f"{stored}/host=b").frame) == 17
    part = load(f"{stored}/host=a/run=1/part-00000.parquet")
    assert (len(part.frame), part.damage) == (15, ())
    assert len(load([stored, f"{stored}/host=a/run=1/part-00000.parquet"]).frame) == 48
    assert len(load(f"file://{hosts}").frame) == 48
    assert fleet.survey(stored, "host").summarise("host")["spans"].to_dict() == {"a": 31, "b": 17}


def test_damage_behind_a_url_is_told(stored: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(f"{stored}/host=a/run=1/part-00001.parquet", b"cut off")
    memory.rm(f"{stored}/host=b/run=1/part-00000.parquet")
    trace = load(stored)
    assert len(trace.frame) == 15 + 9
    broken, missing = trace.damage
    assert broken.path.endswith("/host=a/run=1/part-00001.parquet")
    assert missing.reason == "8 of 17 spans are missing"


def test_the_commands_take_urls(stored: str, fallthru: Fallthru) -> None:
    done = fallthru("report", f"{stored}/host=a/run=1", "--json")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["copyups"]["spans"] == 31
    assert run["path"].startswith("memory://")
    assert "2 hosts, 2 runs: 48 copyups" in fallthru("fleet", stored).stdout
    assert "31 spans" in fallthru("trace", "hist", f"{stored}/host=a").stdout


def test_what_would_open_a_url_is_named(
    stored: str, fallthru: Fallthru, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotATrace, match="no such trace: memory://nothing"):
        load("memory://nothing")
    with pytest.raises(MissingFileSystem, match="nonsense"):
        load("nonsense://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    done = fallthru("report", "s3://bucket/trace")
    assert done.returncode == 3
    assert "s3fs" in done.stderr
    for name in ("fsspec", "fsspec.core"):
        monkeypatch.setitem(sys.modules, name, None)
    done = fallthru("report", stored)
    assert done.returncode == 3
    assert "needs fsspec" in done.stderr
    assert "fallthru[fleet]" in done.stderr


def test_a_place_that_fails_is_no_traceback(
    stored: str, fallthru: Fallthru, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(Exception):
        """As each store has its own."""

    def lost(*_: object, **__: object) -> None:
        raise Lost("the key is not valid")

    memory = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(memory, "isdir", lost)
    with pytest.raises(PlaceFailed, match="the key is not valid"):
        load(stored)
    done = fallthru("fleet", stored)
    assert done.returncode == 5
    assert "the key is not valid" in done.stderr
