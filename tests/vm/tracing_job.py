"""Runs in a guest: the same work before any backend, and what that made of it, as JSON."""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.rawoverlay import overlay
from tests.running import in_child
from tracer.backend import open_backend
from tracer.footprint import keep_nothing, stay_small
from tracer.histogram import Histogram
from tracer.preemption import preempts
from tracer.program import Filters
from tracer.rows import plain_rows
from tracer.session import Session

BACKENDS = ("fentry", "kprobe", "tracepoint")
FACTS = ("op", "path", "ftype", "size", "bytes", "how", "errno", "flags")
BASE = Path("/tmp/traced")
#: Where probes are kept that were compiled, for the other commands of a guest as well.
KEPT = "/run/probes"
THREADS, EACH = 32, 7
LONGEST = 600  # seconds for a backend; on two busy cores the first takes two minutes

#: bpftrace counts, too, without any code of ours: copyups that were begun.
ORACLE = "kretfunc:overlay:ovl_copy_up_start /retval == 0/ { @ = count(); }"


@contextmanager
def top(name: str, size: str = "512m") -> Iterator[Path]:
    """A tmpfs with ``top`` and ``work`` in it, and the place to mount at."""
    base = BASE / name
    base.mkdir(parents=True)
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size}", "top", base), check=True)
    for directory in ("top", "work", "mnt"):
        (base / directory).mkdir()
    try:
        yield base
    finally:
        subprocess.run(("umount", "-R", base), check=True)
        base.rmdir()


def make_bottom() -> Path:
    bottom = BASE / "bottom"
    (bottom / "a/b/c").mkdir(parents=True)
    for number in range(1, 14):
        (bottom / f"f{number}").write_bytes(b"x" * number * 1009)
    (bottom / "a/b/c/deep").write_bytes(b"y" * 70001)
    (bottom / "empty").touch()
    os.symlink("nowhere", bottom / "link")
    os.mkfifo(bottom / "fifo")
    (bottom / "threads").mkdir()
    for number in range(THREADS * EACH):
        (bottom / "threads" / str(number)).write_bytes(b"t" * number)
    (bottom / "large").write_bytes(b"l" * (64 << 20))
    return bottom


def known_work(mnt: Path) -> None:
    for number in range(1, 8):
        os.close(os.open(mnt / f"f{number}", os.O_WRONLY | os.O_APPEND))
    os.chmod(mnt / "f8", 0o600)
    os.close(os.open(mnt / "f8", os.O_RDWR))
    os.truncate(mnt / "f9", 4)
    os.close(os.open(mnt / "f10", os.O_WRONLY | os.O_TRUNC))
    os.link(mnt / "f11", mnt / "f11.link")
    os.setxattr(mnt / "f12", "trusted.test", b"1")
    os.utime(mnt / "empty", (1, 1))
    os.chmod(mnt / "a/b/c/deep", 0o600)
    os.lchown(mnt / "link", 7, 7)
    os.lchown(mnt / "fifo", 7, 7)
    os.rename(mnt / "f13", mnt / "moved")


def threads(mnt: Path) -> None:
    barrier = threading.Barrier(THREADS)

    def work(first: int) -> None:
        barrier.wait()
        for number in range(first, THREADS * EACH, THREADS):
            os.close(os.open(mnt / "threads" / str(number), os.O_WRONLY))

    running = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def killed(base: Path) -> int:
    """A process that is killed while it copies up; its number."""
    free = os.statvfs(base).f_bfree
    child = os.fork()
    if child == 0:
        os.open(base / "mnt" / "large", os.O_WRONLY)
        os._exit(0)
    while free - os.statvfs(base).f_bfree < 100:
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return child


