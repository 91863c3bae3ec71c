"""``trace top``: its account against the spans it was given, and the real thing."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.analysis import synthetic
from tests.conftest import Layers
from tests.processes import PATIENCE
from tests.rawoverlay import overlay
from tests.running import REPOSITORY
from tracer.live import Live
from tracer.schema import SCHEMA
from tracer.topscreen import line, screen

SPANS = 997


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory: Path = tmp_path_factory.mktemp("top")
    synthetic.trace(directory, synthetic.Workload(spans=SPANS), parts=1)
    return pq.read_table(directory).cast(SCHEMA)


def test_the_account_adds_up(spans: Any) -> None:
    live, frame = Live(0.0), spans.to_pandas()
    for number, (at, rows) in enumerate([(0, 211), (211, 307), (518, 479)]):
        live.add(spans.slice(at, rows), number + 1.0)
    made = live.snapshot(1000)
    ns = frame["dur"].astype("int64")
    assert (made.total.count, made.total.bytes, made.total.ns) == (
        SPANS, frame["bytes"].sum(), ns.sum(),
    )  # fmt: skip
    assert (made.elapsed, made.seconds, made.now) == (3.0, 3.0, made.total)
    assert (made.latency.total, made.latency.greatest) == (SPANS, ns.max())
    frame["container"] = frame["container"].astype(object).fillna("")
    by_process = (
        frame.assign(ns=ns).groupby(["pid", "comm", "op", "container"], observed=True)["ns"].sum()
    )
    assert {key: total.ns for key, _, total in made.processes} == by_process.to_dict()
    costs = [now.ns for _, now, _ in made.processes]
    assert costs == sorted(costs, reverse=True)
    slowest = frame.loc[ns.idxmax()]
    assert made.files[0][0] == (slowest["mount"] + slowest["path"],)
    assert json.loads(json.dumps(made.as_data()))["total"]["count"] == SPANS


def test_now_is_the_last_ten_seconds(spans: Any) -> None:
    live = Live(0.0)
    live.add(spans.slice(0, 101), 1.0)
    for second in range(2, 12):
        live.add(spans.slice(101, 1), float(second))
    made = live.snapshot(1000)
    assert (made.now.count, made.total.count, made.seconds) == (10, 111, 10.0)
    assert {now.count for _, now, _ in made.processes} == {0, 10}, "what was busy before is shown"


def test_it_stays_small(spans: Any) -> None:
    """Millions of files do not make it grow, and the costliest is not forgotten."""
    import pyarrow as pa

    live, place = Live(0.0), SCHEMA.get_field_index("path")
    for number in range(30):
        paths = pa.array([f"/{number}/{row}" for row in range(SPANS)])
        live.add(spans.set_column(place, SCHEMA.field("path"), paths), number + 1.0)
    assert len(live._files) <= 4096
    assert live.snapshot(3).files[0][2].ns == spans["dur"].cast(pa.int64()).to_numpy().max()


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("rows", [0, 101, SPANS])
def test_the_screen_fits(spans: Any, width: int, rows: int) -> None:
    live = Live(0.0)
    live.add(spans.slice(0, rows), 1.0)
    out = io.StringIO()
    Console(file=out, width=width).print(screen(live.snapshot(6, lost=3), "all unions", width))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    assert "3 records LOST" in out.getvalue()
    assert ("p99" in out.getvalue()) == (rows > 0)


def test_containers(spans: Any) -> None:
    """A process that is in one now is not the process that it was before."""
    import pyarrow as pa

    live, place = Live(0.0), SCHEMA.get_field_index("container")
    one = spans.slice(0, 1)
    live.add(one, 1.0)
    inside = pa.array(["web"]).dictionary_encode().cast(SCHEMA.field("container").type)
    live.add(one.set_column(place, SCHEMA.field("container"), inside), 2.0)
    made = live.snapshot(10)
    assert {row["container"] for row in made.as_data()["processes"]} == {None, "web"}
    out = io.StringIO()
    Console(file=out, width=120).print(screen(made, "all unions", 120))
    comm = one["comm"][0].as_py()
    assert f"{comm} (web) " in out.getvalue()
    assert f"{comm}  " in out.getvalue()


def test_a_line(spans: Any) -> None:
    live = Live(0.0)
    live.add(spans, 2.0)
    text = line(live.snapshot(1), "12:00:00")
    assert text.startswith(f"12:00:00  {SPANS / 2:,.0f}/s  ")
    assert "chown[" in text


@pytest.fixture
def mnt(layers: Layers, tracing: None) -> Iterator[Path]:
    for number in range(211):
        (layers.bottom / f"f{number}").write_bytes(b"x" * number)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mount_point:
        yield mount_point


def start(*arguments: str | Path, **rest: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "overlay", "trace", "top", *arguments],
        cwd=REPOSITORY,
        stdout=rest.pop("stdout", subprocess.PIPE),
        text=True,
        **rest,
    )


def test_json_counts_everything(mnt: Path) -> None:
    """A document each interval; the last one has all, by process and file."""
    running = start("--mount", mnt, "--interval", "200ms", "--json")
    assert running.stdout is not None
    running.stdout.readline()  # it has begun
    for number in range(211):
        os.chmod(mnt / f"f{number}", 0o600)
    told = {"total": {"count": 0}}
    while told["total"]["count"] < 211:
        told = json.loads(running.stdout.readline())
    running.send_signal(signal.SIGINT)
    *_, last = running.communicate(timeout=PATIENCE)[0].splitlines()
    assert running.returncode == 0
    made = json.loads(last)
    assert (made["total"]["count"], made["total"]["bytes"]) == (211, sum(range(211)))
    (process,) = made["processes"]
    assert (process["pid"], process["op"], process["total"]["count"]) == (os.getpid(), "chmod", 211)
    assert made["lost"] == 0
    assert all(one["path"].startswith(f"{mnt}/f") for one in made["files"])


def test_once(mnt: Path) -> None:
    done = start("--mount", mnt, "--once", "--interval", "100ms", "--json")
    made = json.loads(done.communicate(timeout=PATIENCE)[0])
    assert done.returncode == 0
    assert made["total"]["count"] == 0
    assert made["window_s"] >= 0.1


def test_on_a_terminal(mnt: Path) -> None:
    """A screen of its own while it runs, and the last one left behind; Ctrl-C ends it."""
    ours, its = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    running = start(
        "--mount", mnt, "--interval", "100ms", stdout=its, stdin=its, stderr=its,
        env={**os.environ, "TERM": "xterm-256color"}, start_new_session=True,
    )  # fmt: skip
    os.close(its)
    seen, asked = "", False
    while True:
        if not select.select([ours], [], [], PATIENCE)[0]:
            raise AssertionError(seen)
        try:
            seen += os.read(ours, 1 << 16).decode(errors="replace")
        except OSError:
            break  # it has ended
        if "copyups/s" in seen and not asked:
            os.chmod(mnt / "f7", 0o600)
        if "f7" in seen and not asked:
            asked = True
            running.send_signal(signal.SIGINT)
    os.close(ours)
    assert running.wait(PATIENCE) == 0
    before, _, after = seen.rpartition("\x1b[?1049l")
    assert "\x1b[?1049h" in before
    assert f"{mnt}/f7"[-20:] in after
