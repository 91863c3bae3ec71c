"""The highest rate that the machine makes: nothing is lost, and the recorder stays small."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.load import load
from tests.conftest import Layers
from tests.processes import PATIENCE
from tests.rawoverlay import overlay
from tests.running import fallthru
from tests.tracer.conftest import Recorder
from tests.tracer.running import Step, Writers
from tests.tracer.test_tools import check_trace_events
from tracer.news import RECORD_SIZE
from tracer.program import RINGS

WRITERS = 4
#: Almost as many as the rings hold: nothing is lost, however long the recorder waits for a
#: processor.
FILES = 17_989


@pytest.fixture
def mnt(layers: Layers, tracing: None) -> Iterator[Path]:
    for writer in range(WRITERS):
        (layers.bottom / f"d{writer}").mkdir()
    for number in range(FILES):
        (layers.bottom / f"d{number % WRITERS}" / f"f{number}").write_bytes(b"x" * 4096)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mount_point:
        yield mount_point


def memory(pid: int, what: str) -> int:
    """kB, from /proc/PID/status."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0])


def test_several_writers(mnt: Path, tmp_path: Path, recording: Recorder) -> None:
    """All at once, as fast as they can: each copyup once, none lost."""
    assert sum(RINGS.values()) // (RECORD_SIZE + 8) > FILES + WRITERS
    paths = [f"/d{number % WRITERS}/f{number}" for number in range(FILES)]
    plans = [[Step("openat", path) for path in paths[one::WRITERS]] for one in range(WRITERS)]
    writers = Writers(tmp_path, mnt, plans)
    recorder = recording("-o", tmp_path / "t", "--mount", mnt)
    Path(f"/proc/{recorder.pid}/clear_refs").write_text("5")  # the peak, without the compiler's
    writers.run()
    peak = memory(recorder.pid, "VmHWM")
    recorder.send_signal(signal.SIGTERM)
    assert recorder.wait(PATIENCE) == 0
    trace = load(tmp_path / "t")
    metadata = trace.runs[0].metadata
    assert (metadata.lost, metadata.unmatched, trace.damage) == (0, 0, ())
    assert Counter(trace.frame["path"]) == Counter([*paths, *(f"/d{n}" for n in range(WRITERS))])
    by_writer = trace.frame.groupby("pid").size()
    assert set(by_writer.index) == set(writers.pids)
    assert peak < 120_000, f"{peak} kB"


def test_more_than_the_ring_holds(mnt: Path, tmp_path: Path, recording: Recorder) -> None:
    """What one ring refuses goes to the other: nothing is lost."""
    room, spare = (RINGS[name] // (RECORD_SIZE + 8) for name in ("ring", "spare"))
    count = room + spare // 2
    paths = [f"/d{number % WRITERS}/f{number}" for number in range(count)]
    writers = Writers(tmp_path, mnt, [[Step("openat", path) for path in paths]])
    recorder = recording("-o", tmp_path / "t", "--mount", mnt)
    recorder.send_signal(signal.SIGSTOP)
    writers.run()
    recorder.send_signal(signal.SIGCONT)
    recorder.send_signal(signal.SIGTERM)
    assert recorder.wait(PATIENCE) == 0
    trace = load(tmp_path / "t")
    assert (trace.runs[0].metadata.lost, trace.damage) == (0, ())
    assert Counter(trace.frame["path"]) == Counter([*paths, *(f"/d{n}" for n in range(WRITERS))])


def test_a_real_trace_in_perfetto(layers: Layers, tracing: None, tmp_path: Path) -> None:
    """Slices of real threads nest, and parents point at what needed them."""
    deep = layers.bottom / "a" / "b" / "c"
    deep.mkdir(parents=True)
    for number in range(13):
        (deep / f"f{number}").write_bytes(b"x" * number)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        inside = mnt / "a" / "b" / "c"
        done = fallthru(
            "trace", "record", "-o", tmp_path / "t", "--", "chmod", "600",
            *sorted(str(inside / name) for name in os.listdir(inside)),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    made = fallthru("trace", "export", tmp_path / "t", "--format", "perfetto")
    document = json.loads(made.stdout)
    check_trace_events(document)
    names = Counter(event["ph"] for event in document["traceEvents"])
    assert (names["s"], names["f"]) == (3, 3), "three directories, for the first file's sake"
    assert {e["name"] for e in document["traceEvents"] if e.get("cat") == "copyup"} == {
        *(f"copyup {name}" for name in "abc"),
        *(f"copyup f{number}" for number in range(13)),
    }
