"""What priming would save: lookups that end in the first layer, and listings that need no merge.

A trace has no row for a lookup, but histograms (:mod:`analysis.lookups`).  How long a lookup takes
grows with the layers that are asked: ``fixed + layers × each``, with a fixed part of its own for
names that are there.  Fitted to the medians of the trace (a few lookups wait for something else),
that tells what part of it asking one layer, or two, would have taken.  It is about the whole
union: where in it the lookups were is not known.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.advice import WORTH, Advice, Layers, layers_of
from analysis.lookups import Counted, counted
from analysis.model import Estimate
from analysis.runs import Run
from tracer.histogram import lowest_of

__all__ = ["Costs", "advise", "costs"]

#: Names that are not there, and names of a bottom alone.
_MISSING, _BELOW = ("absent", "opaque", "whiteout"), ("bottom",)
#: What a stub's lookup takes against a merged name's, whatever the number of bottoms
#: (docs/fallthru.md).
_STUB = 1.5


@dataclass(frozen=True)
class Costs:
    """What a lookup of a name that is not there takes (ns): ``missing + layers × each``.

    ``fitted``: different numbers of layers were seen; else each is taken to cost alike.
    """

    missing: float
    each: float
    fitted: bool

    def of_missing(self, layers: int) -> float:
        return self.missing + layers * self.each


def costs(found: Sequence[Counted]) -> Costs | None:
    """Fit the costs of the lookups in ``found``, each median weighted by how many lookups it is
    of; None where no name was missing."""
    mine = [one for one in found if one.kind == "lookup" and one.outcome in (*_MISSING, *_BELOW)]
    missing = np.array([one.outcome in _MISSING for one in mine], float)
    layers = np.array([one.layers for one in mine], float)
    medians = np.array([float(one.times.quantile(0.5)) for one in mine])
    weights = np.sqrt([one.count for one in mine])
    if not missing.any():
        return None
    columns = [missing, layers] if missing.all() else [missing, 1 - missing, layers]
    design = np.stack(columns, axis=1) * weights[:, None]
    if np.linalg.matrix_rank(design) == len(columns):
        solved = np.linalg.lstsq(design, medians * weights, rcond=None)[0]
        if solved[-1] >= 0 and solved[0] >= 0:
            return Costs(float(solved[0]), float(solved[-1]), fitted=True)
    asked = np.average(layers[missing > 0], weights=weights[missing > 0] ** 2)
    typical = np.average(medians[missing > 0], weights=weights[missing > 0] ** 2)
    return Costs(0.0, float(typical / max(asked, 1)), fitted=False)


def advise(run: Run, place: str, copyup_ns: float) -> Iterator[Advice]:
    """What priming the union at ``place`` would have saved: its top, or by a shared index."""
    found = [one for one in counted(run.metadata.latencies) if one.mount == place]
    layers = layers_of(run.metadata.mounts[place])
    if not found or any(option.startswith("datadir+") for option in layers.options):
        return
    cost = costs(found)
    whole = copyup_ns + sum(one.times.sum for one in found)
    below = sum(one.times.sum for one in found if one.outcome in _BELOW)
    for name, beside, extra in (("index", 1, 0.0), ("prime", 0, (_STUB - 1) * below)):
        pieces = list(_saved(found, cost, beside, len(layers.bottoms)))
        total = sum(one.count * each for one, each in pieces) - extra
        if total < WORTH * whole or total <= 0:
            continue
        spread = 1.959964 * math.sqrt(sum(_squares(one, each) for one, each in pieces))
        yield Advice(
            name=name,
            run=run.name,
            mount=place,
            time=Estimate(total, max(total - spread, 0.0), total + spread),
            share=total / whole,
            bytes=0,
            spans=sum(one.count for one, _ in pieces),
            confidence="medium" if cost is not None and cost.fitted else "low",
            of="copyup, lookups and listings",
            calls="lookups and listings",
            **_TEXTS[name],
            command=_command(name, layers, place),
        )


def _saved(
    found: Sequence[Counted], cost: Costs | None, beside: int, bottoms: int
) -> Iterator[tuple[Counted, float]]:
    """What each lookup of a missing name, and each merged listing, takes less (ns) when one layer
    is asked, and ``beside`` it the top, where that has the directory: then one more than the
    bottoms were asked.  A merged listing reads each layer's own, and these take alike."""
    for one in found:
        asked = 1 + beside * (one.layers > bottoms)
        if one.layers <= asked:
            continue
        if one.kind == "readdir" and one.outcome == "merged":
            yield one, one.mean * (1 - asked / one.layers)
        elif one.kind == "lookup" and one.outcome in _MISSING and cost is not None:
            yield one, one.mean * (1 - cost.of_missing(asked) / cost.of_missing(one.layers))


def _squares(one: Counted, each: float) -> float:
    """The sum of squares of what each operation saves, in proportion to what it took."""
    buckets = np.array(list(one.times.counts))
    times = (lowest_of(buckets) + lowest_of(buckets + 1)) / 2
    counts = np.array(list(one.times.counts.values()))
    return float((counts * (times * each / one.mean) ** 2).sum())


_TEXTS = {
    "index": {
        "what": "mount over a shared index of the bottoms: no name is looked for in each of them, "
        "no listing is merged",
        "but": "the index is made once and must fit the bottoms; a top belongs to the layers that "
        "it was first mounted over, so this needs a new one",
    },
    "prime": {
        "what": "copy the directories up ahead of time, as fallthrus: names that are not there end "
        "in the top, listings are not merged",
        "but": "it takes an inode for each entry, and looking up what is only below takes longer "
        "(counted here as half as long again); the union's root stays merged",
    },
}


def _command(name: str, layers: Layers, place: str) -> str:
    bottoms = [word for bottom in layers.bottoms for word in ("--bottom", bottom)]
    unmount = f"fallthru umount {shlex.quote(place)}"
    if name == "index":
        make = ["fallthru", "prime", "--shared", *bottoms, "-o", "INDEX"]
        mount = ["fallthru", "mount", "--index", "INDEX", *bottoms, "--top", "NEW-TOP", place]
        return f"{shlex.join(make)} && {unmount} && {shlex.join(mount)}"
    make = ["fallthru", "prime", "--recursive", "--top", layers.top, *bottoms]
    mount = ["fallthru", "mount", "--profile", "fallthru", *bottoms, "--top", layers.top, place]
    return f"{unmount} && {shlex.join(make)} && {shlex.join(mount)}"
