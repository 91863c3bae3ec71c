"""``fallthru diff``: its output, its exit codes, its refusals."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Layers
from tests.rawoverlay import overlay

ODD = b"odd\xff\n\\, :name"


def fallthru(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it, with pipes for a terminal."""
    command = [sys.executable, "-m", "overlay", "diff", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def changed(layers: Layers) -> Layers:
    """A top with one change of each kind, of known sizes."""
    (layers.bottom / "d").mkdir()
    for name, size in (("changed", 10), ("deleted", 100), ("replaced", 1000), ("same", 7)):
        (layers.bottom / "d" / name).write_bytes(b"o" * size)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        (mnt / "d" / "changed").write_bytes(b"n" * 30)
        (mnt / "d" / "deleted").unlink()
        (mnt / "d" / "replaced").unlink()
        (mnt / "d" / "replaced").symlink_to("same")
        (mnt / os.fsdecode(ODD)).write_bytes(b"a" * 2000)
        os.close(os.open(mnt / "d" / "same", os.O_RDWR))
    return layers


def test_plain_lines_when_piped(changed: Layers) -> None:
    done = fallthru("--top", changed.top, "--bottom", changed.bottom)
    assert done.returncode == 1
    assert done.stderr == ""
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["C", "file", "30", "content,times", "d/changed"],
        ["D", "file", "100", "-", "d/deleted"],
        ["R", "symlink", "0", "-", "d/replaced"],
        ["A", "file", "2000", "-", r"odd\xff\x0a\\, :name"],
    ]


def test_a_mount_point_names_its_layers(changed: Layers) -> None:
    by_layers = fallthru("--json", "--top", changed.top, "--bottom", changed.bottom)
    with overlay(changed.mnt, [changed.bottom], changed.top, changed.work, {}):
        by_mount = fallthru("--json", changed.mnt)
    assert by_mount.returncode == by_layers.returncode == 1
    assert json.loads(by_mount.stdout) == json.loads(by_layers.stdout)


def test_json_is_a_list_of_records(changed: Layers) -> None:
    records = json.loads(
        fallthru("--json", "--top", changed.top, "--bottom", changed.bottom).stdout
    )
    assert [(each["path"], each["kind"]) for each in records] == [
        ("d/changed", "changed"),
        ("d/deleted", "deleted"),
        ("d/replaced", "replaced"),
        (r"odd\xff\x0a\\, :name", "added"),
    ]
    assert records[0] == {
        "path": "d/changed",
        "kind": "changed",
        "type": "file",
        "size": 30,
        "old_type": "file",
        "old_size": 10,
        "what": ["content", "times"],
        "metadata_only": False,
        "moved_from": None,
        "gone": 0,
        "gone_bytes": 0,
        "links": 1,
    }
    assert (records[1]["type"], records[1]["old_type"], records[1]["gone"]) == (None, "file", 1)
    assert (records[2]["type"], records[2]["old_type"]) == ("symlink", "file")


def test_stat_counts(changed: Layers) -> None:
    trees = ("--top", changed.top, "--bottom", changed.bottom)
    done = fallthru("--stat", *trees)
    assert done.stdout == "1 added, 1 changed, 1 deleted, 1 replaced (+2.0 KiB, -100 B)\n"
    assert done.returncode == 1
    assert json.loads(fallthru("--stat", "--json", *trees).stdout) == {
        "added": 1,
        "changed": 1,
        "deleted": 1,
        "replaced": 1,
        "bytes_added": 2000,
        "bytes_deleted": 100,
    }


def test_no_differences_exit_zero(layers: Layers) -> None:
    (layers.bottom / "f").touch()
    trees = ("--top", layers.top, "--bottom", layers.bottom)
    done = fallthru(*trees)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(fallthru("--json", *trees).stdout) == []
    assert fallthru("--stat", *trees).stdout == "no changes\n"


def test_a_terminal_gets_a_tree(changed: Layers) -> None:
    command = [sys.executable, "-m", "overlay", "diff"]
    command += ["--top", str(changed.top), "--bottom", str(changed.bottom)]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, env={**os.environ, "NO_COLOR": "1"}
    ) as process:
        os.close(theirs)
        output = b""
        while True:
            try:
                output += os.read(ours, 65536)
            except OSError:  # EIO: the last writer closed the terminal
                break
        os.close(ours)
    assert process.returncode == 1
    text = output.decode()
    for expected in ("d/", "changed", "10 B → 30 B", "was a file", "2.0 KiB", "1 added, 1 changed"):
        assert expected in text
    assert text.index("d/") < text.index("changed") < text.index("deleted")
    assert "\\xff" in text


