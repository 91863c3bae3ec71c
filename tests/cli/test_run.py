"""``fallthru run``: commands in roots of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.roots import cgroups
from tests.conftest import Layers
from tests.fsimages import loop_filesystem
from tests.networks import interfaces
from tests.processes import PATIENCE, descendants, wait_gone
from tests.running import REPOSITORY, fallthru, need_readable_checkout
from tests.smallroots import small_root

RUN = [sys.executable, "-m", "overlay", "run"]
USER = 4242


@pytest.fixture
def rooted(layers: Layers) -> Layers:
    """Layers whose bottom is a root with a shell."""
    small_root(layers.bottom)
    return layers


def ran(layers: Layers, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return fallthru("run", "--bottom", layers.bottom, "--top", layers.top, *arguments)


def shell(layers: Layers, script: str, *options: str | Path) -> str:
    done = ran(layers, *options, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestTheRoot:
    def test_is_the_union_and_nothing_else(self, rooted: Layers) -> None:
        script = "ls /; echo new > /new; rm /etc/group; cat /proc/self/mountinfo"
        told = shell(rooted, script)
        *names, mounts = told.partition("sys\ntmp\n")[0].split(), told.partition("tmp\n")[2]
        assert {"bin", "dev", "etc", "proc", "run"} <= set(names[0])
        assert {line.split()[4] for line in mounts.splitlines() if line} <= {
            *("/", "/proc", "/sys", "/run", "/dev", "/dev/shm", "/dev/pts"),
            *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")),
        }
        assert (rooted.top / "new").read_text() == "new\n"
        assert not (rooted.bottom / "new").exists()
        assert (rooted.bottom / "etc" / "group").exists()

    def test_has_processes_a_name_and_namespaces_of_its_own(self, rooted: Layers) -> None:
        kinds = ("mnt", "pid", "uts", "ipc", "net")
        script = "echo $$; cat /proc/sys/kernel/hostname; cd /proc/self/ns; ls -l " + " ".join(
            kinds
        )
        pid, name, *links = shell(rooted, script, "--hostname", "inside").splitlines()
        assert (pid, name) == ("2", "inside")
        ours = {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
        assert len(links) == len(kinds)
        assert not {line.split()[-1] for line in links} & ours

    def test_without_a_top_changes_are_lost(self, rooted: Layers) -> None:
        for _ in range(2):
            done = fallthru(
                *("run", "--bottom", rooted.bottom, "--", "sh", "-c", "ls /tmp; echo x > /tmp/x")
            )
            assert (done.returncode, done.stdout) == (0, "")
        assert not os.listdir(rooted.bottom / "tmp")

    def test_the_same_top_goes_on(self, rooted: Layers) -> None:
        shell(rooted, "echo 1 > /tmp/state")
        assert shell(rooted, "cat /tmp/state") == "1\n"

    def test_environment_directory_user_and_code(self, rooted: Layers) -> None:
        script = 'echo "$A $HOME $LEAKED"; ls -d "$PWD"; id; exit 9'
        done = ran(
            rooted,
            *("--env", "A=b", "--cwd", "/tmp", "--user", "user", "--", "sh", "-c", script),
        )
        assert done.returncode == 9
        told = done.stdout.splitlines()
        assert told[:2] == ["b /tmp ", "/tmp"]
        assert told[2].startswith("uid=4242")
        assert "77" in told[2]

    def test_a_user_that_is_not_there(self, rooted: Layers) -> None:
        done = ran(rooted, "--user", "nobody-there", "--", "id")
        assert done.returncode == 2
        assert "has no user 'nobody-there'" in done.stderr

    def test_binds(self, rooted: Layers) -> None:
        for name in ("rw", "ro"):
            (rooted.base / name).mkdir()
        (rooted.base / "file").write_text("bound")
        script = "echo x > /data/x; echo x > /read/x; cat /etc/bound"
        done = ran(
            rooted,
            *("--bind", f"{rooted.base}/rw:/data", "--ro-bind", f"{rooted.base}/ro:/read"),
            *("--ro-bind", f"{rooted.base}/file:/etc/bound", "--", "sh", "-c", script),
        )
        assert done.stdout == "bound"
        assert "Read-only" in done.stderr
        assert os.listdir(rooted.base / "rw") == ["x"]
        assert not os.listdir(rooted.base / "ro")

    def test_a_bind_goes_nowhere_else(self, rooted: Layers) -> None:
        """A link in the root means a path of the root."""
        (rooted.base / "outside").mkdir()
        (rooted.bottom / "link").symlink_to(rooted.base / "outside")
        (rooted.base / "rw").mkdir()
        done = ran(rooted, "--bind", f"{rooted.base}/rw:/link/in", "--", "sh", "-c", "ls /link/")
        assert not os.listdir(rooted.base / "outside")
        assert done.returncode in (0, 5)

    def test_paths_that_write_through(self, rooted: Layers) -> None:
        (rooted.bottom / "data").mkdir()
        shell(rooted, "echo x > /data/x; echo y > /tmp/y", "--persist", "/data")
        assert (rooted.bottom / "data" / "x").read_text() == "x\n"
        assert not os.listdir(rooted.bottom / "tmp")
        done = ran(rooted, "--persist", "/nowhere", "--", "true")
        assert done.returncode == 2

    def test_a_top_in_use(self, rooted: Layers) -> None:
        waiting = ("sh", "-c", "echo ready; read -r _")
        running = subprocess.Popen(
            [*RUN, "--bottom", rooted.bottom, "--top", rooted.top, "--", *waiting],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        try:
            done = ran(rooted, "--", "true")
            assert done.returncode == 4
            assert "in the mount namespace of" in done.stderr
        finally:
            running.communicate(b"\n")

    def test_its_bottom_is_held_read_only(self, layers: Layers) -> None:
        with loop_filesystem("ext4") as device:
            subprocess.run(["mount", "-o", "remount,ro", device], check=True)
            where = os.stat(device).st_dev
            read_only = Path(f"/sys/dev/block/{os.major(where)}:{os.minor(where)}/ro")
            waiting = ("sh", "-c", "echo ready; read -r _")
            shown = [f"--ro-bind={path}" for path in ("/usr", "/lib", "/lib64", "/bin")]
            running = subprocess.Popen(
                [*RUN, "--bottom", device, "--top", layers.top, *shown, "--", *waiting],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert running.stdout is not None
            assert running.stdout.readline() == b"ready\n"
            try:
                fallthru("status")  # releases what nobody relies on
                assert read_only.read_text() == "1\n"
            finally:
                running.communicate(b"\n")
            fallthru("status")
            assert read_only.read_text() == "0\n"


class TestNetworks:
    def test_none_has_a_loopback_only(self, rooted: Layers) -> None:
        told = shell(rooted, "cat /proc/net/dev; cat /proc/net/fib_trie")
        devices = [line.split(":")[0].strip() for line in told.splitlines() if ": " in line]
        assert devices == ["lo"]
        assert "127.0.0.1" in told

    def test_host_is_the_machines(self, root: None) -> None:
        done = fallthru(
            *("run", "--bottom", "/", "--net", "host", "--", "readlink", "/proc/self/ns/net")
        )
        assert done.stdout.strip() == os.readlink("/proc/self/ns/net")

    def test_isolated_reaches_this_machine(self, network: None) -> None:
        before = interfaces()
        with socket.create_server(("", 0)) as server:
            code = (
                "import socket, re; gateway = re.search(r'^eth0\\s0{8}\\s(\\w+)', "
                "open('/proc/net/route').read(), re.M)[1]; "
                "at = socket.inet_ntoa(bytes.fromhex(gateway)[::-1]); "
                f"print(socket.create_connection((at, {server.getsockname()[1]})).recv(9))"
            )
            running = start("isolated", "me", "/usr/bin/python3", "-c", code)
            server.settimeout(PATIENCE)
            peer, (address, _) = server.accept()
            peer.sendall(b"hello")
            peer.close()
            told, _ = running.communicate()
        assert told == "b'hello'\n"
        assert address.startswith("10.214.")
        assert interfaces() == before

    def test_roots_on_a_bridge_know_each_other(self, network: None) -> None:
        serve = (
            "import socket; s = socket.create_server(('', 7)); print('ready', flush=True); "
            "c, a = s.accept(); c.sendall(b'from db'); print(a[0])"
        )
        ask = "import socket; print(socket.create_connection(('db', 7)).recv(9))"
        db = start("bridge=ft-test", "db", "/usr/bin/python3", "-c", serve)
        assert db.stdout is not None
        assert db.stdout.readline() == "ready\n"
        web = start("bridge=ft-test", "web", "/usr/bin/python3", "-c", ask)
        told, errors = web.communicate()
        assert told == "b'from db'\n", errors
        assert db.communicate()[0].startswith("10.213.")
        assert "ft-test" not in interfaces()
        assert not Path("/run/fallthru/networks/ft-test").exists()

    def test_nothing_is_left_of_one_that_was_killed(self, network: None) -> None:
        before = interfaces()
        running = start("bridge=ft-test", "db", "sh", "-c", "echo ready; exec sleep 1000")
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        assert "ft-test" in interfaces()
        group = group_of(running.pid)
        family = descendants(running.pid)
        running.kill()
        running.communicate()
        for pid in family:
            wait_gone(pid)
        assert interfaces() == before
        assert not Path("/run/fallthru/networks/ft-test").exists()
        assert group is None or not group.exists()

    def test_a_network_that_is_none(self, rooted: Layers) -> None:
        assert ran(rooted, "--net", "bridge", "--", "true").returncode == 2


def start(network: str, name: str, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*RUN, "--bottom", "/", "--net", network, "--hostname", name, "--", *command],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def group_of(pid: int) -> Path | None:
    """The control group of the root that process ``pid`` runs, None without cgroup v2."""
    top = cgroups.hierarchy()
    if top is None:
        return None
    (found,) = Path(top, "fallthru").glob(f"*.{pid}")
    return found


class TestLimits:
    def test_of_memory(self, rooted: Layers) -> None:
        done = ran(rooted, "--memory", "64M", "--pids", "50", "--", "cat", "/proc/self/cgroup")
        top = cgroups.hierarchy()
        known = Path(top, "cgroup.controllers").read_text().split() if top else []
        if {"memory", "pids"} <= set(known):
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode == 3
            assert "cgroup v2" in done.stderr

    def test_a_group_is_made_and_removed(self, rooted: Layers) -> None:
        top = cgroups.hierarchy()
        if top is None:
            pytest.skip("needs: cgroup v2")
        told = shell(rooted, "cat /proc/self/cgroup", "--hostname", "limited")
        (line,) = [each for each in told.splitlines() if each.startswith("0::")]
        assert "/fallthru/limited." in line
        assert not Path(top, line.removeprefix("0::/")).exists()


class TestAsAUser:
    @pytest.fixture
    def own(self, root: None) -> Iterator[Path]:
        need_readable_checkout()
        with tempfile.TemporaryDirectory(prefix="fallthru-run-", dir="/var/tmp") as made:
            small_root(Path(made) / "bottom")
            (Path(made) / "top").mkdir()
            subprocess.run(["chown", "-R", f"{USER}:{USER}", made], check=True)
            yield Path(made)

    def test_is_root_of_it(self, own: Path) -> None:
        does = "id -u; echo new > /etc/new; rm /etc/group; cat /proc/1/comm >&2 && ls /dev/null"
        script = ("sh", "-c", does)
        done = subprocess.run(
            [*RUN, "--bottom", str(own / "bottom"), "--top", str(own / "top"), "--", *script],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            user=USER,
            group=USER,
            extra_groups=[],
        )
        assert (done.returncode, done.stdout) == (0, "0\n/dev/null\n"), done.stderr
        assert (own / "top" / "etc" / "new").stat().st_uid == USER
        assert (own / "bottom" / "etc" / "group").exists()
