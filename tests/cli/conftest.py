"""What several tests of commands need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay import kernel
from tests.fsimages import tmpfs
from tests.networks import own_network
from tests.running import fallthru


@pytest.fixture
def network(root: None) -> Iterator[None]:
    """Bridges and addresses of this test only."""
    with own_network():
        yield


@pytest.fixture(scope="module")
def helper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """/sbin with mount.fallthru installed, seen in this run's mount namespace only."""
    if os.geteuid() != 0:
        pytest.skip("needs: root")
    sbin = os.path.realpath("/sbin")
    scratch = tmp_path_factory.mktemp("sbin")
    with tmpfs(scratch):
        top = scratch / "top"
        top.mkdir()
        with kernel.mounted(kernel.Overlay((sbin,), str(top)), sbin):
            done = fallthru("install-helper")
            assert done.returncode == 0, done.stderr
            yield Path(sbin, "mount.fallthru")
