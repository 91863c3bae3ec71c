"""What is made anew is there whole or not at all, and what a killed run left goes with the next."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial

import pytest

from overlay import freeze
from overlay.archives import archive, tarexport
from overlay.archives.sink import OverlayMarks
from overlay.committing import merge
from overlay.errors import Refused
from overlay.newtree import beside
from overlay.priming import sharedindex
from tests.conftest import Layers
from tests.overlay.faults import crash_before


def make_squash(layers: Layers, out: str) -> None:
    merge.squash([str(layers.bottom)], out)


def make_tar(layers: Layers, out: str) -> None:
    tarexport.export_tar(str(layers.bottom), out)


def make_directory(layers: Layers, out: str) -> None:
    archive.export_directory(str(layers.bottom), out, OverlayMarks())


def make_index(layers: Layers, out: str) -> None:
    sharedindex.build(out, [str(layers.bottom)], jobs=1)


def make_index_image(layers: Layers, out: str) -> None:
    sharedindex.build(f"{out}.erofs", [str(layers.bottom)], jobs=1)


def make_image(layers: Layers, out: str) -> None:
    if shutil.which("mkfs.erofs") is None:
        pytest.skip("needs: mkfs.erofs")
    freeze.freeze(str(layers.bottom), out)


@pytest.mark.parametrize(
    "make",
    [make_squash, make_tar, make_directory, make_index, make_index_image, make_image],
    ids=lambda make: make.__name__,
)
def test_killed_at_every_step(
    layers: Layers, make: Callable[[Layers, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (layers.bottom / "d").mkdir()
    (layers.bottom / "d" / "file").write_text("content")
    place, elsewhere = layers.base / "place", layers.base / "elsewhere"
    for directory in (place, elsewhere):
        directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    run = partial(make, layers, str(place / "out"))
    number = 1
    while crash_before(number, run):
        number += 1
        seen = [name for name in os.listdir(place) if not name.startswith(".")]
        for name in seen:  # it was killed when all but tidying up was done
            path = place / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert number > 4
    (made,) = os.listdir(place)  # the last run found and removed what those before it left
    assert made.startswith("out")
    assert not os.listdir(elsewhere)


def test_one_run_at_a_time(layers: Layers) -> None:
    out = str(layers.base / "out")
    with beside(out), pytest.raises(Refused, match="another run is making"):
        make_squash(layers, out)
    make_squash(layers, out)
