"""What ends a recording: limits, kills, a full disk; and what is then on disk."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from analysis.load import load
from tests.conftest import Layers
from tests.fsimages import tmpfs
from tests.processes import PATIENCE
from tests.rawoverlay import overlay
from tests.running import REPOSITORY, fallthru
from tests.tracer.conftest import Recorder
from tests.tracer.running import start_recording
from tests.tracer.test_recording import until

FILES = 4001


@pytest.fixture
def mnt(layers: Layers, tracing: None) -> Iterator[Path]:
    for number in range(FILES):
        (layers.bottom / f"f{number}").write_bytes(b"x" * 4096)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mount_point:
        yield mount_point


def copy_up(mnt: Path, first: int, beyond: int) -> None:
    for number in range(first, beyond):
        os.chmod(mnt / f"f{number}", 0o600)


def test_until_spans_is_exact(mnt: Path, tmp_path: Path, recording: Recorder) -> None:
    recorder = recording("-o", tmp_path / "t", "--mount", mnt, "--until-spans", "101")
    copy_up(mnt, 0, 211)
    assert recorder.wait(PATIENCE) == 0
    trace = load(tmp_path / "t")
    assert trace.frame["path"].tolist() == [f"/f{number}" for number in range(101)]
    assert (trace.runs[0].metadata.spans, trace.damage) == (101, ())
    assert trace.runs[0].metadata.ended_ns is not None


def moved_on(directory: Path, known: set[str], recorder: subprocess.Popen[str]) -> bool:
    return recorder.poll() is not None or set(os.listdir(directory)) != known


def test_max_size(mnt: Path, tmp_path: Path, recording: Recorder) -> None:
    """It ends by itself once the files have this size, and is whole."""
    recorder = recording(
        "-o", tmp_path / "t", "--mount", mnt, "--max-size", "20K", "--rotate-every", "100ms"
    )
    done = 0
    while recorder.poll() is None:
        assert done < FILES - 97, "it never ended"
        # Before the work: on a busy machine all of it may be in files when it is done.
        known = set(os.listdir(tmp_path / "t"))
        copy_up(mnt, done, done + 97)
        done += 97
        until(partial(moved_on, tmp_path / "t", known, recorder))
    assert recorder.returncode == 0
    size = sum(path.stat().st_size for path in (tmp_path / "t").iterdir())
    assert size >= 20 << 10
    trace = load(tmp_path / "t")
    assert trace.damage == ()
    assert trace.runs[0].metadata.ended_ns is not None
    assert len(trace.frame) > 0


def test_a_limit_ends_the_recording_and_not_the_command(mnt: Path, tmp_path: Path) -> None:
    """--for is over long before the command is; its exit status is still the answer."""
    script = 'chmod 600 "$1/f1"; read x < "$2"; chmod 600 "$1/f2"; exit 5'
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    recorder = start_recording(
        "-o", tmp_path / "t", "--for", "100ms", "--", "sh", "-c", script, "sh", mnt, gate
    )
    until(lambda: list((tmp_path / "t").glob("part-00000.parquet")))
    gate.write_text("\n")
    assert recorder.wait(PATIENCE) == 5
    assert load(tmp_path / "t").frame["path"].tolist() in (["/f1"], [])
    assert (mnt / "f2").stat().st_mode & 0o777 == 0o600


def test_filters(mnt: Path, layers: Layers, tmp_path: Path) -> None:
    """User, path and duration; the metadata says what was asked for."""
    for number in (20, 40, 60):
        for one in range(number, number + 7):
            os.chown(layers.bottom / f"f{one}", 65534, 65534)
    os.chmod(mnt, 0o755)
    script = 'cd "$1"; chmod 600 "f$2"*; setpriv --reuid=65534 --clear-groups chmod 640 "f$3"[0-6]'
    cases: list[tuple[list[str], list[str], dict[str, object]]] = [
        (["--uid", "65534"], [f"/f{number}" for number in range(20, 27)], {"uids": [65534]}),
        (["--path", f"{mnt}/f31"], ["/f31"], {"under": f"{mnt}/f31"}),
        (["--min-duration", "1h", "--uid", "0"], [], {"uids": [0], "min_ns": 3600 * 10**9}),
    ]
    for number, (flags, expected, filters) in enumerate(cases):
        directory = tmp_path / f"t{number}"
        done = fallthru(
            "trace", "record", "-o", directory, *flags, "--", "sh", "-c", script, "sh", mnt,
            str(number * 2 + 1), str(number * 2 + 2),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        trace = load(directory)
        assert trace.frame["path"].tolist() == expected
        assert filters.items() <= trace.runs[0].metadata.filters.items()
        assert trace.runs[0].metadata.spans == len(expected)


def test_killed(mnt: Path, tmp_path: Path, recording: Recorder) -> None:
    """SIGKILL in the middle: whole pieces are there, in order, and nothing else is read."""
    recorder = recording("-o", tmp_path / "t", "--mount", mnt, "--rotate-every", "200ms")
    trace = tmp_path / "t"
    for round_ in range(3):
        copy_up(mnt, round_ * 97, round_ * 97 + 97)
        until((trace / f"part-{round_:05}.parquet").exists)
    copy_up(mnt, 291, FILES)
    recorder.kill()
    assert recorder.wait(PATIENCE) == -signal.SIGKILL
    found = load(trace)
    assert found.damage == ()
    assert found.runs[0].metadata.ended_ns is None
    got = found.frame["path"].tolist()
    assert got == [f"/f{number}" for number in range(len(got))]
    assert 291 <= len(got) <= FILES


def test_disk_full(mnt: Path, tmp_path: Path, recording: Recorder) -> None:
    """On a tmpfs of 1 MiB: it says so, exits 5, and keeps what it had written."""
    small = tmp_path / "small"
    small.mkdir()
    with tmpfs(small, options={"size": "1m"}):
        (small / "fill").write_bytes(b"x" * (1000 << 10))
        recorder = recording("-o", small / "t", "--mount", mnt)
        # No room for a single piece of this; one piece is written every few thousand spans.
        (small / "more").write_bytes(b"x" * (os.statvfs(small).f_bavail * 4096 - 8192))
        copy_up(mnt, 0, FILES)
        recorder.send_signal(signal.SIGTERM)
        _, told = recorder.communicate(timeout=PATIENCE)
        assert recorder.returncode == 5, told
        assert "cannot be continued: No space left on device" in told
        assert f"{FILES} more were seen and could not be stored" in told
        assert not list((small / "t").glob(".part*"))


def test_disk_full_ends_it(mnt: Path, tmp_path: Path, recording: Recorder) -> None:
    """Nobody stops it; what had been stored before is read."""
    small = tmp_path / "small"
    small.mkdir()
    with tmpfs(small, options={"size": "1m"}):
        recorder = recording("-o", small / "t", "--mount", mnt, "--rotate-every", "200ms")
        copy_up(mnt, 0, 13)
        until((small / "t" / "part-00000.parquet").exists)
        (small / "fill").write_bytes(b"x" * (os.statvfs(small).f_bavail * 4096))
        copy_up(mnt, 13, 36)
        _, told = recorder.communicate(timeout=PATIENCE)
        assert recorder.returncode == 5, told
        assert "23 more were seen and could not be stored" in told
        trace = load(small / "t")
        assert len(trace.frame) == 13
        assert trace.runs[0].metadata.ended_ns is None


def test_a_service_manager_is_told(tracing: None, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        done = subprocess.Popen(
            [sys.executable, "-m", "overlay", "trace", "record", "-o", tmp_path / "t"],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        assert manager.recv(100) == b"READY=1"
        done.terminate()
        assert manager.recv(100) == b"STOPPING=1"
        done.communicate()
        assert done.returncode == 0


def test_metrics(mnt: Path, tmp_path: Path) -> None:
    """A real scrape, read by Prometheus's own parser, against the trace of the same run."""
    recorder = start_recording("-o", tmp_path / "t", "--mount", mnt, "--listen", "0")
    assert recorder.stderr is not None
    url = recorder.stderr.readline().split()[-1]
    assert url.startswith("http://127.0.0.1:")
    assert "tracing" in recorder.stderr.readline()
    copy_up(mnt, 0, 103)
    os.truncate(mnt / "f500", 17)
    families = {}

    def arrived() -> bool:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            page = answer.read().decode()
        families.update({one.name: one for one in text_string_to_metric_families(page)})
        counts = families["fallthru_span_duration_seconds"].samples
        return sum(s.value for s in counts if s.name.endswith("_count")) == 104

    until(arrived)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url.replace("metrics", "etc/passwd"), timeout=PATIENCE)
    recorder.terminate()
    assert recorder.wait(PATIENCE) == 0
    frame = load(tmp_path / "t").frame
    samples = {
        (one.name.removeprefix("fallthru_"), frozenset(one.labels.values())): one.value
        for family in families.values()
        for one in family.samples
    }
    for op, part in frame.groupby("op", observed=True):
        key = frozenset(("copy", "copyup", str(op)))
        seconds = part["dur"].dt.total_seconds()
        assert samples["span_duration_seconds_count", key] == len(part)
        assert samples["span_duration_seconds_sum", key] == pytest.approx(seconds.sum())
        assert samples["copied_bytes_total", key] == part["bytes"].sum()
        for bound in ("1e-05", "2.5e-05", "0.001", "10.0", "+Inf"):
            within = samples["span_duration_seconds_bucket", key | {bound}]
            assert within == (seconds <= float(bound)).sum()
    assert samples["lost_records_total", frozenset()] == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--listen", "nonsense"], 2),
        (["--listen", "1.2.3.4.5:80"], 2),
        (["--listen", "192.0.2.1:9"], 5),
        (["-o", "t", "--for", "soon"], 2),
        (["-o", "t", "--max-size", "big"], 2),
        ([], 2),
    ],
    ids=str,
)
def test_requests_that_make_no_sense(root: None, arguments: list[str], code: int) -> None:
    done = fallthru("trace", "record", *arguments, "--", "true")
    assert done.returncode == code, done.stderr
