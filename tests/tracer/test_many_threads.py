"""Threads keep a place in the kernel's table from one copyup to the next, but not all of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.conftest import Layers
from tests.tracer.test_copyups import union
from tracer.backend import Probes
from tracer.program import PROBES, Filters
from tracer.records import split
from tracer.unions import union_devices

THREADS = 2099

#: Each thread copies up two files; then all wait, so that they are there at once.
WORK = f"""
import os, sys, threading
threading.stack_size(65536)
met = threading.Barrier({THREADS} + 1)
def work(number):
    for one in (number, number + {THREADS}):
        os.close(os.open(f"{{sys.argv[1]}}/{{one}}", os.O_WRONLY))
    met.wait()
    met.wait()
for number in range({THREADS}):
    threading.Thread(target=work, args=(number,)).start()
met.wait()
print("all", flush=True)
sys.stdin.read()
met.wait()
"""


def test_more_threads_than_keep_a_place(layers: Layers, tracing: None) -> None:
    """Each copyup is told of once; so many places stay taken, none when the threads are gone."""
    limit = re.search(r"#define MAX_KEPT (\d+)", (PROBES / "state.c").read_text())
    assert limit is not None
    for number in range(2 * THREADS):
        (layers.bottom / str(number)).touch()
    with union(layers) as mnt:
        probes = Probes("tracepoint", Filters(devices=union_devices([str(mnt)])))
        try:
            places = probes._program.maps["spans"]
            command = (sys.executable, "-S", "-c", WORK, mnt)
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as work:
                assert work.stdout is not None
                assert work.stdout.readline() == b"all\n"
                kept = len([*places.keys()])
            left = [*places.keys()]
            spans = split(probes.take()).spans
            told = (probes.lost, probes.unmatched)
        finally:
            probes.close()
    names = Counter(Path(bytes(row["path"])[: int(row["path_len"]) - 1].decode()) for row in spans)
    assert names == Counter(Path(str(number)) for number in range(2 * THREADS))
    assert set(Counter(spans["tid"].tolist()).values()) == {2}
    assert told == (0, 0)
    assert int(limit[1]) < THREADS
    assert kept == int(limit[1])
    assert left == []
