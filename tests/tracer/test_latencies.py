"""Histograms that the probes keep: from the kernel's map to the trace."""

from __future__ import annotations

import struct

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from overlay.bpf.loading import Map
from tracer.histogram import bucket_of
from tracer.latencies import described, read_latencies
from tracer.metrics import Metrics

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


def test_as_metrics() -> None:
    """Of all unions together; a bound holds what was certainly within it."""
    metrics = Metrics()
    values = [9_000, 10_200, 70_000, 70_000, 30_000_000_000]
    buckets: dict[str, int] = {}
    for bucket in bucket_of(np.array(values)).tolist():
        buckets[str(bucket)] = buckets.get(str(bucket), 0) + 1
    one = {"kind": "lookup", "outcome": "absent", "layers": 3}
    one |= {"sum_ns": sum(values), "buckets": buckets}
    other = {"kind": "open", "outcome": "alone", "layers": 0, "sum_ns": 5, "buckets": {"5": 1}}
    metrics.keep([{**one, "mount": "/a"}, {**one, "mount": None}, {**other, "mount": "/a"}])
    families = text_string_to_metric_families(metrics.render())
    samples = {
        (sample.name.removeprefix("fallthru_operation_duration_seconds_"), *sample.labels.values()):
        sample.value
        for family in families
        for sample in family.samples
    }  # fmt: skip
    for bound, within in (("1e-05", 2), ("2.5e-05", 4), ("0.0001", 8), ("10.0", 8), ("+Inf", 10)):
        assert samples["bucket", "lookup", "absent", "3", bound] == within, bound
    assert samples["count", "lookup", "absent", "3"] == 10
    assert samples["sum", "lookup", "absent", "3"] == 2 * sum(values) / 1e9
    assert samples["count", "open", "alone", ""] == 1
