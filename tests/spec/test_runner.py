"""Clauses run alone: no failure, crash, hang or leak of one reaches another."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from overlay.spec import runner
from overlay.spec.bench import Bench
from overlay.spec.catalogue import Clause, load
from overlay.spec.checks import Check, Observations
from overlay.spec.observe import Lacks
from overlay.spec.targets import EngineTarget, KernelTarget, OverlayfsTarget, Target
from overlay.spec.unprivileged import UnprivilegedTarget
from tests.processes import PATIENCE, orphans_reaped

pytestmark = pytest.mark.usefixtures("root")

TARGET = OverlayfsTarget()

#: What no usual machine has: file systems, NFS, a union as the machine's root.
LACKING = {
    "supported.bottom.iso9660",
    "supported.top.jffs2",
    "nfs.bottom",
    "nfs.top",
    "boot.root",
}

#: Without the clauses about single file systems, each of which makes one.
QUICK = [c for c in load() if not c.id.startswith("supported.")]


def clause(name: str) -> Clause:
    return Clause(name, ("1",), f"{name} holds.", f"{name} holds.", "Works.", f"Checks {name}.")


def fine(b: Bench) -> Observations:
    b.file("file", b"bottom\n")
    b.mount()
    yield b.reads("file", b"bottom\n")


def judge(*checks: Check, patience: float = 30) -> list[runner.Result]:
    clauses = [clause(f"planted.{number}") for number in range(len(checks))]
    by_id = {c.id: check for c, check in zip(clauses, checks, strict=True)}
    return runner.run(clauses, [TARGET], checks=by_id, patience=patience)


def statuses(results: list[runner.Result]) -> list[str]:
    return [result.status for result in results]


def test_an_exception_fails_its_own_clause_with_the_last_line_of_the_traceback() -> None:
    def broken(b: Bench) -> Observations:
        b.mount()
        yield b.lists("", ())
        raise RuntimeError("the check itself is wrong")

    results = judge(fine, broken, fine)
    assert statuses(results) == ["kept", "failed", "kept"]
    assert results[1].observed == "the check: RuntimeError: the check itself is wrong"


def test_a_difference_tells_both_sides_and_only_what_differs() -> None:
    def wrong(b: Bench) -> Observations:
        b.file("file", b"bottom\n")
        b.mount()
        yield b.reads("file", b"bottom\n")
        yield b.reads("file", b"something else\n")

    (result,) = judge(wrong)
    assert result.status == "failed"
    assert result.expected == r"reading file in the union: 'something else\n'"
    assert result.observed == r"reading file in the union: 'bottom\n'"


def test_a_crash_or_a_hang_fails_only_its_clause() -> None:
    def crashes(b: Bench) -> Observations:
        b.mount()
        yield from ()
        os._exit(9)

    def hangs(b: Bench) -> Observations:
        b.mount()
        yield from ()
        threading.Event().wait()

    results = judge(fine, crashes, fine, hangs, fine, patience=5)  # far more than any other takes
    assert statuses(results) == ["kept", "failed", "kept", "failed", "kept"]
    assert results[1].observed == "the process that ran it died"
    assert results[3].observed == "it did not end in 5 s"


def test_what_a_check_leaves_behind_is_reported_and_removed() -> None:
    opened = []

    def keeps_a_file_open(b: Bench) -> Observations:
        b.file("file")
        b.mount()
        opened.append(os.open(b.mnt / "file", os.O_RDONLY))
        yield b.lists("", ("file",))

    results = judge(keeps_a_file_open, fine)
    assert statuses(results) == ["failed", "kept"]
    assert "busy" in results[0].observed


def test_a_changed_bottom_fails_a_clause_that_is_otherwise_kept() -> None:
    def writes_below(b: Bench) -> Observations:
        b.file("dir/file", b"bottom\n")
        b.mount()
        yield b.reads("dir/file", b"bottom\n")
        os.setxattr(b.bottom / "dir/file", "trusted.note", b"changed")

    (result,) = judge(writes_below)
    assert result.status == "failed"
    assert result.observed == "the bottom: dir/file: xattrs changed"


def test_what_a_check_lacks_makes_it_not_run() -> None:
    def lacks(b: Bench) -> Observations:
        yield from ()
        raise Lacks("a moon that is full")

    (result,) = judge(lacks)
    assert (result.status, result.observed) == ("not-run", "not run: a moon that is full")


def test_every_order_gives_the_same_answers() -> None:
    clauses = QUICK
    straight = runner.run(clauses, [TARGET])
    ended: list[str] = []
    shuffled = runner.run(
        clauses, [TARGET], shuffle=20100311, on_result=lambda result: ended.append(result.id)
    )
    assert ended != [c.id for c in clauses]
    assert sorted(ended) == sorted(c.id for c in clauses)
    assert [(r.id, r.status, r.observed) for r in shuffled] == [
        (r.id, r.status, r.observed) for r in straight
    ]


@pytest.mark.parametrize(
    "target",
    [
        EngineTarget(),
        UnprivilegedTarget(),
        *(KernelTarget(profile) for profile in ("document", "fallthru", "throwaway")),
        OverlayfsTarget(),
        OverlayfsTarget((("metacopy", "on"),)),
        OverlayfsTarget((("redirect_dir", "nofollow"), ("index", "on"))),
        OverlayfsTarget((("xino", "on"),)),
        OverlayfsTarget((("userxattr", ""),)),
        OverlayfsTarget((("volatile", ""),)),
    ],
    ids=lambda target: target.name,
)
def test_no_clause_fails_here_and_no_departure_is_stale(
    target: Target,
) -> None:
    by_default = not isinstance(target, OverlayfsTarget) or not target.options
    results = runner.run(load() if by_default else QUICK, [target])
    assert [(r.id, r.observed) for r in results if r.status == "failed"] == []
    assert [r.id for r in results if r.stale] == []
    lacking = {r.id: r.note for r in results if r.status == "not-run"}
    assert all(
        name in LACKING or (target.name == "engine" and note.startswith("a mount ("))
        for name, note in lacking.items()
    ), lacking
    kept = [r for r in results if r.status == "kept"]
    assert len(kept) > 2 * len(results) // 3


def test_a_kept_departure_is_kept_and_called_stale() -> None:
    (chosen,) = (c for c in load() if c.id == "copyup.truncate.only-n-bytes")

    (result,) = runner.run([chosen], [TARGET], checks={chosen.id: fine})
    assert result.status == "kept"
    assert result.stale
    assert "stale" in result.note


def test_another_difference_than_the_announced_one_is_a_failure() -> None:
    (chosen,) = (c for c in load() if c.id == "copyup.truncate.only-n-bytes")

    def differs_otherwise(b: Bench) -> Observations:
        b.mount()
        yield b.same("result", "truncate of 2 MiB and so on", "succeeds", "EIO")

    def differs_by_half(b: Bench) -> Observations:
        b.mount()
        yield b.same("result", "truncate of 2 MiB and so on", "succeeds", "ENOSPC")

    for check in (differs_otherwise, differs_by_half):
        (result,) = runner.run([chosen], [TARGET], checks={chosen.id: check})
        assert result.status == "failed"


def test_nothing_stays_in_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bottoms, tops, scratch = (tmp_path / name for name in ("bottoms", "tops", "scratch"))
    for directory in (bottoms, tops, scratch):
        directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    chosen = [c for c in load() if c.id.startswith(("example.", "mount.", "nonposix."))]
    seen: list[list[str]] = []
    runner.run(
        chosen,
        [TARGET],
        bottom_dir=bottoms,
        top_dir=tops,
        on_result=lambda _: seen.append([str(p) for d in (bottoms, tops) for p in d.iterdir()]),
    )
    assert all(len(made) == 2 for made in seen)  # they were used, both
    assert [*bottoms.iterdir(), *tops.iterdir(), *scratch.iterdir()] == []


KILLED = """
import os, sys, threading
from overlay.spec import runner
from overlay.spec.catalogue import load
from overlay.spec.targets import OverlayfsTarget

def stuck(b):
    b.mount()
    with open(sys.argv[1], "w") as file:  # /proc shows the number outside the namespace
        file.write(os.readlink("/proc/self"))
    threading.Event().wait()
    yield b.lists("", ())

(chosen,) = (c for c in load() if c.id == "atime.top")
runner.run([chosen], [OverlayfsTarget()], checks={chosen.id: stuck})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_it_takes_its_workers_and_mounts_along(
    tmp_path: Path, number: signal.Signals
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with orphans_reaped():
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(fifo)],
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with fifo.open() as file:
            worker = int(file.read())
        inside = Path(f"/proc/{worker}/mountinfo").read_text()
        assert " - overlay " in "\n".join(line for line in inside.splitlines() if "/mnt" in line)
        gone = os.pidfd_open(worker)
        process.send_signal(number)
        assert process.wait(PATIENCE) != 0
        # The worker's end is the end of its namespace, with every mount in it.
        assert select.select([gone], [], [], PATIENCE)[0]
        os.close(gone)
    assert "fallthru-spec" not in Path("/proc/self/mountinfo").read_text()
    if number == signal.SIGINT:
        assert list(tmp_path.glob("fallthru-spec-*")) == []
