"""Limits of roots by cgroup v2, on kernels that have all its controllers: what they stop."""

from __future__ import annotations

import os

import pytest

from tests.vm.guests import in_guest

#: A dozen commands, one after the other, under emulation: four minutes on two cores that eight
#: others want, too.
pytestmark = pytest.mark.timeout(900)

#: busybox reads into one buffer of the size that dd is told, and forks in its shell.
SCRIPT = r"""
set -e
test -e /sys/fs/cgroup/cgroup.controllers || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs roots /var/lib
mkdir -p /tmp/bottom/bin /tmp/top
cp /run/tree/busybox /tmp/bottom/bin/
for name in sh dd sleep; do ln -s busybox /tmp/bottom/bin/$name; done

told() { # its exit code, and what it said
    key=$1; shift
    code=0; said=$("$@" 2>&1) || code=$?
    printf '%s\t%s\t%s\n' "$key" "$code" "$(echo "$said" | tr '\n' ' ')"
}
limited="fallthru run --bottom /tmp/bottom"
read_64="dd if=/dev/zero of=/dev/null bs=64M count=1"
told free $limited -- $read_64
told memory $limited --memory 32M -- $read_64
told pids $limited --pids 5 -- sh -c 'for n in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; echo all'
told few $limited --pids 20 -- sh -c 'for n in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; echo all'
told left ls /sys/fs/cgroup/fallthru

fallthru create web --bottom /tmp/bottom --memory 64M --cpus 0.25 --pids 30 >/dev/null
fallthru start web
group=/sys/fs/cgroup/fallthru/web
for file in memory.max cpu.max pids.max; do told $file cat $group/$file; done
told busy fallthru exec web -- sh -c 'n=0; while [ $n -lt 20000 ]; do n=$((n + 1)); done'
told throttled sed -n 's/^nr_throttled //p' $group/cpu.stat
told killed fallthru exec web -- dd if=/dev/zero of=/dev/null bs=96M count=1
told alive fallthru exec web -- sh -c 'echo alive'
told oom sed -n 's/^oom_kill //p' $group/memory.events
fallthru stop --timeout 0 web
told gone ls /sys/fs/cgroup/fallthru
"""


@pytest.fixture(scope="module", params=["uml", "debian-6.12"])
def seen(request: pytest.FixtureRequest) -> dict[str, tuple[int, str]]:
    if os.environ.get("FALLTHRU_VM") != "all":
        pytest.skip("needs: FALLTHRU_VM=all, because it takes minutes")
    done = in_guest(request.param, "sh", "-c", SCRIPT, seconds=800)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return {key: (int(code), said.strip()) for key, code, said in rows}


def test_memory(seen: dict[str, tuple[int, str]]) -> None:
    assert seen["free"][0] == 0
    assert seen["memory"][0] == 128 + 9  # by the kernel, for want of memory


def test_processes(seen: dict[str, tuple[int, str]]) -> None:
    assert seen["few"] == (0, "all")
    code, said = seen["pids"]
    assert code != 0
    assert "can't fork" in said


def test_of_a_root_by_name(seen: dict[str, tuple[int, str]]) -> None:
    assert seen["memory.max"] == (0, str(64 << 20))
    assert seen["cpu.max"] == (0, "25000 100000")
    assert seen["pids.max"] == (0, "30")
    assert seen["busy"][0] == 0
    assert int(seen["throttled"][1]) > 0
    assert seen["killed"][0] == 128 + 9
    assert seen["alive"] == (0, "alive")  # the root goes on
    assert int(seen["oom"][1]) == 1


def test_the_groups_go_with_the_roots(seen: dict[str, tuple[int, str]]) -> None:
    for when in ("left", "gone"):
        assert seen[when][0] != 0
        assert "No such file" in seen[when][1]
