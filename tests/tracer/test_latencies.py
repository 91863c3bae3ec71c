"""Histograms that the probes keep: from the kernel's map to the trace."""

from __future__ import annotations

import struct

from overlay.bpf.loading import Map
from tracer.latencies import described, read_latencies

_HASH = 1


def test_from_the_map_to_the_trace(tracing: None) -> None:
    """Buckets of one kind and outcome come together; unions that go by one name do, too."""
    table = Map("latencies", _HASH, 12, 16, 64)
    for mount, what, outcome, layers, bucket, count, total in (
        (1, 1, 2, 3, 100, 5, 5_000),
        (1, 1, 2, 3, 7, 1, 7),
        (1, 1, 6, 3, 100, 2, 2_000),
        (2, 1, 2, 3, 100, 1, 1_001),
        (3, 5, 10, 0, 200, 4, 400_000),
    ):
        table[struct.pack("=IBBBxI", mount, what, outcome, layers, bucket)] = struct.pack(
            "=QQ", count, total
        )
    found = described(read_latencies(table), {1: "/mnt", 2: "/mnt"}.get)
    table.close()
    by_what = {(row["mount"], row["kind"], row["outcome"], row["layers"]): row for row in found}
    assert by_what.keys() == {
        ("/mnt", "lookup", "bottom", 3),
        ("/mnt", "lookup", "absent", 3),
        (None, "unlink", "copyup", 0),
    }
    both = by_what["/mnt", "lookup", "bottom", 3]
    assert (both["count"], both["sum_ns"]) == (7, 6_008)
    assert both["buckets"] == {"7": 1, "100": 6}
    assert by_what[None, "unlink", "copyup", 0]["buckets"] == {"200": 4}
