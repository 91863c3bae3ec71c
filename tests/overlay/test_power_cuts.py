"""The power goes in the middle: nothing is lost, and the same command goes on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from overlay import inuse, kernel, owners, snapshots
from overlay.committing.commit import commit
from overlay.errors import FallthruError
from overlay.priming import sharedindex
from overlay.roots import named as roots
from overlay.roots import notes as rootnotes
from overlay.roots.cgroups import Limits
from overlay.roots.root import Root
from overlay.site import SITE
from overlay.trials import store as trialstore
from overlay.union import Union
from tests.conftest import Layers
from tests.fsimages import IMAGE_PREFIX, SHM
from tests.overlay.committing import STUBS, change, whole, without_directory_times
from tests.overlay.faults import crash_before, faulty, never
from tests.powercuts import Cut, Disks, while_reading
from tests.rawoverlay import overlay
from tests.running import in_child
from tests.treediff import Tree

CONTENT = b"content" * 40_000
BOTH = pytest.mark.parametrize("cut", list(Cut), ids=lambda cut: cut.name)
KINDS = pytest.mark.parametrize("kind", ["ext4", "xfs"])


@pytest.fixture
def base(root: None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=IMAGE_PREFIX, dir=SHM) as directory:
        yield Path(directory)


def layers_on(base: Path, top: str, bottom: str) -> Layers:
    made = Layers(
        base, base / bottom / "bottom", base / top / "top", base / top / "top.work", base / "mnt"
    )
    for directory in (made.bottom, made.top, made.work, made.mnt):
        directory.mkdir(exist_ok=True)
    return made


# ------------------------------------------------------------------------------ commit


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether layers are in use is not asked again at each step."""
    monkeypatch.setattr(inuse, "_shown", lambda top: False)
    monkeypatch.setattr(owners, "mount_namespaces", lambda: iter(()))


def shown(layers: Layers) -> Tree:
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, STUBS) as mnt:
        tree = whole(mnt)
    return without_directory_times(
        {path: thing for path, thing in tree.items() if not path.startswith(SITE)}
    )


