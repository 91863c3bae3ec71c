"""``fallthru spec``: output, files and exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from overlay.spec import catalogue
from tests.processes import PATIENCE
from tests.running import need_readable_checkout

CLAUSES = catalogue.load()
KEYS = {"id", "target", "kernel", "status", "expected", "observed", "lines"}


def spec(
    *arguments: str, user: int | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it, piped; it must end with ``code``."""
    done = subprocess.run(
        [sys.executable, "-m", "overlay", "spec", *arguments],
        capture_output=True,
        text=True,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        timeout=PATIENCE,
    )
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


def test_list_is_one_line_a_clause_when_piped() -> None:
    lines = spec("list").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == [clause.id for clause in CLAUSES]
    assert all(len(line.split("\t")) == 3 for line in lines)


def test_list_json_keeps_intention_and_status_apart() -> None:
    listed = json.loads(spec("list", "--json", "--clause", "copyup.ch*").stdout)
    assert [clause["id"] for clause in listed] == [
        "copyup.chmod",
        "copyup.chown",
        "copyup.chattr",
    ]
    for clause in listed:
        assert set(clause) == {
            "id",
            "lines",
            "statement",
            "intended",
            "status2010",
            "check",
            "departures",
        }
        assert "trigger" in clause["intended"]
        assert "not work yet" in clause["status2010"]


@pytest.mark.usefixtures("root")
def test_run_of_everything_here_has_no_failure(tmp_path: Path) -> None:
    junit = tmp_path / "spec.xml"
    chosen = ("--clause", "[a-n]*", "--clause", "userland.*")
    results = json.loads(spec("run", "--json", "--junit", str(junit), *chosen).stdout)
    targets = {"engine", "kernel:document", "kernel:fallthru", "kernel:throwaway", "overlayfs"}
    assert {result["target"] for result in results} == targets
    judged = catalogue.select(CLAUSES, chosen[1::2])
    assert len(results) == len(judged) * len(targets)
    assert all(set(result) == KEYS for result in results)
    assert {result["status"] for result in results} <= {"kept", "departed", "not-run"}
    kernels = {result["kernel"] for result in results}
    # What a builder appended to the version is nobody's business.
    assert all(re.fullmatch(r"\d+\.\d+(\.\d+)?", kernel) for kernel in kernels)
    assert len(kernels) == 1
    assert os.uname().release.startswith(".".join(kernels.pop().split(".")[:2]))
    assert ET.parse(junit).getroot().get("tests") == str(len(results))


@pytest.mark.usefixtures("root")
def test_a_failed_clause_exits_1_and_says_what_was_expected_where() -> None:
    done = spec(
        "run",
        "--clause",
        "example.unlink.*",
        "--mount-command",
        "mount --bind {bottom} {mnt} -o x-was={top}",
        code=1,
    )
    assert "example.unlink.whiteout  failed" in done.stdout
    for part in (
        "L119, L90–L92",
        "expected  oldfile on the top: whiteout",
        "observed  oldfile on the top: nothing",
        "the bottom: .: mtime_ns changed",
        "command:mount: 1 failed",
    ):
        assert part in done.stdout


@pytest.mark.usefixtures("root")
def test_no_target_available_exits_3_and_one_is_enough_for_0() -> None:
    absent = ("--mount-command", "no-such-program-3141 {bottom} {top} {mnt}")
    done = spec("run", "--clause", "example.*", *absent, code=3)
    assert "not run: no program no-such-program-3141" in done.stdout
    assert " kept" not in done.stdout
    done = spec("run", "--clause", "example.*", "--target", "overlayfs", *absent)
    assert "command:no-such-program-3141: 11 not-run" in done.stdout


def test_without_privilege_nothing_is_run_and_the_exit_code_is_3() -> None:
    user = None
    if os.geteuid() == 0:
        user = 65534
        need_readable_checkout()
    done = spec("run", "--target", "overlayfs", "--clause", "example.*", user=user, code=3)
    assert "mounting needs root" in done.stdout


