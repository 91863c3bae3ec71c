"""``trace record``, ``show`` and ``doctor``, and the trace directory between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tracer
from overlay.errors import NoPrivilege, OperationFailed
from tests.conftest import Layers
from tests.fsimages import tmpfs
from tests.processes import PATIENCE
from tests.rawoverlay import overlay
from tests.running import (
    REPOSITORY,
    fallthru,
    in_user_namespace,
    need_readable_checkout,
)
from tests.tracer.running import rows, start_recording
from tracer.backend import clock_offset
from tracer.news import MountRecord
from tracer.records import split
from tracer.schema import SCHEMA, RunMetadata, metadata_from_schema
from tracer.session import Session
from tracer.tracefile import OutputNotEmpty, TraceWriter
from tracer.unions import Unions

FILES = 23


def parts(directory: Path) -> list[Path]:
    return sorted(directory.glob("part-*.parquet"))


def show(directory: Path) -> dict[str, Any]:
    done = fallthru("trace", "show", "--json", directory)
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


@pytest.fixture
def mnt(layers: Layers, tracing: None) -> Any:
    for number in range(FILES):
        (layers.bottom / f"f{number}").write_bytes(b"x" * number)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mount_point:
        yield mount_point


def test_record_a_command(mnt: Path, tmp_path: Path) -> None:
    """The whole way: command, trace directory, metadata, show; exit status is the command's."""
    command = ["sh", "-c", 'for f in "$1"/f*; do chmod 600 "$f"; done; exit 7', "sh", str(mnt)]
    done = fallthru("trace", "record", "-o", tmp_path / "t", "--", *command)
    assert done.returncode == 7, done.stderr
    assert f"{FILES} spans" in done.stderr
    shown = show(tmp_path / "t")
    got = sorted((span["path"], span["bytes"], span["comm"]) for span in shown["spans"])
    assert got == sorted((f"/f{n}", n, "chmod") for n in range(FILES))
    metadata = shown["metadata"]
    assert metadata["command"] == command
    assert (metadata["spans"], metadata["lost"], metadata["unmatched"]) == (FILES, 0, 0)
    assert metadata["started_ns"] < metadata["ended_ns"]
    assert metadata["kernel"] == os.uname().release
    (described,) = metadata["mounts"].items()
    assert described[0] == str(mnt)
    assert (described[1]["top"], described[1]["bottoms"]) == ("tmpfs", ["tmpfs"])
    assert "upperdir=" in described[1]["options"]
    starts = [span["ts"] for span in shown["spans"]]
    assert starts == sorted(starts)
    assert metadata["started_ns"] < starts[0] < starts[-1] < metadata["ended_ns"]


def test_only_the_command_unless_all(mnt: Path, tmp_path: Path) -> None:
    """Others' copyups count only with --all."""
    ready, go = tmp_path / "ready", tmp_path / "go"
    os.mkfifo(go)
    script = 'touch "$1"; read x < "$2"; chmod 600 "$3"'
    for number, (flags, expected) in enumerate(
        [([], ["/f0"]), (["--all", "--mount", str(mnt)], ["/f2", "/f3"])]
    ):
        recorder = start_recording(
            "-o", tmp_path / f"t{number}", *flags,
            "--", "sh", "-c", script, "sh", ready, go, mnt / f"f{number * 2}",
        )  # fmt: skip
        until(ready.exists)
        os.chmod(mnt / f"f{number * 2 + 1}", 0o600)
        go.write_text("x\n")
        assert recorder.communicate()[1]
        assert recorder.returncode == 0
        ready.unlink()
        assert sorted(s["path"] for s in show(tmp_path / f"t{number}")["spans"]) == expected


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stop_by_signal(mnt: Path, tmp_path: Path, how: signal.Signals) -> None:
    """Without a command it runs until it is told to stop, and then has everything."""
    recorder = start_recording("-o", tmp_path / "t", "--mount", mnt)
    assert recorder.stderr is not None
    assert "tracing" in recorder.stderr.readline()
    for number in range(FILES):
        os.chmod(mnt / f"f{number}", 0o600)
    recorder.send_signal(how)
    _, text = recorder.communicate()
    assert recorder.returncode == 0, text
    assert len(show(tmp_path / "t")["spans"]) == FILES


