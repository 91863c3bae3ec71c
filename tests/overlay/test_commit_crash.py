"""A commit that is killed, or refused by the disk, at every step: nothing is lost, rerun it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from overlay import inuse, owners
from overlay.committing.commit import commit
from overlay.errors import FallthruError, OperationFailed
from overlay.site import SITE
from tests.conftest import Layers, make_layers
from tests.fsimages import tmpfs
from tests.overlay.committing import STUBS, change, whole, without_directory_times
from tests.overlay.faults import crash_before, faulty, never
from tests.rawoverlay import overlay
from tests.treediff import Tree


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether layers are in use is not asked again at each of some hundred steps."""
    monkeypatch.setattr(inuse, "_shown", lambda top: False)
    monkeypatch.setattr(owners, "mount_namespaces", lambda: iter(()))


class Bench:
    """Layers that can be had again as they were: copied, hard links and marks and all."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.count = 0
        self.original = make_layers(base / "original")
        self.expected, self.links = change(self.original)

    def fresh(self) -> Layers:
        self.count += 1
        base = self.base / str(self.count)
        # The index names files of the bottom by handle: they have to be the same files.
        base.mkdir()
        made = make_layers(base)
        for name in ("bottom", "top", "top.work"):
            (base / name).rmdir()
        names = ("bottom", "top", "top.work")
        subprocess.run(
            ["cp", "-a", *(self.original.base / name for name in names), base], check=True
        )
        shutil.rmtree(base / "top.work" / "index")
        return made

    def shown(self, layers: Layers) -> Tree:
        with overlay(
            layers.mnt, [layers.bottom], layers.top, layers.work, {**STUBS, "index": "off"}
        ) as mnt:
            tree = whole(mnt)
        return without_directory_times(
            {path: thing for path, thing in tree.items() if not path.startswith(SITE)}
        )


@pytest.fixture
def bench(tmpfs_dir: Path) -> Bench:
    (tmpfs_dir / "original").mkdir()
    return Bench(tmpfs_dir)


def steps_of(bench: Bench) -> tuple[Tree, int]:
    layers = bench.fresh()
    shown = bench.shown(layers)
    with faulty(never) as steps:
        commit(str(layers.top), [str(layers.bottom)])
        count = steps()
    assert without_directory_times(whole(layers.bottom)) == shown
    return shown, count


def test_killed_at_every_step(bench: Bench) -> None:
    shown, steps = steps_of(bench)
    assert steps > 60
    for number in range(1, steps + 1):
        layers = bench.fresh()
        run = partial(commit, str(layers.top), [str(layers.bottom)])
        assert crash_before(number, run)
        assert bench.shown(layers) == shown, f"killed before step {number} of {steps}"
        assert run().emptied
        assert without_directory_times(whole(layers.bottom)) == shown, f"again, after {number}"
        assert list(layers.top.iterdir()) == []
        shutil.rmtree(layers.base)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_refused_at_every_step(bench: Bench, number: int) -> None:
    shown, steps = steps_of(bench)
    for failing in range(1 + (number == errno.EIO), steps + 1, 4):
        layers = bench.fresh()
        run = partial(commit, str(layers.top), [str(layers.bottom)])

        def fault(each: int, failing: int = failing) -> None:
            if each == failing:
                raise OSError(number, os.strerror(number))

        with faulty(fault), suppress(FallthruError):
            run()
        assert bench.shown(layers) == shown, f"refused at step {failing} of {steps}"
        run()
        assert without_directory_times(whole(layers.bottom)) == shown
        shutil.rmtree(layers.base)


def test_a_full_disk(tmpfs_dir: Path) -> None:
    layers = make_layers(tmpfs_dir)
    small = tmpfs_dir / "small"
    small.mkdir()
    with tmpfs(small, options={"size": "1m"}):
        bottom = small / "bottom"
        bottom.mkdir()
        (bottom / "old").write_text("old")
        with overlay(layers.mnt, [bottom], layers.top, layers.work, {}) as mnt:
            (mnt / "old").write_text("changed")
            (mnt / "big").write_bytes(b"x" * (2 << 20))
            expected = whole(mnt)
        with pytest.raises(OperationFailed) as caught:
            commit(str(layers.top), [str(bottom)])
        assert caught.value.errno == errno.ENOSPC
        assert [path.name for path in (bottom / SITE.decode()).iterdir()] == ["note"]
        with overlay(layers.mnt, [bottom], layers.top, layers.work, {}) as mnt:
            assert {p: t for p, t in whole(mnt).items() if not p.startswith(SITE)} == expected
        (layers.top / "big").unlink()
        del expected[b"big"]
        assert commit(str(layers.top), [str(bottom)]).emptied
        assert whole(bottom) == expected


def test_killed_with_its_workers_and_run_again_at_once(layers: Layers) -> None:
    """So large that several processes make copies; killed once the first are in the site."""
    for number in range(53):
        for layer in (layers.bottom, layers.top):
            (layer / f"d{number}").mkdir()
        for name in range(101):
            (layers.bottom / f"d{number}" / f"old{name}").write_text("old")
            os.mknod(layers.top / f"d{number}" / f"old{name}", stat.S_IFCHR)
            (layers.top / f"d{number}" / f"new{name}").write_text(f"{number} {name}")
    run = [sys.executable, "-m", "overlay", "commit", "--yes"]
    run += ["--top", str(layers.top), "--bottom", str(layers.bottom)]
    site = layers.bottom / SITE.decode()
    with subprocess.Popen(run, stdout=subprocess.DEVNULL) as first:
        while first.poll() is None and not (site.is_dir() and len(os.listdir(site)) > 2):
            pass
        first.kill()
    assert first.returncode == -signal.SIGKILL, "killed while it was at work"
    subprocess.run(run, stdout=subprocess.DEVNULL, check=True)
    assert not site.exists()
    assert list(layers.top.iterdir()) == []
    found = {
        str(path.relative_to(layers.bottom)): path.read_text()
        for path in layers.bottom.rglob("*")
        if path.is_file()
    }
    assert found == {
        f"d{number}/new{name}": f"{number} {name}" for number in range(53) for name in range(101)
    }
