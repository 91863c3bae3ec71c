"""``fallthru try``: on this very system, in this run's mount namespace."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fsimages import next_tick
from tests.processes import PATIENCE, descendants, wait_gone
from tests.running import REPOSITORY, fallthru, need_readable_checkout

COMMAND = [sys.executable, "-m", "overlay", "try"]
USER = 4242  # nobody's


@pytest.fixture
def place(root: None, tmp_path: Path) -> Path:
    """A directory of the root file system, with files that trials change."""
    (tmp_path / "old").write_text("old")
    (tmp_path / "gone").write_text("gone")
    return tmp_path


def tried(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return fallthru("try", *arguments)


def changing(place: Path) -> tuple[str, ...]:
    script = 'cd "$0"; echo new > new; echo more >> old; rm gone; mkdir dir; echo in > dir/in'
    return ("--", "sh", "-c", script, str(place))


def started(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestTheView:
    def test_changes_are_told_and_thrown_away(self, place: Path) -> None:
        done = tried("--discard", *changing(place))
        assert done.returncode == 0
        assert sorted(os.listdir(place)) == ["gone", "old"]
        assert (place / "old").read_text() == "old"
        told = {line.split("  ")[0] for line in done.stderr.splitlines()}
        assert {f"A {place}/new", f"C {place}/old", f"D {place}/gone", f"A {place}/dir/"} <= told
        assert done.stdout == ""

    def test_every_mount_is_overlaid(self, tmpfs_dir: Path, tmp_path: Path) -> None:
        done = tried("--json", "--", "touch", tmpfs_dir / "there", tmp_path / "here")
        told = json.loads(done.stdout)
        assert {each["path"] for each in told["changes"]} == {
            f"{tmpfs_dir}/there"[1:],
            f"{tmp_path}/here"[1:],
        }
        assert not os.listdir(tmpfs_dir)
        assert not (tmp_path / "here").exists()

    def test_what_is_not_overlaid_is_stated(self, root: None) -> None:
        told = json.loads(tried("--json", "--", "true").stdout)
        reasons = {each["path"]: each["why"] for each in told["not_overlaid"]}
        assert reasons["/sys"] == "sysfs, as it is"
        assert "/dev" in reasons

    def test_processes_devices_and_kernel_views(self, root: None) -> None:
        script = (
            "echo $$; cat /proc/self/comm; echo x > /dev/null; test -e /dev/shm && ls /sys/kernel "
            ">/dev/null && grep -c . /proc/self/mountinfo >/dev/null && echo fine"
        )
        assert tried("--", "sh", "-c", script).stdout == "2\ncat\nfine\n"

    def test_the_old_root_is_out_of_sight(self, root: None) -> None:
        told = tried("--", "grep", "-c", " / / ", "/proc/self/mountinfo").stdout
        assert int(told) == 1

    def test_environment_directory_input_and_exit_code(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TRIED", "yes")
        done = subprocess.run(
            [*COMMAND, "--", "sh", "-c", 'echo "$TRIED $PWD"; cat; exit 7'],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            input="input\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == f"yes {place}\ninput\n"
        assert done.returncode == 7

    def test_the_code_of_a_signal_and_of_no_command(self, root: None) -> None:
        assert tried("--", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
        done = tried("--", "/no/such/command")
        assert done.returncode == 127
        assert "/no/such/command" in done.stderr

    @pytest.mark.parametrize("path", ["no:a:b/tool:b", "no:a:b/tool", "no:b/tool"])
    def test_a_command_is_looked_for_as_env_1_does(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        for directory, mode in (("a", 0o644), ("b", 0o755)):
            (place / directory).mkdir()
            (place / directory / "tool").write_text("#!/bin/sh\necho $0\n")
            (place / directory / "tool").chmod(mode)
        places = ":".join(str(place / each) for each in path.split(":"))
        expected = subprocess.run(
            ["/usr/bin/env", "tool"],
            env={"PATH": places},
            capture_output=True,
            text=True,
            check=False,
        )
        monkeypatch.setenv("PATH", places)
        done = tried("--", "tool")
        assert (done.returncode, done.stdout) == (expected.returncode, expected.stdout)

    def test_what_is_shared_is_the_real_one(self, place: Path) -> None:
        shared = place / "shared"
        shared.mkdir()
        done = tried("--share", shared, "--", "touch", shared / "real", place / "trial")
        assert done.returncode == 0
        assert os.listdir(shared) == ["real"]
        assert not (place / "trial").exists()

    def test_renaming_a_directory_works(self, place: Path) -> None:
        (place / "a").mkdir()
        (place / "a" / "file").write_text("data")
        code = "import os, sys; os.chdir(sys.argv[1]); os.rename('a', 'b'); print(os.listdir('b'))"
        done = tried("--commit", "--yes", "--", sys.executable, "-c", code, place)
        assert done.stdout == "['file']\n", done.stderr
        assert (place / "b" / "file").read_text() == "data"
        assert not (place / "a").exists()

    def test_full_memory_is_the_trials_own(self, place: Path) -> None:
        big = place / "big"
        done = tried("--size", "1M", "--", "dd", "if=/dev/zero", f"of={big}", "bs=64K", "count=64")
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert not big.exists()


class TestCommit:
    def test_everything(self, place: Path, tmpfs_dir: Path) -> None:
        done = tried(
            *("--commit", "--yes", "--", "sh", "-c"),
            f'{changing(place)[3]}; echo there > "$1"',
            *(place, tmpfs_dir / "there"),
        )
        assert done.returncode == 0, done.stderr
        assert sorted(set(os.listdir(place)) - {"tmpfs"}) == ["dir", "new", "old"]
        assert (place / "old").read_text() == "oldmore\n"
        assert (place / "dir" / "in").read_text() == "in\n"
        assert (tmpfs_dir / "there").read_text() == "there\n"

    def test_not_after_a_failure(self, place: Path) -> None:
        done = tried("--commit", "--yes", "--", "sh", "-c", 'echo x > "$0"; exit 9', place / "new")
        assert done.returncode == 9
        assert "nothing is committed" in done.stderr
        assert not (place / "new").exists()

    def test_what_matches(self, place: Path) -> None:
        done = tried("--commit", "--yes", "--only", "new", "--only", "old", *changing(place))
        assert done.returncode == 0
        assert sorted(os.listdir(place)) == ["gone", "new", "old"]
        assert (place / "old").read_text() == "oldmore\n"

    def test_paths_in_a_mount_match_from_the_systems_root(self, tmpfs_dir: Path) -> None:
        chosen = tmpfs_dir / "chosen"
        done = tried("--commit", "--yes", "--only", chosen, "--", "touch", chosen, tmpfs_dir / "no")
        assert done.returncode == 0, done.stderr
        assert os.listdir(tmpfs_dir) == ["chosen"]

    def test_nothing_newer_is_overwritten(self, place: Path) -> None:
        sync = place / "sync"
        sync.mkdir()
        for name in ("ready", "go"):
            os.mkfifo(sync / name)
        script = 'cd "$0"; echo trial > old; echo trial > new; echo > sync/ready; cat sync/go'
        trial = started("--commit", "--yes", "--share", sync, "--", "sh", "-c", script, place)
        (sync / "ready").read_text()
        next_tick()
        (place / "old").write_text("newer")
        (sync / "go").write_text("")
        _, told = trial.communicate()
        assert trial.returncode == 4
        assert f"{place}/old" in told.splitlines()[-2]
        assert "--except" in told
        assert (place / "old").read_text() == "newer"
        assert not (place / "new").exists()

    def test_nobody_to_ask_is_said_before_anything_runs(self, place: Path) -> None:
        done = tried("--commit", *changing(place))
        assert done.returncode == 2
        assert "--yes" in done.stderr


class TestKeep:
    def test_kept_gone_on_with_and_committed(self, place: Path, tmp_path: Path) -> None:
        if os.stat(place).st_dev != os.stat("/").st_dev:
            pytest.skip("needs: /tmp on the root's file system")
        kept = tmp_path / "kept"
        assert tried("--keep", kept, *changing(place)).returncode == 0
        assert not (place / "new").exists()
        done = tried("--keep", kept, "--", "cat", place / "new", place / "dir" / "in")
        assert done.stdout == "new\nin\n"
        top = kept / "root" / "top"
        assert fallthru("diff", "--top", top, "--bottom", "/").returncode == 1
        done = fallthru("commit", "--yes", "--top", top, "--work", kept / "root" / "work",
                        "--bottom", "/")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (place / "new").read_text() == "new\n"

    def test_a_directory_of_somebody_else_is_refused(self, place: Path) -> None:
        done = tried("--keep", place, "--", "true")
        assert done.returncode == 4
        assert sorted(os.listdir(place)) == ["gone", "old"]


class TestDisk:
    def test_the_tops_are_there_and_out_of_sight(self, place: Path) -> None:
        disk = place / "disk"
        disk.mkdir()
        script = 'echo x > "$0/new"; ls "$1"/*; df -P "$0" | tail -1'
        done = tried("--disk", disk, "--", "sh", "-c", script, place, disk)
        assert f"A {place}/new" in done.stderr
        assert not os.listdir(disk)
        assert "top" not in done.stdout

    def test_too_little_space(self, place: Path) -> None:
        done = tried("--disk", place, "--size", "4096T", "--", "true")
        assert done.returncode == 3
        assert "are free" in done.stderr

    def test_what_a_killed_trial_left_goes_with_the_next(self, place: Path) -> None:
        left = place / "fallthru-try-left"
        (left / "root" / "top").mkdir(parents=True)
        assert tried("--disk", place, "--", "true").returncode == 0
        assert not left.exists()


class TestEnding:
    def test_what_it_left_running_ends(self, place: Path) -> None:
        done = tried("--", "sh", "-c", "sleep 1000 & echo started")
        assert done.stdout == "started\n"  # and its end was seen, though sleep had it open

    def test_signals_are_passed_on(self, root: None) -> None:
        script = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
        trial = started("--", "sh", "-c", script)
        assert trial.stdout is not None
        assert trial.stdout.readline() == "ready\n"
        trial.terminate()
        told, _ = trial.communicate()
        assert (told, trial.returncode) == ("got\n", 5)

    def test_killed_it_takes_everything_along(self, place: Path) -> None:
        disk = place / "disk"
        disk.mkdir()
        before = os.readlink("/proc/self/ns/mnt")
        trial = started("--disk", disk, "--", "sh", "-c", "echo $$; exec sleep 1000")
        assert trial.stdout is not None
        trial.stdout.readline()
        family = descendants(trial.pid)
        assert len(family) == 3
        trial.kill()
        trial.communicate()  # to the end of its output: until the last one is gone
        for pid in family:
            wait_gone(pid)
        assert not os.listdir(disk)
        assert os.readlink("/proc/self/ns/mnt") == before


#: Waits for a signal, and has done nothing about any when it says so.  A shell that is about
#: to run a program forgets an interrupt.
WAITING = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
pathlib.Path(sys.argv[1]).write_text("x")
print("ready", flush=True)
signal.pause()
"""


