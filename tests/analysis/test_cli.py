"""``fallthru report`` as it is run: output, exit codes, the page on disk, start-up."""

from __future__ import annotations

import functools
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.analysis import synthetic
from tests.analysis.commands import Fallthru
from tests.analysis.synthetic import Workload
from tests.fsimages import tmpfs
from tracer.schema import SCHEMA_VERSION

COMMAND = (sys.executable, "-c", "from overlay.cli import main; main()", "report")


@pytest.fixture
def report(fallthru: Fallthru) -> Fallthru:
    """Run ``fallthru report`` in this process, in ``tmp_path``: exit code and output."""
    return functools.partial(fallthru, "report")


def test_terminal_summary_and_page(tmp_path: Path, report: Fallthru) -> None:
    made = synthetic.trace(tmp_path / "one", Workload(spans=211))
    page = tmp_path / "page.html"
    done = report(tmp_path / "one", "-o", page)
    assert (done.returncode, done.stderr) == (0, "")
    assert "211 copyups of 211 files" in done.stdout
    for process in set(made["comm"]):
        assert f"  {process} " in done.stdout
    assert "\x1b" not in done.stdout  # no colours in a pipe
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["one", "page.html"]


def test_a_terminal_comparison_names_what_changed(tmp_path: Path, report: Fallthru) -> None:
    before = synthetic.trace(tmp_path / "document", Workload(spans=211))
    synthetic.trace(tmp_path / "fallthru", Workload(spans=211, metacopy=True))
    done = report("document", "fallthru")
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout[done.stdout.index("fallthru against document") :]
    assert "211 files in both, 0 and 0 in one only" in last
    chowned = int(np.sum(before["op"] == "fchownat"))
    typical, *_, row = (line.split() for line in last.splitlines() if line.startswith("  fchownat"))
    assert typical[1:3] == [str(chowned)] * 2
    assert typical[-1] == "faster"
    assert row[1:3] == [str(chowned)] * 2
    assert "less" in row
    assert row[-2:] == ["0", "B"]  # metadata alone went up


def test_json_holds_the_same_figures(tmp_path: Path, report: Fallthru) -> None:
    made = synthetic.trace(tmp_path / "document", Workload(spans=211))
    synthetic.trace(tmp_path / "fallthru", Workload(spans=211, metacopy=True))
    done = report("document", "fallthru", "--json", "--top", "2")
    assert done.returncode == 0
    data = json.loads(done.stdout)
    first, second = data["runs"]
    assert (first["name"], second["name"]) == ("document", "fallthru")
    assert first["copyups"]["spans"] == 211
    assert first["copyups"]["time_ns"] == int(sum(made["dur"]))
    assert first["copyups"]["bytes"] == int(sum(made["bytes"]))
    assert first["metadata"]["mounts"] == synthetic.metadata(0).mounts
    assert len(first["by"]["process"]) == len(first["top_files"]) == 2
    assert [row["phase"] for row in first["phases"]] == [
        *("create", "data", "sync", "meta", "link", "other")
    ]
    (comparison,) = data["comparisons"]
    saved = first["copyups"]["time_ns"] - second["copyups"]["time_ns"]
    assert comparison["time_saved_ns"] == saved
    assert comparison["files"] == {"both": 211, "only_before": 0, "only_after": 0}
    assert data["damage"] == []
    assert data["page"] is None


def test_json_of_an_empty_trace(tmp_path: Path, report: Fallthru) -> None:
    synthetic.write(tmp_path / "one", synthetic.empty())
    page = tmp_path / "page.html"
    done = report(tmp_path / "one", "--json", "-o", page)
    assert done.returncode == 0
    data = json.loads(done.stdout)
    assert data["page"] == str(page)
    assert "No copyup was recorded" in page.read_text()
    assert data["runs"][0]["copyups"]["spans"] == 0
    assert data["runs"][0]["copyups"]["p50_ns"] is None
    assert "NaN" not in done.stdout