@contextmanager
def bpftrace(counted: dict[str, int]) -> Iterator[None]:
    """bpftrace at work, which ends with the process it is told to look after.

    SIGINT would not do: unless it comes while bpftrace waits for events, it is forgotten
    (0.17, and two times in three right after its first words).
    """
    awaited = subprocess.Popen(("cat",), stdin=subprocess.PIPE)
    command = (
        *("bpftrace", "-B", "line", "-p", str(awaited.pid)),
        *("-e", f'{ORACLE} BEGIN {{ printf("ready\\n"); }}'),
    )
    with awaited, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as oracle:
        assert oracle.stdout is not None
        while oracle.stdout.readline() not in ("ready\n", ""):
            pass
        try:
            yield
        finally:
            awaited.communicate()
        found = re.search(r"^@: (\d+)", oracle.stdout.read(), re.M)
        counted["bpftrace"] = int(found[1]) if found else -1


def every_row(session: Session) -> list[dict[str, Any]]:
    """By time."""
    return plain_rows(session.table().sort_by("ts"))


def rows(session: Session, kind: str = "copyup", **only: Any) -> list[dict[str, Any]]:
    only["kind"] = kind
    found = every_row(session)
    return [row for row in found if all(row[name] == value for name, value in only.items())]


def facts(found: list[dict[str, Any]]) -> list[list[Any]]:
    return [[row[name] for name in FACTS] for row in found]


def parents(session: Session) -> list[list[str]]:
    """Kind and path of what has a parent, and the parent's."""
    every = {row["id"]: row for row in every_row(session)}
    return [
        [*(one[name] for one in (row, every[row["parent"]]) for name in ("kind", "path"))]
        for row in every.values()
        if row["parent"] is not None
    ]


def latencies(session: Session) -> list[list[Any]]:
    names = ("kind", "outcome", "layers", "count")
    return [[one[name] for name in names] for one in session.metadata().latencies]


def looking(backend: str, bottom: Path) -> dict[str, Any]:
    """Names that are there, or not, for each of the reasons; and directories to read."""
    middle = BASE / "middle"
    for place in (middle / "both", bottom / "both", bottom / "again"):
        place.mkdir(parents=True)
        (place / place.parent.name).touch()
    with top("looking") as base:
        options: dict[str, str] = {}
        layers = (base / "mnt", [middle, bottom], base / "top", base / "work", options)
        with overlay(*layers) as mnt:
            (mnt / "mine").touch()
            (mnt / "plain").mkdir()
            os.unlink(mnt / "f1")
            os.unlink(mnt / "again" / "bottom")
            os.rmdir(mnt / "again")
            os.mkdir(mnt / "again")
        rows_of = () if backend == "tracepoint" else ("lookup", "readdir", "open")
        # Mounted anew: no name is in the cache.
        with overlay(*layers) as mnt, Session([mnt], backend=backend, rows=rows_of) as session:
            for name in ("f2", "mine", "both", "f1", "nothing", "again/bottom"):
                (mnt / name).exists()
            for name in ("both", "both", "plain"):
                os.listdir(mnt / name)
            os.close(os.open(mnt / "f3", os.O_RDONLY))
        shutil.rmtree(middle)
        for name in ("both", "again"):
            shutil.rmtree(bottom / name)
    by_rows, by_kernel = Histogram(), Histogram()
    by_rows.add([row["dur"] for row in rows(session, "lookup")])
    for one in session.metadata().latencies:
        if one["kind"] == "lookup":
            counts = {int(bucket): count for bucket, count in one["buckets"].items()}
            by_kernel.merge(Histogram(counts, one["count"], one["sum_ns"]))
    names = ("path", "outcome", "layers", "entries")
    return {
        **{k: [[row[n] for n in names] for row in rows(session, k)] for k in rows_of},
        "unseen": session.metadata().unseen,
        "by rows": [sorted(by_rows.counts.items()), by_rows.sum],
        "by kernel": [sorted(by_kernel.counts.items()), by_kernel.sum],
    }


