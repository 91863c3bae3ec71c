"""Advice against sums done by hand, and applied to a real union."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analysis.advise import Advice, advise, paths_ahead
from analysis.load import Trace, load
from overlay import kernel
from overlay.cli import main
from tests.analysis import synthetic
from tests.analysis.synthetic import MOUNT, Workload
from tests.running import REPOSITORY
from tracer.tracefile import TraceWriter

OPTIONS = "rw,lowerdir+=/srv/it's,lowerdir+=/srv/b2,upperdir=/srv/top,workdir=/srv/top.work"


def mounts(top: str, *bottoms: str, options: str = OPTIONS) -> dict[str, Any]:
    return {"mounts": {MOUNT: {"options": options, "top": top, "bottoms": list(bottoms)}}}


def trace_of(directory: Path, changes: dict[str, Any], **columns: Any) -> Trace:
    made = synthetic.columns(Workload(spans=6))
    made.update(
        ftype=["file"] * 6,
        how=["copy"] * 5 + ["none"],
        op=["fchownat", "openat", "openat", "rename", "openat", "unlink"],
        path=["/var/a", "/log/b", "/log/c", "/etc/d", "/etc/\\xff", None],
        bytes=[100, 200, 300, 400, 500, 0],
        dur=[1000] * 5 + [50],
        data=[100, 200, 300, 400, 500, 0],
        sync=[300, 300, 300, 300, 300, 0],
    )
    made.update(columns)
    synthetic.write(directory, made, changes=changes)
    return load(directory)


def by_name(found: list[Advice]) -> dict[str, Advice]:
    assert [one.time.value for one in found] == sorted(one.time.value for one in found)[::-1]
    return {one.name if one.name != "volume" else one.what: one for one in found}


def test_savings_are_the_parts_that_a_change_leaves_out(tmp_path: Path) -> None:
    found = by_name(advise(trace_of(tmp_path / "run 1", mounts("ext4", "xfs", "ext4")), depth=1))
    saved = {name: (one.time.value, one.bytes, one.spans) for name, one in found.items()}
    assert saved == {
        "metacopy": (100 + 400 + 600, 500, 2),  # the chown and the rename
        "throwaway": (1500, 0, 5),
        "reflink": (1500 + 1500, 1500, 5),
        "ahead": (5000, 1500, 5),
        "move /log out of the union, to a volume of its own": (2000, 500, 2),
        "move /etc out of the union, to a volume of its own": (2000, 900, 2),
        "move /var out of the union, to a volume of its own": (1000, 100, 1),
    }
    assert found["metacopy"].share == pytest.approx(1100 / 5050)
    assert (found["metacopy"].confidence, found["reflink"].confidence) == ("high", "medium")
    assert found["throwaway"].time.high - 1500 == pytest.approx(1.959964 * (5 * 300**2) ** 0.5)
    bottoms = """--bottom '/srv/it'"'"'s' --bottom /srv/b2"""
    assert found["metacopy"].command == (
        f"fallthru umount {MOUNT} && "
        f"fallthru mount --profile fallthru {bottoms} --top /srv/top {MOUNT}"
    )


def test_what_is_done_already_is_not_advised(tmp_path: Path) -> None:
    options = f"{OPTIONS},metacopy=on,volatile"
    found = by_name(advise(trace_of(tmp_path / "one", mounts("ext4", "ext4", options=options))))
    assert not {"metacopy", "throwaway"} & set(found)
    assert found["reflink"].confidence == "low"  # the bottom would have to move, too
    shared = trace_of(tmp_path / "two", mounts("xfs", "xfs"), how=["reflink"] * 5 + ["none"])
    assert "reflink" not in by_name(advise(shared))


def test_without_phases_the_model_divides_the_time(tmp_path: Path) -> None:
    work = Workload(spans=2003, sync_ns=0, bytes_per_second=1e9)
    made = synthetic.columns(work)
    told = synthetic.columns(work)
    for phase in ("create", "data", "sync", "meta", "link"):
        made[phase] = pa.nulls(2003, pa.int64())
    synthetic.write(tmp_path / "untold", made, changes=mounts("ext4", "xfs"))
    synthetic.write(tmp_path / "told", told, changes=mounts("ext4", "xfs"))
    untold, measured = (by_name(advise(load(tmp_path / one))) for one in ("untold", "told"))
    assert "throwaway" not in untold  # what the fsync took is not known
    assert untold["metacopy"].confidence == "medium"
    assert untold["metacopy"].time.value == pytest.approx(measured["metacopy"].time.value, rel=0.3)
    assert untold["metacopy"].bytes == measured["metacopy"].bytes


def test_paths_are_those_of_copied_data_and_safe_to_open(tmp_path: Path) -> None:
    trace = trace_of(
        tmp_path / "one",
        mounts("ext4", "ext4"),
        path=["/var/a", "/../b", "/log/c", "/etc/d", "/etc/\\xff", "/x"],
        dur=[10, 20, 30, 40, 50, 60],
    )
    assert paths_ahead(trace) == ["/etc/d", "/log/c", "/var/a"]


@pytest.mark.parametrize("form", [[], ["--json"], ["--paths"]])
def test_the_command(
    tmp_path: Path,
    form: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trace_of(tmp_path / "one", mounts("ext4", "xfs", options=f"{OPTIONS},x=\x1b[2J"))
    monkeypatch.setattr(sys, "argv", ["fallthru", "advise", str(tmp_path / "one"), *form])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code or 0, err) == (0, "")
    if form == ["--paths"]:
        assert out.split("\0")[:-1] == ["/var/a", "/log/b", "/log/c", "/etc/d"]
    elif form:
        (first, *_) = json.loads(out)["advice"]
        assert (first["advice"], first["time_saved_ns"], first["bytes_saved"]) == (
            *("ahead", 5000, 1500),
        )
    else:
        assert "metacopy: copy metadata alone" in out
        assert "$ fallthru umount" in out
        assert "\x1b" not in out


def test_nothing_to_advise(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "one", synthetic.empty())
    assert advise(load(tmp_path / "one")) == []


@pytest.fixture
def layers(root: None, tmp_path: Path) -> Iterator[Path]:
    """A bottom of 62 files, and a place to mount it, which is empty again afterwards."""
    doctor = pytest.importorskip("tracer.doctor")
    lacking = [one.name for one in doctor.checks() if one.required and not one.ok]
    if lacking:
        pytest.skip(f"needs: {', '.join(lacking)}")
    for name in ("bottom", "top", "mnt"):
        (tmp_path / name).mkdir()
    for number in range(62):
        (tmp_path / "bottom" / f"f{number}").write_bytes(os.urandom(50_000))
    yield tmp_path
    if os.path.ismount(tmp_path / "mnt"):
        kernel.unmount(str(tmp_path / "mnt"))


def recorded(layers: Path, name: str, action: Callable[[Path], object]) -> Trace:
    from tracer.session import Session

    root = layers / "mnt"
    with Session(mounts=[root]) as session:
        for number in range(31) if name == "before" else range(31, 62):
            action(root / f"f{number}")
    TraceWriter(str(layers / name)).write(session.table(), session.metadata())
    return load(layers / name)


def shell(layers: Path, command: str) -> None:
    """Run an advised command as a user would, with this checkout's ``fallthru``."""
    tool = layers / "bin" / "fallthru"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m overlay "$@"\n')
    tool.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def overlay_of(layers: Path) -> kernel.Overlay:
    return kernel.Overlay(bottoms=(str(layers / "bottom"),), top=str(layers / "top"))


