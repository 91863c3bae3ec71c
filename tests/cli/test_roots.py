"""Roots by name: created, started, entered, listed, stopped, removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from overlay import mountinfo, runstate, syscalls
from overlay.errors import FallthruError, Refused, TopInUse
from overlay.inuse import top_in_use
from overlay.roots import enclosure, net
from overlay.roots import named as roots
from overlay.roots import notes as rootnotes
from overlay.roots.cgroups import Limits
from overlay.roots.root import Root
from tests.conftest import Layers
from tests.fsimages import tmpfs
from tests.networks import interfaces
from tests.overlay.faults import CRASHED, crash_before, faulty
from tests.processes import children, wait_gone
from tests.running import REPOSITORY, fallthru
from tests.smallroots import small_root

MS_RDONLY, MS_REMOUNT = 1, 32  # include/uapi/linux/mount.h


@pytest.fixture(autouse=True)
def registry(network: None) -> Iterator[Path]:
    """Roots of this test only; all of them are stopped."""
    directory = Path("/var/lib/fallthru")
    directory.mkdir(parents=True, exist_ok=True)
    with tmpfs(directory):
        yield directory / "roots"
        for each in listed():
            if each["running"]:
                fallthru("stop", "--timeout", "0", str(each["name"]))
                wait_gone(int(str(each["pid"])))


@pytest.fixture
def bottom(layers: Layers) -> Path:
    return small_root(layers.bottom)


def listed() -> list[dict[str, object]]:
    found = json.loads(fallthru("list", "--json").stdout)
    assert isinstance(found, list)
    return found


def ok(*arguments: str | Path) -> str:
    done = fallthru(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pid_of(name: str) -> int:
    (pid,) = [each["pid"] for each in listed() if each["name"] == name]
    assert isinstance(pid, int)
    return pid


def test_a_life(bottom: Path, registry: Path) -> None:
    top = ok("create", "web", "--bottom", bottom).strip()
    assert top == str(registry / "web" / "top")
    assert [(each["name"], each["running"]) for each in listed()] == [("web", False)]
    ok("start", "web")
    assert [each["running"] for each in listed()] == [True]
    script = "echo new > /etc/new; cat /proc/1/comm /proc/sys/kernel/hostname"
    assert ok("exec", "web", "--", "sh", "-c", script) == "cat\nweb\n"
    assert ok("exec", "web", "cat", "/etc/new") == "new\n"
    assert Path(top, "etc/new").exists()
    assert fallthru("exec", "web", "--", "sh", "-c", "exit 7").returncode == 7
    pid = pid_of("web")
    ok("stop", "web")
    wait_gone(pid)
    assert [each["running"] for each in listed()] == [False]
    ok("start", "web")
    assert ok("exec", "web", "cat", "/etc/new") == "new\n"
    pid = pid_of("web")
    assert fallthru("rm", "--yes", "web").returncode == 4
    ok("stop", "web")
    wait_gone(pid)
    ok("rm", "--yes", "web")
    assert listed() == []
    assert not os.listdir(registry)
    assert not (bottom / "etc/new").exists()


def test_nothing_of_it_is_seen_outside(bottom: Path) -> None:
    before = mountinfo.read()
    ok("create", "web", "--bottom", bottom)
    ok("start", "web")
    assert mountinfo.read() == before


def test_many_share_a_bottom_and_nothing_else(bottom: Path) -> None:
    names = ["a", "b", "c"]
    for name in names:
        ok("create", name, "--bottom", bottom, "--net", "bridge=ft-many")
    ok("start", *names)
    for name in names:
        ok("exec", name, "--", "sh", "-c", f"echo {name} > /etc/mine")
    assert [ok("exec", name, "cat", "/etc/mine") for name in names] == ["a\n", "b\n", "c\n"]
    addresses = {str(each["address"]) for each in listed()}
    assert len(addresses) == 3
    hosts = ok("exec", "a", "cat", "/etc/hosts").splitlines()
    assert {line.split()[1] for line in hosts} >= set(names)
    pids = [pid_of(name) for name in names]
    ok("stop", "a", "b", "c")
    for pid in pids:
        wait_gone(pid)
    assert "ft-many" not in interfaces()


def test_stopping_asks_before_it_kills(bottom: Path, layers: Layers) -> None:
    ok("create", "web", "--bottom", bottom, "--bind", f"{layers.base}/mnt:/out")
    ok("start", "web")
    pid = pid_of("web")
    script = "trap 'echo asked > /out/asked; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    running = subprocess.Popen(
        [sys.executable, "-m", "overlay", "exec", "web", "--", "sh", "-c", script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    ok("stop", "--timeout", "200", "web")  # what ends by itself is not waited for so long
    running.communicate()
    wait_gone(pid)
    assert running.returncode == 3
    assert (layers.mnt / "asked").read_text() == "asked\n"


def test_killed_it_is_taken_up_by_the_next_command(bottom: Path) -> None:
    ok("create", "web", "--bottom", bottom, "--net", "bridge=ft-kill")
    ok("start", "web")
    pid = pid_of("web")
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    assert [each["running"] for each in listed()] == [False]
    assert "ft-kill" not in interfaces()
    assert not os.listdir(f"{runstate.DIRECTORY}/roots")
    ok("start", "web")


def test_a_note_of_another_boot_means_nothing(bottom: Path) -> None:
    """After a reboot the number may be another process's."""
    ok("create", "web", "--bottom", bottom)
    ok("start", "web")
    note = Path(runstate.DIRECTORY, "roots", "web")
    pid = pid_of("web")
    kept = json.loads(note.read_text())
    note.write_text(json.dumps({**kept, "boot": "another"}))
    assert [each["running"] for each in listed()] == [False]
    note.write_text(json.dumps({**kept, "started": 1}))  # the same number, another process
    assert [each["running"] for each in listed()] == [False]
    assert not note.exists()
    os.kill(pid, 0)  # nobody touched whoever has that number
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)