def test_damage_is_reported_with_exit_1_and_the_rest_is_shown(
    tmp_path: Path, report: Fallthru
) -> None:
    parts = synthetic.write(tmp_path / "one", synthetic.columns(Workload(spans=90)), parts=3)
    Path(parts[0]).write_bytes(b"gone")
    page = tmp_path / "page.html"
    for done in (report(tmp_path / "one", "-o", page), report(tmp_path / "one", "--json")):
        assert done.returncode == 1
        assert "damaged trace" in done.stderr
        assert "part-00000" in done.stderr
        if done.stdout.startswith("{"):
            assert [one["path"] for one in json.loads(done.stdout)["damage"]] == [parts[0]]
        else:
            assert "60 copyups" in done.stdout
    assert "part-00000" in page.read_text()


def test_lost_events_are_said(tmp_path: Path, report: Fallthru) -> None:
    made = synthetic.columns(Workload(spans=9))
    synthetic.write(tmp_path / "one", made, changes={"lost": 4321})
    assert "4,321 events lost" in report(tmp_path / "one").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Name traces"),
        (["missing"], 2, "no such trace: missing"),
        (["nothing"], 2, "not a trace"),
        (["one", "--top", "0"], 2, "--top"),
        (["newer"], 3, "schema version"),
        (["broken"], 5, "no part of"),
        (["one", "-o", "absent/page.html"], 2, "no such directory"),
        (["one", "-o", "nothing"], 2, "not a regular file"),
        (["one", "-o", "/dev/full"], 2, "not a regular file"),
        (["empty", "-o", "/proc/page.html"], 5, "cannot write"),
    ],
)
def test_errors_have_their_exit_code_a_cause_and_nothing_left(
    tmp_path: Path, report: Fallthru, arguments: list[str], code: int, said: str
) -> None:
    made = synthetic.columns(Workload(spans=3))
    synthetic.write(tmp_path / "one", made)
    synthetic.write(tmp_path / "empty", synthetic.empty())  # its page needs no pictures
    synthetic.write(tmp_path / "newer", made, changes={"version": SCHEMA_VERSION + 1})
    Path(synthetic.write(tmp_path / "broken", made)[0]).write_bytes(b"x")
    (tmp_path / "nothing").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = report(*arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_is_replaced_whole_and_through_a_link(tmp_path: Path, report: Fallthru) -> None:
    synthetic.write(tmp_path / "one", synthetic.empty())
    (tmp_path / "real.html").write_text("old")
    (tmp_path / "link.html").symlink_to("real.html")
    assert report(tmp_path / "one", "-o", tmp_path / "link.html").returncode == 0
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "real.html").read_text().startswith("<!DOCTYPE html>")


def test_a_full_file_system_leaves_the_old_page(
    root: None, tmp_path: Path, report: Fallthru
) -> None:
    synthetic.write(tmp_path / "one", synthetic.empty())
    (tmp_path / "small").mkdir()
    with tmpfs(tmp_path / "small", options={"size": "8k"}) as small:
        (small / "page.html").write_text("old")
        done = report(tmp_path / "one", "-o", small / "page.html")
        assert done.returncode == 5
        assert "No space left on device" in done.stderr
        assert (small / "page.html").read_text() == "old"
        assert [entry.name for entry in small.iterdir()] == ["page.html"]


def test_a_terminal_gets_tables_and_names_are_not_markup(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=3))
    made["comm"] = ["[red]boo[/red]", "\x1b[2Jclear", "plain"]
    synthetic.write(tmp_path / "one", made)
    reader, writer = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    with subprocess.Popen(
        [*COMMAND, str(tmp_path / "one")], stdout=writer, stderr=writer, env=environment
    ) as process:
        os.close(writer)
        seen = b""
        while True:
            try:
                chunk = os.read(reader, 65536)
            except OSError:  # the terminal closes with its last writer
                break
            seen += chunk
    os.close(reader)
    assert process.returncode == 0
    text = seen.decode()
    assert "[red]boo[/red]" in text
    assert "\\x1b[2Jclear" in text
    assert "\x1b[2J" not in text
    assert "─" in text


def test_help_needs_no_pandas(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom overlay.cli.group import command\n"
        "for verb in ('report', 'advise', 'fleet'):\n"
        "    done = CliRunner().invoke(command, [verb, '--help'])\n"
        "    assert done.exit_code == 0 and 'Examples' in done.output, done.output\n"
        "heavy = {'pandas', 'numpy', 'matplotlib', 'pyarrow', 'rich', 'dask', 'distributed',"
        " 'fsspec'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