def test_killed_recorder_leaves_a_readable_trace(mnt: Path, tmp_path: Path) -> None:
    writer = TraceWriter(str(tmp_path / "t"))
    with Session(mounts=[mnt]) as session:
        os.chmod(mnt / "f1", 0o600)
        writer.write(session.drain(), session.metadata())
    # What a kill in the middle of the next part leaves.
    (tmp_path / "t" / ".part-00001.parquet").write_bytes(b"PAR1half")
    assert [span["path"] for span in show(tmp_path / "t")["spans"]] == ["/f1"]


def test_round_trip(mnt: Path, tmp_path: Path) -> None:
    """What is read is what was seen, column for column, types as in the schema."""
    with Session(mounts=[mnt]) as session:
        for number in range(FILES):
            os.chmod(mnt / f"f{number}", 0o600)
    table = session.table()
    path = TraceWriter(str(tmp_path / "t")).write(table, session.metadata())
    read = pq.read_table(path)
    assert read.schema.remove_metadata() == SCHEMA
    assert read.to_pylist() == table.to_pylist()
    metadata = metadata_from_schema(read.schema)
    assert metadata is not None
    assert metadata == json.loads(session.metadata().to_json())
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_damaged_part(mnt: Path, tmp_path: Path) -> None:
    """Only its own rows are lost, it is named, and the exit code says so."""
    writer = TraceWriter(str(tmp_path / "t"))
    with Session(mounts=[mnt]) as session:
        for name in ("f1", "f2", "f3"):
            os.chmod(mnt / name, 0o600)
            writer.write(session.drain(), session.metadata())
    whole = parts(tmp_path / "t")[1].read_bytes()
    parts(tmp_path / "t")[1].write_bytes(whole[: len(whole) // 2])
    done = fallthru("trace", "show", "--json", tmp_path / "t")
    assert done.returncode == 1
    assert "part-00001.parquet" in done.stderr
    assert [span["path"] for span in json.loads(done.stdout)["spans"]] == ["/f1", "/f3"]
    for part in parts(tmp_path / "t"):
        part.write_bytes(b"not parquet")
    done = fallthru("trace", "show", tmp_path / "t")
    assert done.returncode == 5
    assert "can be read" in done.stderr


def test_lost_records_are_counted(mnt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rings that nobody empties, what does not fit is counted, to the last one."""
    from tracer import backend, program

    for name in program.RINGS:
        monkeypatch.setitem(program.RINGS, name, 4096)
    traced = backend.Probes("tracepoint", program.Filters(devices=(device(mnt),)))
    try:
        for number in range(FILES):
            os.chmod(mnt / f"f{number}", 0o600)
        got = len(split(traced.take()).spans)  # others tell of mounts
        assert 0 < got < FILES
        assert got + traced.lost == FILES
    finally:
        traced.close()
    assert got + traced.lost == FILES


def device(path: Path) -> int:
    number = os.stat(path).st_dev
    return os.major(number) << 20 | os.minor(number)


def test_lost_records_are_shown(tmp_path: Path) -> None:
    run = RunMetadata(kernel="k", hostname="h", backend="b", started_ns=0, lost=41)
    TraceWriter(str(tmp_path / "t")).write(SCHEMA.empty_table(), run)
    done = fallthru("trace", "show", tmp_path / "t")
    assert done.returncode == 0
    assert "41 records were lost" in done.stderr


def test_output_directory(tmp_path: Path) -> None:
    """Never mixed with what is there; errors before anything is started."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    with pytest.raises(OutputNotEmpty):
        TraceWriter(str(tmp_path / "full"))
    marker = tmp_path / "ran"
    for output, code in (("full", 4), ("no/such", 2), ("full/precious", 2)):
        done = fallthru("trace", "record", "-o", tmp_path / output, "--", "touch", marker)
        assert done.returncode == code, done.stderr
        assert "→" in done.stderr
    assert not marker.exists()
    assert os.listdir(tmp_path / "full") == ["precious"]


def test_command_that_does_not_exist(tracing: None, tmp_path: Path) -> None:
    done = fallthru("trace", "record", "-o", tmp_path / "t", "--", "/no/such/program")
    assert done.returncode == 2
    assert "/no/such/program cannot be run: No such file" in done.stderr
    assert not (tmp_path / "t").exists()


def test_command_ended_by_a_signal(tracing: None, tmp_path: Path) -> None:
    done = fallthru("trace", "record", "-o", tmp_path / "t", "--", "sh", "-c", "kill -9 $$")
    assert done.returncode == 137
    assert show(tmp_path / "t")["spans"] == []


def test_disk_full(root: None, tmp_path: Path) -> None:
    """What was written stays; the error says so."""
    (tmp_path / "small").mkdir()
    with tmpfs(tmp_path / "small", options={"size": "64k"}):
        writer = TraceWriter(str(tmp_path / "small" / "t"))
        run = RunMetadata(kernel="k", hostname="h", backend="b", started_ns=0)
        writer.write(SCHEMA.empty_table(), run)
        (tmp_path / "small" / "fill").write_bytes(b"x" * room(tmp_path / "small"))
        with pytest.raises(OperationFailed, match="No space left"):
            writer.write(SCHEMA.empty_table(), run)
        assert os.listdir(tmp_path / "small" / "t") == ["part-00000.parquet"]
        assert show(tmp_path / "small" / "t")["spans"] == []


def room(where: Path) -> int:
    free = os.statvfs(where)
    return free.f_bavail * free.f_frsize


def test_no_privilege() -> None:
    """An ordinary user is told what is missing, by the error that means it."""
    need_readable_checkout()
    outcome = in_user_namespace(lambda: Session().start())
    assert outcome.partition(":")[0] in (NoPrivilege.__name__, "NoAddresses"), outcome


def test_not_a_trace(tmp_path: Path) -> None:
    assert fallthru("trace", "show", tmp_path).returncode == 2
    assert fallthru("trace", "show", tmp_path / "missing").returncode == 2


def test_doctor(tracing: None) -> None:
    done = fallthru("trace", "doctor", "--json")
    assert done.returncode == 0, done.stdout
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert found["trace: tracepoint backend"]["ok"]
    assert set(found) >= {"trace: bcc", "trace: BTF", "trace: kernel addresses"}


def test_plain_text(mnt: Path, tmp_path: Path) -> None:
    """In a pipe: one line a span, tab-separated, the path last."""
    with Session(mounts=[mnt]) as session:
        os.chmod(mnt / "f5", 0o600)
    TraceWriter(str(tmp_path / "t")).write(session.table(), session.metadata())
    lines = fallthru("trace", "show", tmp_path / "t").stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].split("\t")[2:] == [
        str(os.getpid()), rows(session.table())[0]["comm"], "chmod", "file", "copy", "5", "",
        "", f"{mnt}/f5",
    ]  # fmt: skip
    assert fallthru("trace", "show", "--limit", "0", tmp_path / "t").stdout.count("\n") == 1


def test_clock() -> None:
    before = time.time_ns()
    now = time.monotonic_ns() + clock_offset()
    assert before - 1_000_000 <= now <= time.time_ns() + 1_000_000


def test_a_union_nobody_can_find() -> None:
    unions = Unions()
    unions.learn([MountRecord(3, (0, 0xFFFFF), 1 << 21, False, ("tmpfs", "tmpfs"))])
    assert unions.name(3) is None
    assert unions.name(4) is None
    assert unions.metadata() == {}


def test_python_as_the_readme_has_it(mnt: Path) -> None:
    """``tracer.Session(mount=…)`` and ``frame()``; a frame has the rows of the table."""
    with tracer.Session(mount=mnt) as session:
        for number in range(FILES):
            os.chmod(mnt / f"f{number}", 0o600)
    frame = session.frame()
    assert sorted(frame["path"]) == sorted(f"/f{number}" for number in range(FILES))
    assert frame["bytes"].sum() == sum(range(FILES))
    assert (frame["mount"] == str(mnt)).all()
    assert list(frame.columns) == SCHEMA.names


def test_the_session_keeps_what_was_selected(mnt: Path) -> None:
    """What the probes cannot filter is left out before anybody counts it."""
    selection = tracer.Selection(under="/f1", uids=(os.getuid(),))
    with tracer.Session(mount=mnt, selection=selection) as session:
        for number in range(FILES):
            os.chmod(mnt / f"f{number}", 0o600)
    assert [row["path"] for row in rows(session.table())] == ["/f1"]
    metadata = session.metadata()
    assert metadata.spans == 1
    assert metadata.filters["under"] == "/f1"


def test_importing_the_tracer_is_cheap() -> None:
    code = "import sys, tracer; tracer.Session(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert not {"pandas", "numpy", "pyarrow", "bcc"} & set(done.stdout.split())