def test_what_is_wrong_is_said(bottom: Path, layers: Layers) -> None:
    assert fallthru("start", "nobody").returncode == 2
    assert fallthru("create", "../up", "--bottom", bottom).returncode == 2
    assert fallthru("create", "web", "--bottom", layers.base / "nowhere").returncode == 2
    ok("create", "web", "--bottom", bottom)
    assert fallthru("create", "web", "--bottom", bottom).returncode == 4
    assert fallthru("stop", "web").returncode == 2
    assert fallthru("exec", "web", "true").returncode == 2
    ok("start", "web")
    assert fallthru("start", "web").returncode == 4


def test_a_top_serves_one_root(bottom: Path, layers: Layers) -> None:
    for name in ("one", "two"):
        ok("create", name, "--bottom", bottom, "--top", layers.top)
    ok("start", "one")
    done = fallthru("start", "two")
    assert done.returncode == 4
    assert "in use" in done.stderr
    assert [each["running"] for each in listed()] == [True, False]


# ---------------------------------------------------------------------------- bad days


def test_killed_at_every_step_of_its_making(bottom: Path, registry: Path) -> None:
    create = partial(roots.create, Root("web", (str(bottom),)), Limits())
    create()
    roots.remove("web")
    number = 1
    while crash_before(number, create):
        number += 1
        if not (registry / "web" / "root.json").exists():
            create()  # what was left is no root, and in nobody's way
        assert roots.load("web")[0].bottoms == (str(bottom),)
        roots.remove("web")
        assert os.listdir(registry) == []
    assert number > 5


def test_killed_at_every_step_of_its_start(bottom: Path) -> None:
    """Nothing runs that nobody knows of, and the top is free; or it runs."""
    wish = net.Wish("bridge", "ft-start")
    top = roots.create(Root("web", (str(bottom),), network=wish), Limits()).top
    before = children()
    assert top is not None
    number = 1
    while _killed_starting("web", number):
        number += 1
        running = "web" in rootnotes.standings()
        if running:
            assert ok("exec", "web", "cat", "/proc/1/comm") == "cat\n"
            roots.stop("web", patience=0)
        # Orphans become this process's (tests/conftest.py), and so do theirs.
        while orphans := children() - before:
            for pid in orphans:
                wait_gone(pid)
        assert not top_in_use(top), f"killed before step {number}"
        assert "ft-start" not in interfaces()
    assert number > 5
    assert list(rootnotes.standings()) == ["web"]


