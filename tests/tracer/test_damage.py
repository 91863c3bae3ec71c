"""Damaged parts: whatever byte changed or went, a part gives its own rows or none."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.load import load
from overlay.errors import FallthruError
from tests.analysis import synthetic
from tests.running import fallthru
from tests.tracer.test_rotation import table
from tracer.parts import PartError, read_part
from tracer.schema import SCHEMA
from tracer.tracefile import TraceWriter

SPANS = 211


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Three parts, as the recorder writes them."""
    writer = TraceWriter(str(tmp_path / "t"))
    for number in range(3):
        writer.write(table(SPANS, number), synthetic.metadata(SPANS * (number + 1)))
    return tmp_path / "t"


def contents(part: Path) -> tuple[Any, Any]:
    metadata, rows = read_part(str(part), SCHEMA.names)
    assert rows is not None
    return metadata, rows.to_pylist()


def spoilt(whole: bytes, rng: random.Random) -> Iterator[bytes]:
    """One flipped bit at offsets all over the file and at each of its last; a lost block; an end
    that is missing; a byte too many."""
    for offset in [*range(0, len(whole), 41), *range(len(whole) - 20, len(whole))]:
        yield whole[:offset] + bytes([whole[offset] ^ 1 << rng.randrange(8)]) + whole[offset + 1 :]
    for offset in range(0, len(whole), 499):
        yield whole[:offset] + bytes(min(512, len(whole) - offset)) + whole[offset + 512 :]
        yield whole[:offset]
        yield whole[:offset] + b"\0" + whole[offset:]


def test_no_damage_goes_unseen(trace: Path) -> None:
    """Either it makes no difference at all, or the part says that it is damaged."""
    part = trace / "part-00001.parquet"
    whole, reference = part.read_bytes(), contents(part)
    refused = same = 0
    for damaged in spoilt(whole, random.Random(7)):
        part.write_bytes(damaged)
        try:
            found = contents(part)
        except (PartError, FallthruError):
            refused += 1
        else:
            assert found == reference
            same += 1
    assert refused > 10 * same > 0, (refused, same)


def test_it_costs_its_own_rows(trace: Path) -> None:
    """The others are read, the damaged one is named, and the exit code is 1."""
    part = trace / "part-00001.parquet"
    whole = part.read_bytes()
    for damaged in (whole[:-100], whole[: len(whole) // 2], b"", whole[:300] + whole[301:]):
        part.write_bytes(damaged)
        read = load(trace)
        assert len(read.frame) == 2 * SPANS
        (damage,) = read.damage
        assert os.path.basename(damage.path) == "part-00001.parquet"
    done = fallthru("trace", "show", trace)
    assert done.returncode == 1
    assert done.stderr.count("part-00001.parquet: damaged") == 1
    assert len(done.stdout.splitlines()) == 1 + 2 * SPANS


def test_a_footer_of_older_versions_is_read(trace: Path) -> None:
    """Nothing vouches for it; it is believed."""
    import pyarrow.parquet as pq

    metadata, rows = contents(trace / "part-00002.parquet")
    plain = pq.read_table(trace / "part-00002.parquet")
    pq.write_table(plain, trace / "part-00002.parquet")
    assert contents(trace / "part-00002.parquet") == (metadata, rows)


def test_missing_parts_are_counted(trace: Path) -> None:
    os.unlink(trace / "part-00000.parquet")
    done = fallthru("trace", "show", trace)
    assert done.returncode == 1
    assert f"{SPANS} of {3 * SPANS} spans are missing" in done.stderr
