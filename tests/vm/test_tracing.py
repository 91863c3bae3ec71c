"""The tracer where overlayfs is a module, on kernels other than the one it is developed on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.vm.guests import ask_ahead, in_guest
from tests.vm.tracing_job import KEPT

#: It compiles probes under emulation.
pytestmark = pytest.mark.timeout(900)

SCRIPT = rf"""
set -e
export CACHE_DIRECTORY={KEPT}
mkdir /tmp/bottom /tmp/top /tmp/mnt
for i in $(seq 13); do head -c $((i * 1000)) /dev/zero >/tmp/bottom/$i; done
fallthru mount --bottom /tmp/bottom --top /tmp/top /tmp/mnt
fallthru trace record -o /tmp/trace --mount /tmp/mnt -- \
    sh -c 'for i in $(seq 13); do echo more >>/tmp/mnt/$i; done'
fallthru trace show --json /tmp/trace
"""
RECORD = ("sh", "-c", SCRIPT)
LONGEST = 600


def ahead(kernel: str) -> None:
    ask_ahead(kernel, *RECORD, seconds=LONGEST)


@pytest.mark.ahead(ask=ahead)
@pytest.mark.parametrize("kernel", ["debian-6.1", "debian-6.12", "debian-7"])
def test_each_copyup_is_seen_once(kernel: str) -> None:
    done = in_guest(kernel, *RECORD, seconds=LONGEST)
    assert done.returncode == 0, done.stderr
    spans = json.loads(done.stdout)["spans"]
    # Backends that see functions tell of the opens that needed them as well.
    copyups = [span for span in spans if span["kind"] == "copyup"]
    seen = [(Path(span["path"]).name, span["bytes"]) for span in copyups]
    assert seen == [(str(number), number * 1000) for number in range(1, 14)]