def test_a_renamed_directory_says_where_it_was(layers: Layers) -> None:
    (layers.bottom / "old").mkdir()
    (layers.bottom / "old" / "f").write_text("12345")
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {"redirect_dir": "on"}):
        (layers.mnt / "old").rename(layers.mnt / "new")
    done = fallthru("--top", layers.top, "--bottom", layers.bottom)
    assert done.stdout == "A\tdirectory\t0\t-\tnew\told\nD\tdirectory\t5\t-\told\n"


def test_marks_of_a_user_namespace(layers: Layers) -> None:
    (layers.bottom / "f").write_text("f")
    (layers.bottom / "d").mkdir()
    (layers.bottom / "d" / "in").touch()
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {"userxattr": ""}) as mnt:
        (mnt / "d" / "in").unlink()
        (mnt / "d").rmdir()
        (mnt / "d").mkdir()
        mounted = fallthru(mnt)
    unmounted = fallthru("--userxattr", "--top", layers.top, "--bottom", layers.bottom)
    assert mounted.stdout == unmounted.stdout
    assert [line.split("\t")[::4] for line in mounted.stdout.splitlines()] == [
        ["R", "d"],
        ["D", "d/in"],
    ]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "which layers?"),
        (("--top", "/"), "which layers?"),
        (("--bottom", "/"), "which layers?"),
        (("/", "--top", "/"), "/ was given as a mount point, and layers too"),
        (("--top", "/nonexistent", "--bottom", "/usr"), "no directory at /nonexistent"),
        (("--top", "/proc/version", "--bottom", "/usr"), "no directory at /proc/version"),
        (("/proc",), "no overlay at /proc"),
        (("/usr/share",), "no overlay at /usr/share"),
        (("--nonsense",), "No such option"),
    ],
)
def test_wrong_use_is_exit_two(args: tuple[str, ...], said: str) -> None:
    done = fallthru(*args)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_hostile_mark_is_refused(layers: Layers) -> None:
    (layers.top / "d").mkdir()
    os.setxattr(layers.top / "d", "trusted.overlay.redirect", b"/../../etc")
    done = fallthru("--top", layers.top, "--bottom", layers.bottom)
    assert done.returncode == 4
    assert f"{layers.top}/d: a redirect to “/../../etc”" in done.stderr


def test_an_overlay_without_a_top_has_no_diff(layers: Layers) -> None:
    other = layers.base / "other"
    other.mkdir()
    command = ["mount", "-t", "overlay", "none", str(layers.mnt)]
    command += ["-o", f"lowerdir={layers.bottom}:{other}"]
    subprocess.run(command, check=True)
    try:
        done = fallthru(layers.mnt)
    finally:
        subprocess.run(["umount", str(layers.mnt)], check=True)
    assert done.returncode == 2
    assert "has no top" in done.stderr


def test_a_reader_that_leaves_gets_no_message(layers: Layers) -> None:
    for number in range(5000):
        (layers.top / f"file-with-a-rather-long-name-{number}").touch()
    command = [sys.executable, "-m", "overlay", "diff"]
    command += ["--top", str(layers.top), "--bottom", str(layers.bottom)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1, "there were differences"
    assert errors == ""


def test_formats(layers: Layers) -> None:
    (layers.bottom / "f").write_text("old\n")
    (layers.top / "f").write_text("new\n")
    of: list[str | Path] = ["--top", layers.top, "--bottom", layers.bottom]
    unified = fallthru("--format", "unified", *of)
    assert unified.returncode == 1
    assert unified.stdout == "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-old\n+new\n"
    lines = fallthru("--format", "jsonl", *of).stdout.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["f"]
    assert json.loads(fallthru("--json", *of).stdout)[0] == json.loads(lines[0])
    assert fallthru("--format", "mtree", *of).stdout.startswith("#mtree\n./f type=file")
    assert fallthru("--format", "tree", *of).stdout.splitlines()[0].startswith("C f")
    summary = fallthru("--format", "summary", *of).stdout
    assert summary == fallthru("--stat", *of).stdout
    assert fallthru("--json", "--format", "tree", *of).returncode == 2


def test_against_another_top(layers: Layers) -> None:
    other = layers.base / "other"
    other.mkdir()
    (layers.bottom / "same").write_text("x")
    (other / "gone").write_text("gone")
    (layers.top / "new").write_text("new")
    done = fallthru("--top", layers.top, "--bottom", layers.bottom, "--against", other)
    assert [line.split("\t")[0::4] for line in done.stdout.splitlines()] == [
        ["D", "gone"],
        ["A", "new"],
    ]