def test_root_of_a_user_namespace_is_not_enough_to_judge() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs: unshare(1)")
    inside = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs: user namespaces")
    done = subprocess.run(
        [*inside, sys.executable, "-m", "overlay", "spec", "run", "--target", "overlayfs"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "root of the initial user namespace" in done.stdout
    assert "kept" not in done.stdout.split("overlayfs:")[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--target", "nonsense"], "no such target: nonsense"),
        (["run", "--clause", "nonsense.*"], "no clause matches"),
        (["list", "--clause", "nonsense.*"], "no clause matches"),
        (["run", "--target", "overlayfs", "--target", "overlayfs"], "given twice"),
        (["run", "--mount-command", "mount {mnt}"], "lacks {bottom}, {top}"),
        (["run", "--top-dir", "/nonexistent"], "does not exist"),
    ],
)
def test_usage_errors_exit_2(arguments: list[str], message: str) -> None:
    assert message in spec(*arguments, code=2).stderr


@pytest.mark.usefixtures("root")
def test_a_report_that_cannot_be_written_exits_5(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "spec.xml"
    done = spec("run", "--clause", "example.*", "--junit", str(missing), code=5)
    assert "cannot be written" in done.stderr


def test_help_shows_examples_and_loads_nothing_heavy() -> None:
    assert "fallthru spec run --junit" in spec("run", "-h").stdout
    code = (
        "import sys, overlay.cli.spec; "
        "print(sorted({'rich', 'tomllib', 'overlay.spec.runner', 'xml'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_coverage_lists_every_line_once() -> None:
    listed = json.loads(spec("list", "--coverage", "--json").stdout)
    assert listed[0]["lines"].startswith("1-")
    assert listed[-1]["lines"].endswith("-708")
    lines = spec("list", "--coverage").stdout.splitlines()
    assert len(lines) == len(listed)
    assert "example.creat.new" in next(line for line in lines if line.startswith("118\t"))
    spec("list", "--coverage", "--clause", "example.*", code=2)


@pytest.mark.usefixtures("root")
def test_runs_are_merged_and_compared(tmp_path: Path) -> None:
    before, after, out = tmp_path / "before.json", tmp_path / "after.json", tmp_path / "out"
    command = ("run", "--json", "--target", "overlayfs", "--clause")
    before.write_text(spec(*command, "example.*").stdout)
    after.write_text(spec(*command, "example.[a-s]*").stdout)
    assert spec("diff", str(before), str(before)).stdout == ""
    gone = spec("diff", str(before), str(after), code=1).stdout
    assert "gone    example.unlink.whiteout on overlayfs: kept -> not judged" in gone
    records = json.loads(after.read_text())
    records[0]["status"] = "failed"
    after.write_text(json.dumps(records))
    done = spec("diff", "--worse", str(before), str(after), code=1)
    assert f"worse   {records[0]['id']} on overlayfs: kept -> failed" in done.stdout
    better = spec("diff", "--worse", str(after), str(before)).stdout
    assert {line.split()[0] for line in better.splitlines()} == {"better", "new"}
    changed = json.loads(spec("diff", "--json", str(before), str(after), code=1).stdout)
    assert changed[0]["direction"] == "worse"
    spec("matrix", str(before), str(after), "-o", str(out), "--junit", str(out / "spec.xml"))
    assert {path.name for path in out.iterdir()} == {
        "index.html",
        "matrix.md",
        "results.json",
        "spec.xml",
    }
    merged = json.loads((out / "results.json").read_text())
    assert next(r for r in merged if r["id"] == records[0]["id"])["status"] == "failed"
    assert "a  overlayfs: " in spec("matrix", str(before)).stdout


@pytest.mark.usefixtures("root")
def test_file_systems_are_judged_in_pairs() -> None:
    done = spec(
        *("run", "--json", "--target", "overlayfs", "--clause", "example.edit.*"),
        *("--bottom-fs", "ext2", "--bottom-fs", "tmpfs", "--top-fs", "ext4"),
    )
    judged = {record["target"]: record["status"] for record in json.loads(done.stdout)}
    assert judged == {"overlayfs on ext4 over ext2": "kept", "overlayfs on ext4 over tmpfs": "kept"}
    assert "no layers can be made on vfat" in spec("run", "--top-fs", "vfat", code=2).stderr
