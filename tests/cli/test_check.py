"""``fallthru check`` and ``fsck.overlay``: what they print, ask, and exit with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from overlay import kernel
from overlay.kernel import Overlay
from tests.conftest import Layers
from tests.overlay.plants import populate, stub, whiteout
from tests.processes import PATIENCE
from tests.running import REPOSITORY, fallthru


def check(layers: Layers, *more: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return fallthru("check", "--top", layers.top, "--bottom", layers.bottom, *more, stdin=stdin)


@pytest.fixture
def healthy(layers: Layers) -> Layers:
    populate(layers)
    return layers


@pytest.fixture
def damaged(healthy: Layers) -> Layers:
    """One thing that is safe to repair, and one that is a choice."""
    whiteout(healthy.top / "dir" / "none")
    stub(healthy.top / "lost", 6)
    return healthy


def test_nothing_wrong(healthy: Layers) -> None:
    done = check(healthy)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "nothing wrong (4 entries)\n"
    assert json.loads(check(healthy, "--json").stdout) == []


def test_damage_is_listed_a_line_each(damaged: Layers) -> None:
    done = check(damaged)
    assert done.returncode == 1
    lines = [line.split("\t")[:3] for line in done.stdout.splitlines()]
    assert lines == [
        ["warning", "whiteout-nothing", "dir/none"],
        ["error", "stub-gone", "lost"],
    ]
    assert done.stderr == "1 error, 1 warning (6 entries)\n"


def test_json_lists_the_findings(damaged: Layers) -> None:
    whiteout(Path(os.fsdecode(os.fsencode(damaged.top) + b"/new\n\xff")))
    done = check(damaged, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [each["path"] for each in found] == ["dir/none", "lost", "new\\x0a\\xff"]
    assert found[1] == {
        "path": "lost",
        "layer": "top",
        "code": "stub-gone",
        "severity": "error",
        "message": "a fallthru whose data no bottom has (lost)",
        "repair": "ask",
    }


def test_repair_does_what_is_safe_and_asks_for_the_rest(damaged: Layers) -> None:
    done = check(damaged, "--repair", stdin="n\n")
    assert done.returncode == 1
    assert [line.split("\t")[:3] for line in done.stdout.splitlines()] == [
        ["repaired", "warning", "whiteout-nothing"],
        ["left", "error", "stub-gone"],
    ]
    assert "move it to lost+found in the work directory? [y/N]" in done.stderr
    assert (damaged.top / "lost").exists()
    assert check(damaged, "--repair", stdin="y\n").returncode == 0
    assert (damaged.work / "lost+found" / "lost").exists()
    assert check(damaged).returncode == 0


def test_nobody_to_ask_means_no(damaged: Layers) -> None:
    assert check(damaged, "--repair", stdin="").returncode == 1
    assert (damaged.top / "lost").exists()


def test_yes_repairs_all_and_the_second_run_is_clean(damaged: Layers) -> None:
    done = check(damaged, "--repair", "--yes", "--json")
    assert done.returncode == 0
    assert [(each["code"], each["repaired"]) for each in json.loads(done.stdout)] == [
        ("whiteout-nothing", True),
        ("stub-gone", True),
    ]
    again = check(damaged, "--repair", "-y", "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, [])


def test_json_never_asks(damaged: Layers) -> None:
    done = check(damaged, "--repair", "--json", stdin="y\n")
    assert done.returncode == 1
    assert [(each["code"], each["repaired"]) for each in json.loads(done.stdout)] == [
        ("whiteout-nothing", True),
        ("stub-gone", False),
    ]


def test_a_mounted_top_is_reported_and_not_repaired(damaged: Layers) -> None:
    overlay = Overlay((str(damaged.bottom),), str(damaged.top), profile="fallthru")
    with kernel.mounted(overlay, str(damaged.mnt)):
        done = fallthru("check", damaged.mnt)
        assert done.returncode == 1
        assert "the top is mounted" in done.stderr
        assert "whiteout-nothing" in done.stdout
        refused = fallthru("check", damaged.mnt, "--repair", "--yes")
        assert refused.returncode == 4
        assert "nothing is repaired under an overlay" in refused.stderr
        assert (damaged.top / "dir" / "none").is_char_device()


def test_notes_do_not_count(healthy: Layers) -> None:
    os.setxattr(healthy.top / "dir", "trusted.overlay.opaque", b"x")
    assert check(healthy).returncode == 0
    done = check(healthy, "--notes")
    assert done.returncode == 0
    assert done.stdout.startswith("note\tx-needless\tdir\t")


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "--top", "/nowhere"],
        ["check", "--yes", "--top", "/tmp", "--bottom", "/usr"],
        ["check", "/tmp", "--top", "/tmp"],
        ["check", "--top", "/nowhere", "--bottom", "/usr"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    assert fallthru(*arguments).returncode == 2


def test_a_top_over_a_shared_index(healthy: Layers) -> None:
    meta = healthy.base / "meta"
    assert fallthru("prime", "--shared", "--bottom", healthy.bottom, "-o", meta).returncode == 0
    layers = ("--index", meta, "--bottom", healthy.bottom, "--top", healthy.top)
    assert fallthru("mount", *layers, "--profile", "fallthru", healthy.mnt).returncode == 0
    (healthy.mnt / "file").chmod(0o600)
    (healthy.mnt / "keep/a").write_text("changed")
    (healthy.mnt / "keep/b").unlink()
    (healthy.mnt / "other").rename(healthy.mnt / "moved")
    live = fallthru("check", healthy.mnt, "--json")
    assert fallthru("umount", healthy.mnt).returncode == 0
    assert (live.returncode, json.loads(live.stdout)) == (0, [])
    done = fallthru("check", *layers, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    (healthy.bottom / "file").unlink()
    done = fallthru("check", *layers, "--json")
    assert [(each["code"], each["path"]) for each in json.loads(done.stdout)] == [
        ("stub-gone", "file")
    ]


def test_an_image_is_a_bottom(healthy: Layers) -> None:
    image = healthy.base / "bottom.squashfs"
    if shutil.which("mksquashfs") is None:
        pytest.skip("needs: mksquashfs")
    subprocess.run(["mksquashfs", healthy.bottom, image, "-quiet"], check=True, capture_output=True)
    overlay = Overlay((str(image),), str(healthy.top), profile="fallthru")
    with kernel.mounted(overlay, str(healthy.mnt)):
        (healthy.mnt / "file").chmod(0o600)
        (healthy.mnt / "keep").rename(healthy.mnt / "kept")
        assert fallthru("check", healthy.mnt).returncode == 0
    done = fallthru("check", "--top", healthy.top, "--bottom", image)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_benchmark_finds_nothing_in_what_it_builds() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/benchmarks/check.py", "--entries", "3000"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["entries"] >= 3000
    assert result["findings"] == 0
    assert result["peak_rss_mib"] < 100


# ----------------------------------------------------------------------- fsck.overlay


def fsck(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    program = "from overlay.cli.fsck import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def options(layers: Layers) -> str:
    return f"lowerdir={layers.bottom},upperdir={layers.top},workdir={layers.work}"


@pytest.mark.parametrize("flag", ["-n", "-p", "-a", "-y"])
def test_fsck_of_a_healthy_top_is_0(healthy: Layers, flag: str) -> None:
    done = fsck(flag, "-o", options(healthy))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_fsck_exit_codes(damaged: Layers) -> None:
    assert fsck("-n", "-o", options(damaged)).returncode == 4
    assert fsck("-p", "-o", options(damaged)).returncode == 1 | 4
    assert fsck("-p", "-o", options(damaged)).returncode == 4
    assert fsck("-o", options(damaged), stdin="n\n").returncode == 4
    assert fsck("-y", "-f", "-v", "-o", options(damaged)).returncode == 1
    assert fsck("-y", "-o", options(damaged)).returncode == 0


def test_fsck_asks_where_nothing_else_was_said(damaged: Layers) -> None:
    done = fsck("-o", options(damaged), stdin="y\n")
    assert done.returncode == 1
    assert "top:lost: stub-gone: " in done.stdout
    assert "(y/n)?" in done.stdout


def test_fsck_takes_separate_and_foreign_options(damaged: Layers) -> None:
    done = fsck(
        *("-o", f"lowerdir={damaged.bottom}", "-o", f"upperdir={damaged.top}"),
        *("-o", f"workdir={damaged.work},index=on,redirect_dir=on", "-n"),
    )
    assert done.returncode == 4


def test_fsck_unescapes_as_mount_does(layers: Layers) -> None:
    awkward = layers.base / "a:b,c\\d"
    awkward.mkdir()
    (awkward / "something").touch()
    whiteout(layers.top / "none")
    escaped = str(awkward).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
    done = fsck("-n", "-o", f"lowerdir={escaped}:{layers.bottom},upperdir={layers.top}")
    assert done.returncode == 4
    assert done.stdout.startswith("top:none: whiteout-nothing: ")


def test_fsck_of_a_mounted_top(damaged: Layers) -> None:
    overlay = Overlay((str(damaged.bottom),), str(damaged.top), profile="fallthru")
    with kernel.mounted(overlay, str(damaged.mnt)):
        assert fsck("-n", "-o", options(damaged)).returncode == 4
        done = fsck("-y", "-o", options(damaged))
        assert done.returncode == 8
        assert "mounted" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-o", "lowerdir=/usr"],
        ["-o", "upperdir=/tmp"],
        ["-p", "-y", "-o", "lowerdir=/usr,upperdir=/tmp"],
        ["-x"],
        ["-o", "lowerdir=/usr,upperdir=/tmp", "/dev/sda"],
        ["-h"],
    ],
)
def test_fsck_usage_is_16(arguments: list[str]) -> None:
    done = fsck(*arguments)
    assert done.returncode == 16
    assert "usage: fsck.overlay" in done.stderr


def test_fsck_of_what_is_not_there_is_8() -> None:
    assert fsck("-n", "-o", "lowerdir=/usr,upperdir=/nowhere").returncode == 8


def test_fsck_tells_its_version() -> None:
    done = fsck("-V")
    assert done.returncode == 0
    assert done.stdout.startswith("fsck.overlay (fallthru) ")