def _killed_starting(name: str, number: int) -> bool:
    """Start a root in a child that ends before its step ``number``; whether it came so far."""
    child = os.fork()
    if child == 0:
        starter, code = os.getpid(), 1

        def fault(each: int) -> None:
            if os.getpid() == starter and each == number:
                os._exit(CRASHED)

        try:
            with faulty(fault):
                roots.start(name)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, CRASHED)
    return code == CRASHED


@pytest.fixture
def made(bottom: Path) -> list[str]:
    """Two roots."""
    names = ["db", "web"]
    for name in names:
        roots.create(Root(name, (str(bottom),)), Limits())
    return names


def test_its_disk_becomes_read_only_while_it_runs(made: list[str], registry: Path) -> None:
    pid = roots.start("web").pid
    syscalls.mount(None, registry.parent, None, MS_REMOUNT | MS_RDONLY, None)
    assert list(rootnotes.standings()) == ["web"]
    done = fallthru("exec", "web", "--", "sh", "-c", "cat /etc/passwd && echo new > /etc/new")
    assert "root:x:0" in done.stdout
    assert "Read-only file system" in done.stderr
    roots.stop("web", patience=0)
    wait_gone(pid)
    done = fallthru("rm", "--yes", "web")
    assert done.returncode == 5
    assert "Read-only file system" in done.stderr
    with pytest.raises(FallthruError, match="read-only"):
        roots.start("web")
    syscalls.mount(None, registry.parent, None, MS_REMOUNT, None)
    assert rootnotes.names() == made
    assert rootnotes.standings() == {}
    roots.start("web")


def test_its_note_is_lost_while_it_runs(made: list[str]) -> None:
    """As when somebody empties /run: the kernel still knows that the top is in use."""
    pid = roots.start("web").pid
    Path(runstate.DIRECTORY, "roots", "web").unlink()
    assert rootnotes.standings() == {}
    with pytest.raises(TopInUse) as caught:
        roots.start("web")
    assert f"kill {pid}" in str(caught.value.hint)
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    roots.start("web")


def test_a_newer_one_started_it(made: list[str]) -> None:
    pid = roots.start("web").pid
    note = Path(runstate.DIRECTORY, "roots", "web")
    kept = note.read_text()
    note.write_text(json.dumps({**json.loads(kept), "format": 99, "started": "yes", "more": {}}))
    command = enclosure.Command(("ls",))
    for action in (
        roots.stop,
        roots.start,
        roots.remove,
        lambda name: roots.execute(name, command),
    ):
        with pytest.raises(Refused, match="the root web was started by a newer fallthru"):
            action("web")
    assert "started by a newer fallthru" in ok("list")
    os.kill(pid, 0)
    note.write_text(kept)
    roots.start("db")
    assert [(each["name"], each["running"]) for each in listed()] == [("db", True), ("web", True)]


def test_a_newer_one_made_it(made: list[str], registry: Path) -> None:
    (registry / "web" / "root.json").write_text(json.dumps({"format": 99, "roots": ["another"]}))
    for action in (roots.start, roots.remove):
        with pytest.raises(Refused, match="the root web was made by a newer fallthru"):
            action("web")
    assert ["error" in each for each in listed()] == [False, True]
    with pytest.raises(Refused, match="there is a root web already"):
        roots.create(Root("web", ("/",), top="/nowhere"), Limits())
    assert (registry / "web" / "top").is_dir()


def test_an_older_one_made_and_started_it(made: list[str], registry: Path) -> None:
    """Before there were limits, networks and binds, and before notes had a number."""
    config = registry / "web" / "root.json"
    document = json.loads(config.read_text())
    old = {key: document["root"][key] for key in ("name", "bottoms", "top")}
    config.write_text(json.dumps({"format": 1, "root": old}))
    pid = roots.start("web").pid
    note = Path(runstate.DIRECTORY, "roots", "web")
    written = json.loads(note.read_text())
    note.write_text(
        json.dumps({key: written[key] for key in ("name", "pid", "started", "since", "boot")})
    )
    assert rootnotes.standings()["web"].pid == pid
    roots.stop("web", patience=0)
    wait_gone(pid)