def test_the_command_for_metacopy_leaves_the_data_below(layers: Path) -> None:
    kernel.mount(overlay_of(layers), str(layers / "mnt"))
    before = recorded(layers, "before", lambda file: os.chown(file, 1, 1))
    (found,) = [one for one in advise(before) if one.name == "metacopy"]
    assert (found.spans, found.bytes) == (31, 31 * 50_000)
    shell(layers, found.command)
    after = recorded(layers, "after", lambda file: os.chown(file, 1, 1)).frame
    copied = after[after["ftype"] == "file"]
    assert copied["how"].tolist() == ["metacopy"] * 31
    assert copied["bytes"].sum() == 0


def test_the_command_for_copying_ahead_copies_exactly_those(layers: Path) -> None:
    kernel.mount(overlay_of(layers), str(layers / "mnt"))
    before = recorded(layers, "before", lambda file: file.open("ab").close())
    (found,) = [one for one in advise(before) if one.name == "ahead"]
    kernel.unmount(str(layers / "mnt"))
    shutil.rmtree(layers / "top")
    shutil.rmtree(layers / "top.work")
    (layers / "top").mkdir()
    kernel.mount(overlay_of(layers), str(layers / "mnt"))
    shell(layers, found.command)
    assert {file.name for file in (layers / "top").iterdir()} == {f"f{at}" for at in range(31)}
    assert (layers / "top" / "f7").read_bytes() == (layers / "bottom" / "f7").read_bytes()


@pytest.mark.parametrize(
    ("name", "applied"),
    [("metacopy", "fallthru"), ("throwaway", "throwaway"), ("reflink", "reflink")],
)
def test_predictions_came_true_within_three_tenths(name: str, applied: str) -> None:
    """Traces of one workload, recorded before and after the advice was followed."""
    saves = REPOSITORY / "notebooks" / "data" / "saves"
    before, after = load(saves / "document"), load(saves / applied)
    (found,) = [one for one in advise(before) if one.name == name]
    spent = [int(one.frame["dur"].to_numpy().view("int64").sum()) for one in (before, after)]
    came = spent[0] - spent[1]
    assert found.time.value == pytest.approx(came, rel=0.3)
    fewer = int(before.frame["bytes"].sum() - after.frame["bytes"].sum())
    assert found.bytes == fewer