def before(backend: str, bottom: Path) -> dict[str, Any]:
    told: dict[str, Any] = {}
    options = {"metacopy": "on"}
    with (
        top("one") as one,
        overlay(one / "mnt", [bottom], one / "top", one / "work", options) as mnt,
        Session(mounts=[mnt], backend=backend) as session,
    ):
        counted: dict[str, int] = {}
        with bpftrace(counted):
            known_work(mnt)
        told["known"] = facts(rows(session))
        told["oracle"] = counted["bpftrace"]
        told["phases"] = sorted({k for row in rows(session) for k in PHASES if row[k] is not None})
        told["parents"] = parents(session)
        told["latencies"] = latencies(session)
        told["lost"] = [session.lost, session.unmatched]
        seen = len(rows(session))
        threads(mnt)
        told["lost of threads"] = session.lost
        told["threads"] = facts(rows(session)[seen:])
        seen = len(rows(session))
        child = killed(one)
        told["killed"] = facts(rows(session, pid=child))
        told["large"] = (one / "top" / "large").exists()
    with (
        top("small", "1m") as small,
        overlay(small / "mnt", [bottom], small / "top", small / "work", {}) as mnt,
        Session(mounts=[mnt], backend=backend) as session,
    ):
        try:
            os.open(mnt / "large", os.O_WRONLY)
        except OSError as error:
            told["error"] = errno.errorcode[error.errno or 0]
        told["full"] = facts(rows(session))
    if backend == ("kprobe" if preempts() else "fentry"):
        chosen = open_backend(None, Filters())
        told["chosen"] = chosen.name
        chosen.close()
    told.update(unions(backend, bottom))
    told["looking"] = looking(backend, bottom)
    return told


def unions(backend: str, bottom: Path) -> dict[str, Any]:
    """Two recorders, each of one of two unions on the same bottom; and a union on a union."""
    with (
        top("one") as one,
        top("two") as two,
        overlay(one / "mnt", [bottom], one / "top", one / "work", {}) as first,
        overlay(two / "mnt", [first], two / "top", two / "work", {}) as nested,
        top("three") as three,
        overlay(three / "mnt", [bottom], three / "top", three / "work", {}) as second,
        Session(mounts=[first, nested], backend=backend) as both,
        Session(mounts=[second], backend=backend) as other,
    ):
        os.chmod(nested / "f1", 0o600)
        os.chmod(first / "f2", 0o600)
        os.chmod(second / "f1", 0o600)
        os.chmod(second / "f2", 0o600)
        os.chmod(second / "f3", 0o600)
        return {
            name: [[Path(row["mount"]).parent.name, row["path"]] for row in rows(session)]
            for name, session in (("both", both), ("other", other))
        }


PHASES = ("create", "data", "sync", "meta", "link")


def end_what_hangs() -> None:
    """Say on standard error where this process and others are, then end: nobody else can."""
    print(f"tracing_job: still at work after {LONGEST} s", file=sys.stderr, flush=True)
    faulthandler.dump_traceback()
    no_kernel_threads = ("--ppid", "2", "-p", "2", "--deselect")
    command = ("ps", *no_kernel_threads, "-o", "pid,ppid,stat,wchan:24,args")
    subprocess.run(command, stdout=sys.stderr, check=False)
    os._exit(1)


def told(backend: str, bottom: Path) -> str:
    limit = threading.Timer(LONGEST, end_what_hangs)
    limit.start()
    try:
        return json.dumps(before(backend, bottom))
    except BaseException:
        traceback.print_exc()
        raise


def main() -> None:
    """Each backend after the other: what takes emulation half a minute to import is there once."""
    stay_small()
    keep_nothing()  # no threads, for one
    BASE.mkdir()
    os.environ["CACHE_DIRECTORY"] = KEPT
    bottom = make_bottom()
    each = {backend: in_child(partial(told, backend, bottom)) for backend in BACKENDS}
    json.dump(each, sys.stdout)


if __name__ == "__main__":
    main()
