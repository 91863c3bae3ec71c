"""What priming saves of lookups and listings, as traced, against what advice says beforehand.

Recording needs a kernel that lets functions be traced (fallthru doctor: fentry or kprobe), such as
a guest's; predicting needs pandas, which takes long to start under emulation.  So there are two
steps:

    scripts/vm run debian-6.12 -- python3 -P scripts/benchmarks/lookups.py --record >lookups.jsonl
    scripts/bench lookups lookups.jsonl

The same work each time, on a fresh mount: names that do not exist, names of the bottoms, listings.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

#: Primes, so that a count shows what it is of.
MISSING, THERE, LISTINGS, FILES = 1009, 211, 53, 503


def workload(root: Path) -> None:
    place = str(root / "lib")
    for number in range(MISSING):
        os.path.lexists(f"{place}/none-{number}")
    for number in range(0, 2 * THERE, 2):
        os.stat(f"{place}/file-{number}", follow_symlinks=False)
    for _ in range(LISTINGS):
        os.listdir(place)


def record(count: int, rounds: int, backend: str | None) -> None:
    """Print a line for each trace: its case, and its metadata."""
    from overlay import kernel
    from overlay.priming import sharedindex
    from overlay.priming.prime import prime
    from tracer.session import Session

    os.environ.setdefault("CACHE_DIRECTORY", tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="fallthru-bench-", dir="/dev/shm") as scratch:
        base = Path(scratch)
        bottoms = tuple(str(base / f"b{number}") for number in range(count))
        for number in range(FILES):
            file = base / f"b{number % count}" / "lib" / f"file-{number}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        for name in ("root", "merged", "primed", "indexed"):
            (base / name).mkdir()
        root = base / "root"
        prime(str(base / "primed"), bottoms, ["lib"])
        sharedindex.build(str(base / "meta"), bottoms)
        for _ in range(rounds):
            for name in ("merged", "primed", "indexed"):
                index = str(base / "meta") if name == "indexed" else None
                top = str(base / name)
                overlay = kernel.Overlay(bottoms, top=top, profile="fallthru", index=index)
                with (
                    kernel.mounted(overlay, str(root)),
                    Session(mounts=[root], backend=backend) as session,
                ):
                    workload(root)
                told = json.loads(session.metadata().to_json())
                print(json.dumps({"case": name, "metadata": told}), flush=True)


def judge(path: str) -> None:
    """Compare what the traces of the merged union predict with what the others took."""
    from measuring import emit

    from analysis import priming
    from analysis.runs import Run
    from tracer.schema import RunMetadata

    traces: dict[str, list[dict[str, Any]]] = {}
    for line in Path(path).read_text().splitlines():
        one = json.loads(line)
        traces.setdefault(one["case"], []).append(one["metadata"])
    lines, data = [], {}
    for name, case in (("index", "indexed"), ("prime", "primed")):
        told = [RunMetadata(**one) for one in traces["merged"]]
        predicted = [
            one.time.value
            for number, metadata in enumerate(told)
            for place in metadata.mounts
            for one in priming.advise(Run(f"merged-{number}", path, metadata), place, 0.0)
            if one.name == name
        ]
        before, after = (_median(map(_spent, traces[kind])) for kind in ("merged", case))
        guess, saved = _median(predicted), before - after
        data[name] = {"before": before, "after": after, "predicted": guess, "saved": saved}
        lines.append(
            f"{name}: {before / 1e6:.1f} ms in lookups and listings, {after / 1e6:.1f} ms with it:"
            f" saved {saved / 1e6:.1f} ms, predicted {guess / 1e6:.1f} ms ({guess / saved:.2f})"
        )
    emit("lookups", lines, data)


def _spent(metadata: dict[str, Any]) -> float:
    kinds = ("lookup", "readdir")
    return float(sum(one["sum_ns"] for one in metadata["latencies"] if one["kind"] in kinds))


def _median(values: Any) -> float:
    ordered = sorted(values)
    return float(ordered[len(ordered) // 2]) if ordered else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recorded", nargs="?", metavar="FILE", help="What --record printed.")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--bottoms", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--backend")
    options = parser.parse_args()
    if options.record:
        record(options.bottoms, options.rounds, options.backend)
    elif options.recorded:
        judge(options.recorded)
    else:
        print("lookups: name what --record printed (-h says more)", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
