"""The tests' own ground: file systems come, work and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import resources
from tests.fsimages import MKFS, loop_filesystem
from tests.processes import children


@pytest.mark.parametrize("kind", sorted(MKFS))
def test_a_loop_file_system_is_of_its_kind_and_leaves_nothing(root: None, kind: str) -> None:
    before, processes = resources(), children()
    with loop_filesystem(kind) as mount_point:
        (mount_point / "file").write_bytes(b"data")
        line = next(
            line
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if f" {mount_point} " in line
        )
        assert f" - {kind} /dev/loop" in line
    assert resources().mounts == before.mounts
    assert children() == processes