class Terminal:
    """A trial on a terminal of its own, which reads what it says."""

    def __init__(self, *arguments: str | Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(REPOSITORY)
            os.execv(sys.executable, [*COMMAND, *map(str, arguments)])
        self.text = ""

    def expect(self, wanted: str) -> None:
        while wanted not in self.text:
            assert select.select([self.fd], [], [], PATIENCE)[0], self.text
            self.text += os.read(self.fd, 4096).decode()
        self.text = self.text.partition(wanted)[2]

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def code(self) -> int:
        """Its exit code, once nobody has the terminal any more (EIO)."""
        with suppress(OSError):
            while True:
                if not select.select([self.fd], [], [], PATIENCE)[0]:
                    os.kill(self.pid, signal.SIGKILL)
                self.text += os.read(self.fd, 4096).decode()
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class TestOnATerminal:
    def test_asked_and_committed_in_two_goes(self, place: Path) -> None:
        trial = Terminal(*changing(place))
        trial.expect("[d]iscard? ")
        trial.type("commit new\n")
        trial.expect("committed 1")
        trial.expect("[d]iscard? ")
        assert (place / "new").exists()
        assert (place / "gone").exists()
        trial.type("c\n")
        assert trial.code() == 0
        assert sorted(os.listdir(place)) == ["dir", "new", "old"]

    def test_kept_from_memory(self, place: Path, tmp_path: Path) -> None:
        kept = tmp_path / "kept"
        trial = Terminal(*changing(place))
        trial.expect("[d]iscard? ")
        trial.type(f"keep {kept}\n")
        assert trial.code() == 0, trial.text
        done = tried("--keep", kept, "--", "sh", "-c", 'cd "$0"; ls; cat old', place)
        assert done.stdout == "dir\nkept\nnew\nold\noldmore\n", done.stderr

    def test_interrupted_it_still_asks(self, place: Path) -> None:
        trial = Terminal("--", sys.executable, "-c", WAITING, place / "new")
        trial.expect("ready")
        trial.type("\x03")
        trial.expect("[d]iscard? ")
        trial.type("discard\n")
        assert trial.code() == 128 + signal.SIGINT
        assert not (place / "new").exists()

    def test_it_ends_with_its_terminal(self, place: Path) -> None:
        trial = Terminal("--", sys.executable, "-c", WAITING, place / "new")
        # With its end: who is still writing a line when its terminal goes is told so.
        trial.expect("ready\r\n")
        os.close(trial.fd)
        _, status = os.waitpid(trial.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
        assert not (place / "new").exists()

    def test_stopped_and_continued(self, place: Path) -> None:
        trial = Terminal("--", "sh", "-c", "echo ready; read -r line; echo got $line")
        trial.expect("ready")
        trial.type("\x1a")
        _, status = os.waitpid(trial.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.killpg(trial.pid, signal.SIGCONT)
        trial.type("on\n")
        trial.expect("got on")
        assert trial.code() == 0


class TestAsAUser:
    @pytest.fixture
    def home(self, root: None) -> Iterator[Path]:
        need_readable_checkout()
        with tempfile.TemporaryDirectory(prefix="fallthru-home-", dir="/var/tmp") as made:
            (Path(made) / "file").write_text("old")
            os.chmod(made, 0o755)
            os.chown(made, USER, USER)
            os.chown(Path(made) / "file", USER, USER)
            yield Path(made)

    def tried(self, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            user=USER,
            group=USER,
            extra_groups=[],
        )

    def test_changes_and_commits_what_is_the_users_own(self, home: Path) -> None:
        script = "id -u; echo new > new; echo more >> file; touch /tmp/tried-by-user"
        done = self.tried(home, "--discard", "--", "sh", "-c", script)
        assert done.stdout == f"{USER}\n", done.stderr
        told = {line.split("  ")[0] for line in done.stderr.splitlines()}
        assert {f"A {home}/new", f"C {home}/file", "A /tmp/tried-by-user"} <= told
        assert os.listdir(home) == ["file"]
        done = self.tried(home, "--commit", "--yes", "--except", "tried-by-user", "--", "sh", "-c",
                          script)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (home / "new").read_text() == "new\n"
        assert (home / "file").read_text() == "oldmore\n"
        assert (home / "new").stat().st_uid == USER
        assert not Path("/tmp/tried-by-user").exists()

    def test_gets_no_more_than_the_user_may(self, home: Path) -> None:
        script = "for at in /etc /usr /root; do touch $at/tried-by-user; done; cat /etc/shadow"
        done = self.tried(home, "--json", "--", "sh", "-c", script)
        assert json.loads(done.stdout)["changes"] == []
        assert done.stderr.count("ermission denied") == 4