def telling(calls: list[str]) -> list[int]:
    """Half-way to each of the steps that bring all to the disk, and before the last of all.

    What is on the disk changes little in between; a run over all steps is quickly written.
    """
    syncs = [0, *(number for number, call in enumerate(calls, 1) if call == "syncfs"), len(calls)]
    return [*((one + next_) // 2 for one, next_ in pairwise(syncs)), len(calls)]


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(
    ("kind", "cuts"),
    [
        ("ext4", {"disk": Cut.DATA_LOST}),
        ("xfs", {"disk": Cut.ALL_LOST}),
        # Each disk brings things to itself when it likes: one may know of a change that the
        # other has forgotten.
        ("ext4", {"tops": Cut.ALL_LOST, "bottoms": Cut.DATA_LOST}),
        ("xfs", {"tops": Cut.DATA_LOST, "bottoms": Cut.ALL_LOST}),
    ],
    ids=["ext4, names without data", "xfs, the last sync", "an old top", "an old bottom"],
)
def test_commit(base: Path, kind: str, cuts: dict[str, Cut]) -> None:
    disks = Disks(base, kind, list(cuts))
    with disks.mounted():
        layers = layers_on(base, next(iter(cuts)), list(cuts)[-1])
        change(layers)
    disks.save()
    calls: list[str] = []
    run = partial(commit, str(layers.top), [str(layers.bottom)])
    with disks.mounted():
        expected = shown(layers)
        with faulty(never, calls):
            run()
        assert without_directory_times(whole(layers.bottom)) == expected
    for number in telling(calls):
        disks.restore()
        with disks.mounted():
            assert crash_before(number, run, partial(disks.cut, cuts))
        where = f"before step {number} of {len(calls)}, {calls[number - 1]}"
        with disks.mounted():
            assert shown(layers) == expected, f"the power went {where}"
            assert run().emptied
            assert without_directory_times(whole(layers.bottom)) == expected, f"again, {where}"
            assert list(layers.top.iterdir()) == []


# --------------------------------------------------------------------- what is done in one go


def done_and_cut(disks: Disks, cut: Cut, action: Callable[[], object]) -> None:
    """Do it, and let the power go as soon as it is done."""

    def both() -> object:
        done = action()
        disks.cut(dict.fromkeys(disks.names, cut))
        return done

    with disks.mounted():
        told = in_child(both)
    assert "Error" not in told, told


def engine_copies_up(layers: Layers, *, sync: bool) -> None:
    with Union(layers.top, [layers.bottom], layers.work, sync=sync) as union:
        os.close(union.open("file", os.O_WRONLY | os.O_APPEND))


def kernel_copies_up(layers: Layers, *, profile: str) -> None:
    made = kernel.Overlay((str(layers.bottom),), str(layers.top), profile=profile)
    with kernel.mounted(made, str(layers.mnt)):
        os.close(os.open(layers.mnt / "file", os.O_WRONLY | os.O_APPEND))


def with_a_file(base: Path, kind: str) -> tuple[Disks, Layers]:
    disks = Disks(base, kind, ["disk", "bottoms"])  # on one, xfs would share the blocks
    with disks.mounted():
        layers = layers_on(base, "disk", "bottoms")
        (layers.bottom / "file").write_bytes(CONTENT)
    return disks, layers


def seen(layers: Layers) -> bytes:
    with kernel.mounted(kernel.Overlay((str(layers.bottom),), str(layers.top)), str(layers.mnt)):
        return (layers.mnt / "file").read_bytes()


DRIVERS = pytest.mark.parametrize(
    "copies_up",
    [
        partial(engine_copies_up, sync=True),
        partial(kernel_copies_up, profile="document"),
        partial(kernel_copies_up, profile="fallthru"),
    ],
    ids=["engine", "document", "fallthru"],
)


@KINDS
@DRIVERS
def test_half_a_copyup(base: Path, kind: str, copies_up: Callable[[Layers], None]) -> None:
    """The copy was begun aside, and has no data yet."""
    disks, layers = with_a_file(base, kind)
    with disks.mounted():
        told = while_reading(
            layers.bottom / "file",
            partial(copies_up, layers),
            partial(disks.cut, {"disk": Cut.DATA_LOST}),
        )
    assert "Input/output error" in told
    with disks.mounted():
        assert list(layers.top.iterdir()) == []
        assert seen(layers) == CONTENT
        assert in_child(partial(copies_up, layers)) == "None"
        assert seen(layers) == (layers.top / "file").read_bytes() == CONTENT


@KINDS
@DRIVERS
def test_copyup(base: Path, kind: str, copies_up: Callable[[Layers], None]) -> None:
    """A copy that has its name has its data (document L105)."""
    disks, layers = with_a_file(base, kind)
    done_and_cut(disks, Cut.DATA_LOST, lambda: copies_up(layers))
    with disks.mounted():
        assert (layers.top / "file").stat().st_size == len(CONTENT)
        assert (layers.top / "file").read_bytes() == CONTENT
        assert seen(layers) == CONTENT


def test_copyup_without_sync_loses_data(base: Path) -> None:
    """What the other tests would find: this is what the power takes."""
    disks, layers = with_a_file(base, "ext4")
    done_and_cut(disks, Cut.DATA_LOST, lambda: engine_copies_up(layers, sync=False))
    with disks.mounted():
        assert (layers.top / "file").read_bytes() != CONTENT


def test_a_throwaway_top_is_refused_afterwards(base: Path) -> None:
    disks, layers = with_a_file(base, "ext4")
    made = kernel.Overlay((str(layers.bottom),), str(layers.top), profile="throwaway")

    def used() -> None:
        tree = kernel.open_overlay(made)
        os.mkdir("made", dir_fd=os.open(".", os.O_RDONLY, dir_fd=tree))

    done_and_cut(disks, Cut.DATA_LOST, used)
    with disks.mounted(), pytest.raises(FallthruError, match=r"throwaway|volatile"):
        seen(layers)


@BOTH
def test_a_snapshot_that_was_taken_is_there(base: Path, cut: Cut) -> None:
    disks, layers = with_a_file(base, "xfs")
    with disks.mounted():
        kernel_copies_up(layers, profile="document")
    done_and_cut(disks, cut, lambda: snapshots.take(str(layers.top), "first"))
    with disks.mounted():
        (layers.top / "file").write_bytes(b"something else")
    done_and_cut(disks, cut, lambda: snapshots.roll_back(str(layers.top), "first"))
    with disks.mounted():
        assert seen(layers) == CONTENT
        assert [each.label for each in snapshots.snapshots(str(layers.top))] == ["first"]


def test_an_index_image_is_whole(base: Path) -> None:
    disks, layers = with_a_file(base, "xfs")
    image = str(base / "disk" / "index.erofs")
    done_and_cut(disks, Cut.DATA_LOST, lambda: sharedindex.build(image, [str(layers.bottom)]))
    with disks.mounted():
        made = kernel.Overlay((str(layers.bottom),), str(layers.top), index=image)
        with kernel.mounted(made, str(layers.mnt)):
            assert (layers.mnt / "file").read_bytes() == CONTENT


def test_a_root_that_was_created_is_there(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disks, layers = with_a_file(base, "ext4")
    registry = str(base / "disk" / "roots")
    for module in (roots, rootnotes):
        monkeypatch.setattr(module, "DIRECTORY", registry)
    root = Root("web", (str(layers.bottom),), top=str(layers.top))
    done_and_cut(disks, Cut.ALL_LOST, lambda: roots.create(root, Limits()))
    with disks.mounted():
        assert rootnotes.names() == ["web"]
        assert roots.load("web") == (root, Limits())


@BOTH
def test_a_trial_that_was_kept_is_there(base: Path, cut: Cut, tmpfs_dir: Path) -> None:
    """Its tops were in memory, and are nowhere else afterwards."""
    disks = Disks(base, "ext4", ["disk"])
    store, kept = tmpfs_dir / "store", base / "disk" / "kept"
    (store / "root" / "top").mkdir(parents=True)
    (store / "root" / "work").mkdir()
    (store / "root" / "top" / "file").write_bytes(CONTENT)

    def keep() -> None:
        with trialstore.kept(str(kept), "trusted") as tops:
            trialstore.copy_store(str(store), str(kept), ["root"])
            tops["/"] = "root"

    done_and_cut(disks, cut, keep)
    with disks.mounted():
        assert (kept / "root" / "top" / "file").read_bytes() == CONTENT
        with trialstore.kept(str(kept), "trusted") as tops:
            assert tops == {"/": "root"}
