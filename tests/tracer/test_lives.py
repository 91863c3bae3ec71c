"""Unions that are mounted, changed and unmounted while somebody traces."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Layers
from tests.processes import PATIENCE
from tests.tracer.test_copyups import union
from tracer.session import Session

pytestmark = pytest.mark.usefixtures("tracing")


def test_a_life(layers: Layers) -> None:
    (layers.bottom / "f").write_bytes(b"x")
    with Session() as session:
        before = time.time_ns()
        with union(layers) as mnt:
            os.chmod(mnt / "f", 0o600)
            wait_for(session, mnt, "mounted_ns")
            mounted = time.time_ns()
            subprocess.run(("mount", "-o", "remount,ro", mnt), check=True)
            wait_for(session, mnt, "remounted")
            changed = time.time_ns()
        wait_for(session, mnt, "unmounted_ns")
        gone = time.time_ns()
    life = session.metadata().mounts[str(layers.mnt)]
    assert before <= life["mounted_ns"] <= mounted
    (remount,) = life["remounted"]
    assert mounted <= remount["ns"] <= changed
    assert life["options"].split(",")[0] == "rw"
    assert remount["options"].split(",")[0] == "ro"
    assert changed <= life["unmounted_ns"] <= gone


def wait_for(session: Session, mnt: Path, what: str) -> None:
    """On a busy machine a record can be a while in the making, and those behind it wait."""
    limit = time.monotonic() + PATIENCE
    while what not in session.metadata().mounts.get(str(mnt), {}):
        assert time.monotonic() < limit, what
        session.table()


def test_a_union_that_was_there_and_stays(layers: Layers) -> None:
    (layers.bottom / "f").write_bytes(b"x")
    with union(layers) as mnt, Session(mounts=[mnt]) as session:
        os.chmod(mnt / "f", 0o600)
    life = session.metadata().mounts[str(layers.mnt)]
    assert not life.keys() & {"mounted_ns", "unmounted_ns", "remounted"}
