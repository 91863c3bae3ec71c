"""What the benchmarks share: taking turns, medians, and one way to print."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["ENVIRONMENT", "emit", "in_turn", "machine", "median_seconds"]


#: For commands that are measured.  Compiled modules are kept, as an installation does: with
#: PYTHONDONTWRITEBYTECODE Python compiles them at each start, which takes longer than the rest.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def in_turn(
    contenders: Mapping[str, Callable[[], None]], *, rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each contender in each round: A B, B A, A B, …, so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warmup + rounds):
        order = list(contenders.items())
        for name, action in order if number % 2 else reversed(order):
            start = time.perf_counter()
            action()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_seconds(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> dict[str, Any]:
    """What a reader needs to place the figures."""
    return {
        "kernel": os.uname().release,
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
    }


def emit(name: str, lines: list[str], data: Mapping[str, Any], output: Path | None = None) -> None:
    """Print ``lines`` for people; put ``data`` into ``bench-NAME.json`` for machines."""
    path = output or Path(f"bench-{name}.json")
    document = {"benchmark": name, "machine": machine(), **data}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for line in lines:
        print(line)
    print(f"data: {path}")
