"""Images that are made once: what clauses get is theirs alone, and what was made."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from overlay.spec import runner
from overlay.spec.bench import Bench
from overlay.spec.catalogue import Clause, load, select
from overlay.spec.checks import Observations
from overlay.spec.kept import keeping
from overlay.spec.targets import EngineTarget, OverlayfsTarget, Target

pytestmark = pytest.mark.usefixtures("root")

#: Data, a hole, zeros that were written, data that ends in the middle of a block, a hole.
PIECES = ((0, b"begin"), (1 << 20, bytes(1 << 18)), ((3 << 20) + 77, b"end" * 50_000))
SIZE = 8 << 20


def make(image: Path) -> None:
    with image.open("wb") as file:
        for offset, piece in PIECES:
            file.seek(offset)
            file.write(piece)
        file.truncate(SIZE)


def test_a_copy_is_what_was_made_and_takes_no_room_for_zeros(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    made: list[Path] = []
    with keeping() as kept:
        for image in (first, second):

            def once(image: Path = image) -> None:
                made.append(image)
                make(image)

            kept.provide("image", image, once)
            assert image.stat().st_size == SIZE
    assert made == [first]
    assert second.read_bytes() == first.read_bytes()
    assert second.stat().st_blocks * 512 < (1 << 19)


def test_what_is_done_to_one_copy_shows_in_no_other(tmp_path: Path) -> None:
    with keeping() as kept:
        for name in ("made", "altered", "last"):
            image = tmp_path / name
            kept.provide("image", image, partial(make, image))
            before = image.read_bytes()
            with image.open("r+b") as file:
                file.write(name.encode())
    assert before.startswith(b"begin")


def test_what_could_not_be_made_is_not_kept(tmp_path: Path) -> None:
    def fail() -> None:
        (tmp_path / "image").write_bytes(b"half")
        raise RuntimeError("no room")

    with keeping() as kept:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no room"):
                kept.provide("image", tmp_path / "image", fail)
        (tmp_path / "image").unlink()
        kept.provide("image", tmp_path / "image", partial(make, tmp_path / "image"))
    assert (tmp_path / "image").stat().st_size == SIZE


def test_one_image_serves_all_targets_of_a_run_and_no_other_run(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()

    def check(b: Bench) -> Observations:
        image = b.mnt.parent / "image"

        def made() -> None:
            with log.open("a") as file:
                print(os.getpid(), file=file)
            make(image)

        b.kept.provide("image", image, made)
        yield b.same("view", "its size", SIZE, image.stat().st_size)

    clause = Clause("planted.image", ("1",), "One.", "One.", "Works.", "Looks.")
    targets: list[Target] = [EngineTarget(), OverlayfsTarget()]
    for runs in (1, 2):
        results = runner.run([clause], targets, checks={clause.id: check})
        assert [result.status for result in results] == ["kept", "kept"]
        assert len(log.read_text().splitlines()) == runs


@pytest.mark.parametrize("kind", ["ext2", "ext4", "xfs", "btrfs"])
def test_file_systems_of_one_kind_can_be_mounted_side_by_side(kind: str) -> None:
    clauses = select(load(), ("example.edit.copyup", f"supported.top.{kind}"))
    targets: list[Target] = [OverlayfsTarget(), OverlayfsTarget((("index", "on"),))]
    results = runner.run(clauses, targets, bottom_fs=kind, top_fs=kind)
    assert {result.status for result in results} <= {"kept", "departed"}, results
