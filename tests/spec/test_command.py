"""Targets that are commands, and targets that are not there: never a pass."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from overlay.errors import UsageError
from overlay.spec import catalogue, runner
from overlay.spec.calls import Calls
from overlay.spec.targets import (
    CommandTarget,
    OverlayfsTarget,
    Target,
    parse_target,
)
from tests.conftest import Layers
from tests.fsimages import loop_filesystem
from tests.spec.test_runner import LACKING, QUICK

CLAUSES = catalogue.load()
EXAMPLES = catalogue.select(CLAUSES, ["example.*"])

INODES = "readdir.inode-numbers"
MOUNT = (
    "mount -t overlay overlay -o lowerdir={bottom},upperdir={top},workdir={work},index=on,"
    "metacopy=on,redirect_dir=on {mnt}"
)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"{path} {{bottom}} {{top}} {{work}} {{mnt}}"


def counts(results: list[runner.Result]) -> Counter[str]:
    return Counter(result.status for result in results)


@pytest.mark.usefixtures("root")
def test_mount_8_does_what_the_same_options_do_by_system_call() -> None:
    command = CommandTarget.parse(MOUNT)
    same = OverlayfsTarget((("index", "on"), ("metacopy", "on"), ("redirect_dir", "on")))
    by_command = runner.run(QUICK, [command])
    by_call = {result.id: result for result in runner.run(QUICK, [same])}
    assert command.name == "command:mount"
    # What only overlayfs by name is forgiven does not arise with these options.
    assert {r.id: r.status for r in by_command} == {i: r.status for i, r in by_call.items()}


@pytest.mark.usefixtures("root")
def test_a_helper_that_binds_the_bottom_fails(tmp_path: Path) -> None:
    target = CommandTarget.parse(script(tmp_path / "helper", 'mount --bind "$1" "$4"'))
    results = runner.run(EXAMPLES, [target])
    assert counts(results)["kept"] == 0
    assert counts(results)["failed"] == len(EXAMPLES)


def in_the_foreground(path: Path) -> CommandTarget:
    """Serves until its mount is gone, as a FUSE file system does; told by the mount table."""
    served = (
        'others=$(grep -c " $4 " /proc/self/mountinfo)\n'
        'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"\n'
        'exec python3 -c "\n'
        "import select, sys\n"
        "with open('/proc/self/mountinfo') as table:\n"
        "    waiter = select.poll()\n"
        "    waiter.register(table, select.POLLPRI)\n"
        "    while table.read().count(sys.argv[1]) > int(sys.argv[2]):\n"
        "        waiter.poll()\n"
        '        table.seek(0)\n" " $4 " "$others"'
    )
    return CommandTarget.parse(script(path, served))


@pytest.mark.usefixtures("root")
def test_a_server_in_the_foreground_is_ended_with_its_mount(tmp_path: Path) -> None:
    results = runner.run(EXAMPLES[:3], [in_the_foreground(tmp_path / "server")])
    assert counts(results) == {"kept": 3}


def test_servers_at_one_place_are_each_ended_with_its_own_mount(
    tmp_path: Path, layers: Layers
) -> None:
    target = in_the_foreground(tmp_path / "server")
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text().split()
    for number in ("1", "2"):
        for directory in (layers.top / number, layers.work / number):
            directory.mkdir()
        places = (layers.top / number, layers.work / number, layers.mnt)
        target.mount((str(layers.bottom),), *map(str, places))
    first = children.read_text().split()[len(before)]  # the oldest come first
    target.unmount(str(layers.mnt))
    assert children.read_text().split() == [*before, first]
    target.unmount(str(layers.mnt))
    assert children.read_text().split() == before


@dataclass(frozen=True)
class Missing:
    """A target that knows that it can't work."""

    name: str = "missing"

    def available(self) -> str | None:
        return "no such thing here"

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        raise AssertionError

    def by_hand(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> tuple[str, str]:
        return "", ""

    def unmount(self, mnt: str) -> None:
        raise AssertionError

    def calls(self, mnt: str) -> Calls:
        raise AssertionError

    def features(self, mnt: str) -> frozenset[str]:
        raise AssertionError


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Missing(), "no such thing here"),
        (CommandTarget.parse("no-such-program-3141 {bottom} {top} {mnt}"), "no program"),
        (CommandTarget.parse("false {bottom} {top} {mnt}"), "status 1 and mounted nothing"),
        (CommandTarget.parse("true {bottom} {top} {mnt}"), "status 0 and mounted nothing"),
        (CommandTarget.parse("ls --nonsense {bottom} {top} {mnt}"), "Try 'ls --help'"),
        (OverlayfsTarget((("nonsense", "on"),)), "nonsense"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_cannot_mount_is_not_run_with_the_reason(target: Target, reason: str) -> None:
    results = runner.run(EXAMPLES, [target])
    assert counts(results) == {"not-run": len(EXAMPLES)}
    assert all(reason in result.observed for result in results)


#: What each fails: no departure announces it, because it is a fault or loses data.
FAULTS = {
    "fuse-overlayfs": {
        "copyup.same-properties",
        "copyup.special-files",
        "example.mkdir.opaque",
        "nocopyup.open.read-only-flags",
        "nocopyup.remove",
        "supported.bottom.squashfs",
        "whiteout.not-made-by-mknod",
    },
    "unionfs-fuse": {
        "copyup.chattr",
        "copyup.same-properties",
        "copyup.setxattr",
        "copyup.truncate.only-n-bytes",
        "example.link.copyup",
        "nonposix.directory-links",
        "nonposix.no-space",
        "nonposix.no-space-removal",
        "userland.marks-unseen",
        "whiteout.not-made-by-mknod",
    },
}


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", FAULTS)
def test_other_union_file_systems_fail_nothing_but_known_faults(name: str) -> None:
    target = parse_target(name)
    if target.available() or not Path("/dev/fuse").exists():
        pytest.skip(f"needs: {name}")
    results = runner.run(CLAUSES, [target])
    # Which of its faults show depends on the version; a new one is news.
    assert {r.id for r in results if r.status == "failed"} <= FAULTS[name]
    assert counts(results)["kept"] > len(CLAUSES) // 2
    assert [r.id for r in results if "the bottom: " in r.observed and r.status == "failed"] == []


@pytest.mark.usefixtures("root")
def test_mergerfs_writes_to_its_bottom_and_is_never_forgiven() -> None:
    target = parse_target("mergerfs")
    if target.available() or not Path("/dev/fuse").exists():
        pytest.skip("needs: mergerfs")
    chosen = catalogue.select(CLAUSES, ["copyup.open.append", "mount.bottom-never-written"])
    results = runner.run(chosen, [target])
    assert counts(results) == {"failed": 2}
    assert all("the bottom: " in result.observed for result in results)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_no_clause_fails_on_other_file_systems(kind: str) -> None:
    with loop_filesystem(kind) as bottoms, loop_filesystem(kind) as tops:
        targets = [parse_target(name) for name in ("kernel:document", "overlayfs")]
        results = runner.run(QUICK, targets, bottom_dir=bottoms, top_dir=tops)
    assert [(r.id, r.observed) for r in results if r.status == "failed"] == []
    stale = [r.id for r in results if r.stale]
    assert stale == []
    # btrfs counts no subdirectories.
    lacking = {r.id for r in results if r.status == "not-run"}
    assert lacking <= LACKING | {"nonposix.directory-links"}
    departed = {r.target for r in results if (r.id, r.status) == (INODES, "departed")}
    # Two file systems have two spaces of inode numbers, which the profiles join.
    assert departed == {"overlayfs"}


@pytest.mark.parametrize("text", ["kernel:nonsense", "overlay", "fuse", "", "command:x"])
def test_unknown_targets_are_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="no such target"):
        parse_target(text)


def test_target_names_are_what_they_were_asked_by() -> None:
    for text in ("kernel:document", "overlayfs", "overlayfs:metacopy=on,volatile"):
        assert parse_target(text).name == text
    assert parse_target("kernel").name == "kernel:document"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "a program|bottom"), ("mount {top} {mnt}", "{bottom}"), ("mount '{bottom}", "words")],
)
def test_a_command_that_cannot_work_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CommandTarget.parse(text)
