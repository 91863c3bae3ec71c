"""What priming would save: lookups that end in the first layer, and listings that need no merge.

A trace has no row for a lookup, but histograms (:mod:`analysis.lookups`).  How long a lookup takes
grows with the layers that are asked: ``fixed + layers × each``, with a fixed part of its own for
names that are there.  Fitted to the means of the trace, that tells what asking one layer, or two,
would have taken.  It is about the whole union: where in it the lookups were is not known.
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
#: What remains of a listing that need not be merged, and what a stub's lookup takes against a
#: merged name's.  As measured (docs/fallthru.md): both hardly depend on the number of bottoms.
_LISTING, _STUB = 0.75, 1.5


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
    """Fit the costs of the lookups in ``found``, each mean weighted by how many lookups it is of;
    None where no name was missing."""
    mine = [one for one in found if one.kind == "lookup" and one.outcome in (*_MISSING, *_BELOW)]
    missing = np.array([one.outcome in _MISSING for one in mine], float)
    layers = np.array([one.layers for one in mine], float)
    means = np.array([one.mean for one in mine])
    weights = np.sqrt([one.count for one in mine])
    if not missing.any():
        return None
    columns = [missing, layers] if missing.all() else [missing, 1 - missing, layers]
    design = np.stack(columns, axis=1) * weights[:, None]
    if np.linalg.matrix_rank(design) == len(columns):
        solved = np.linalg.lstsq(design, means * weights, rcond=None)[0]
        if solved[-1] >= 0 and solved[0] >= 0:
            return Costs(float(solved[0]), float(solved[-1]), fitted=True)
    asked = np.average(layers[missing > 0], weights=weights[missing > 0] ** 2)
    mean = np.average(means[missing > 0], weights=weights[missing > 0] ** 2)
    return Costs(0.0, float(mean / max(asked, 1)), fitted=False)


def advise(run: Run, place: str, copyup_ns: float) -> Iterator[Advice]:
    """What priming the union at ``place`` would have saved: its top, or by a shared index."""
    found = [one for one in counted(run.metadata.latencies) if one.mount == place]
    layers = layers_of(run.metadata.mounts[place])
    if not found or any(option.startswith("datadir+") for option in layers.options):
        return
    cost = costs(found)
    whole = copyup_ns + sum(one.times.sum for one in found)
    below = sum(one.times.sum for one in found if one.outcome in _BELOW)
    for name, asked, extra in (("index", 2, 0.0), ("prime", 1, (_STUB - 1) * below)):
        saved = [
            *_lookups_saved(found, cost, asked),
            *((one, (1 - _LISTING) * one.mean) for one in found if one.outcome == "merged"),
        ]
        pieces = [(one, each) for one, each in saved if one.kind == "readdir" or each > 0]
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


def _lookups_saved(
    found: Sequence[Counted], cost: Costs | None, asked: int
) -> Iterator[tuple[Counted, float]]:
    """What each lookup of a missing name takes less (ns) when ``asked`` layers are asked."""
    if cost is None:
        return
    for one in found:
        if one.kind == "lookup" and one.outcome in _MISSING and one.layers > asked:
            yield one, min((one.layers - asked) * cost.each, one.mean)


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
