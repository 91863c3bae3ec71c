"""Two processes race for one top: one wins, and the other leaves no trace (L437, L482)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay import conflicts, errors, kernel, syscalls
from tests.conftest import Layers

ROUNDS = 200


Mount = Callable[[kernel.Overlay, str], object]


def racer(overlay: kernel.Overlay, mount: Mount, place: Path, start: int, answers: int) -> None:
    """Mount when a byte comes, tell how it went, unmount when the next one comes."""
    while os.read(start, 1):
        try:
            mount(overlay, str(place))
            answer = b"won"
        except errors.Refused:
            answer = b"lost"
        except BaseException as error:
            answer = repr(error).encode()
        os.write(answers, answer)
        os.read(start, 1)
        if answer == b"won":
            kernel.unmount(str(place))
        os.write(answers, b"done")


class Racer:
    """A child that mounts ``overlay`` at ``place``, and pipes to and from it."""

    def __init__(self, overlay: kernel.Overlay, mount: Mount, place: Path) -> None:
        start, self.start = os.pipe()
        self.answers, answers = os.pipe()
        self.mount_point = place
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.start)
            os.close(self.answers)
            try:
                racer(overlay, mount, place, start, answers)
            finally:
                os._exit(0)
        os.close(start)
        os.close(answers)

    def go(self) -> None:
        os.write(self.start, b"!")

    def answer(self) -> str:
        return os.read(self.answers, 1000).decode()

    def end(self) -> None:
        os.close(self.start)
        os.close(self.answers)
        os.waitpid(self.pid, 0)


@contextmanager
def racers(base: Path, overlays: list[kernel.Overlay], mount: Mount) -> Iterator[list[Racer]]:
    started: list[Racer] = []
    try:
        for number, overlay in enumerate(overlays):
            place = base / f"mnt{number}"
            place.mkdir()
            started.append(Racer(overlay, mount, place))
        yield started
    finally:
        # A later child holds copies of the earlier pipes' ends: end it first.
        for each in reversed(started):
            each.end()


def test_exactly_one_of_two_processes_gets_the_top(layers: Layers) -> None:
    """With a work directory that neither finds: the loser must not remove the winner's."""
    (layers.bottom / "file").write_text("bottom")
    before = sorted(os.listdir(layers.base))
    outcomes = {}
    overlay = kernel.Overlay((str(layers.bottom),), str(layers.top))
    with racers(layers.base, [overlay, overlay], kernel.mount) as both:
        for number in range(ROUNDS):
            shutil.rmtree(layers.top)
            shutil.rmtree(layers.work)
            layers.top.mkdir()
            for each in both if number % 2 else reversed(both):  # on one processor the first wins
                each.go()
            outcomes[number] = [each.answer() for each in both]
            assert sorted(outcomes[number]) == ["lost", "won"], f"round {number}"
            winner = both[outcomes[number].index("won")].mount_point
            # A copyup goes through the work directory, so it must be there and whole.
            (winner / "file").write_text(str(number))
            assert (layers.top / "file").read_text() == str(number)
            loser = both[outcomes[number].index("lost")].mount_point
            assert not os.path.ismount(loser)
            assert os.listdir(loser) == []
            for each in both:
                each.go()
                assert each.answer() == "done"
            assert sorted(os.listdir(layers.work)) == ["index", "work"]
            assert os.listdir(layers.work / "work") == []
    for mount_point in ("mnt0", "mnt1"):
        (layers.base / mount_point).rmdir()
    assert sorted(os.listdir(layers.base)) == before
    assert {outcome.index("won") for outcome in outcomes.values()} == {0, 1}


def test_a_tree_becomes_top_or_bottom_but_not_both(layers: Layers) -> None:
    """L435: one process makes it a bottom while another makes a directory in it a top."""
    (layers.bottom / "inner" / "top").mkdir(parents=True)
    (layers.base / "other").mkdir()
    as_bottom = kernel.Overlay((str(layers.bottom),), str(layers.top))
    as_top = kernel.Overlay((str(layers.base / "other"),), str(layers.bottom / "inner" / "top"))
    winners = set()
    with racers(layers.base, [as_bottom, as_top], conflicts.mount) as both:
        for number in range(100):
            for each in both if number % 2 else reversed(both):
                each.go()
            outcome = [each.answer() for each in both]
            assert sorted(outcome) == ["lost", "won"], f"round {number}"
            winners.add(outcome.index("won"))
            for each in both:
                each.go()
                assert each.answer() == "done"
    assert winners == {0, 1}


def test_a_loser_takes_its_own_work_directory_back(layers: Layers) -> None:
    bottoms = (str(layers.bottom),)
    with kernel.mounted(kernel.Overlay(bottoms, str(layers.top)), str(layers.mnt)):
        mine = layers.base / "mine"
        with pytest.raises(errors.TopInUse) as raised:
            kernel.open_overlay(kernel.Overlay(bottoms, str(layers.top), str(mine)))
        assert raised.value.work == str(layers.work)
        assert not mine.exists()
        (layers.mnt / "file").write_text("the winner still writes")


def test_a_bottom_that_is_a_top_is_named_by_the_kernels_answer(layers: Layers) -> None:
    """L435; the kernel itself refuses where it has an index, and says nothing useful."""
    with kernel.mounted(kernel.Overlay((str(layers.bottom),), str(layers.top)), str(layers.mnt)):
        other = layers.base / "other"
        other.mkdir()
        with pytest.raises(errors.Refused, match="is the top of the overlay at") as raised:
            kernel.open_overlay(kernel.Overlay((str(layers.top),), str(other)))
        assert str(layers.mnt) in raised.value.message
        assert not Path(f"{other}.work").exists()


def test_a_detached_winner_cannot_be_seen_but_still_wins(layers: Layers) -> None:
    overlay = kernel.Overlay((str(layers.bottom),), str(layers.top))
    tree = kernel.open_overlay(overlay)
    try:
        with pytest.raises(errors.TopInUse, match="cannot be seen from here"):
            kernel.open_overlay(overlay)
        fd = os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=tree)
        os.close(fd)
    finally:
        os.close(tree)
    assert (layers.top / "new").exists()
    assert syscalls.statfs_type(layers.top) != syscalls.OVERLAYFS_MAGIC
