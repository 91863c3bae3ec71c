"""What the spans of many traces come to, made part by part and put together exactly.

A survey is small whatever it was made of: sums, counts by bucket (:mod:`analysis.sketch`), and
what the runs say of themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import sketch, stats, tally
from analysis.order import Int64s
from analysis.runs import Damage, Found, Run, name_spans, runs_of
from analysis.sketch import Distinct, Sketch, buckets_of, sketched
from analysis.tally import Tally, tallied
from overlay.errors import UsageError
from overlay.text import printable
from tracer.frame import frame_of
from tracer.schema import PHASES, SCHEMA

__all__ = ["Question", "Survey", "merged", "survey_part"]

Frame = pd.DataFrame
Key = tuple[str, ...]

#: What the keys are made of, where that is no column of the same name.
_MADE_OF = {"process": "comm", "directory": "path"}
#: The keys that no column holds.
_OF_THE_RUN = ("run", "host")
_EVERYTHING: Key = ()


@dataclass(frozen=True)
class Question:
    """What is asked of every part: groups ``by`` keys of :data:`stats.KEYS` or columns, with
    directories cut after ``depth`` names, of the spans of these ``kinds`` (of all, if None)."""

    by: tuple[Key, ...]
    depth: int = 2
    kinds: tuple[str, ...] | None = ("copyup",)

    def __post_init__(self) -> None:
        known = {*stats.KEYS, *SCHEMA.names}
        for name in (one for key in self.by for one in key):
            if name not in known:
                raise UsageError(
                    f"no such group: {printable(name)}", hint=f"there are: {', '.join(stats.KEYS)}"
                )

    @property
    def columns(self) -> list[str]:
        """The columns that answering takes."""
        wanted = {"kind", "dur", "bytes", "errno", "path", *PHASES}
        wanted |= {_MADE_OF.get(name, name) for key in self.by for name in key}
        return [name for name in SCHEMA.names if name in wanted]


@dataclass(frozen=True, eq=False)
class _Phase:
    """One phase of the spans that tell it: how long it took, how often it ``happened``, and the
    ``whole`` time (ns) of these spans; and how many spans do not tell it."""

    lasted: Sketch
    happened: int
    whole: int
    untold: int

    def row(self) -> dict[str, Any]:
        known, time = int(self.lasted.counts[0]), int(self.lasted.sums[0])
        marks = {
            name: float(np.round(self.lasted.quantile(at)[0]))
            for name, at in tally.PERCENTILES.items()
        }
        return {
            "known": known,
            "unknown": self.untold,
            "happened": self.happened,
            "time": time,
            "share": time / self.whole if self.whole else np.nan,
            **marks,
            "max": float(self.lasted.largest()[0]),
        }


@dataclass(frozen=True, eq=False)
class Survey:
    """The spans of any number of runs, summarised.

    Counts, sums, bytes and the longest times are exact.  Percentiles and the ends of their
    intervals are within :data:`analysis.sketch.VALUE_ERROR` (0.1 %) of the exact ones, the number
    of different files is exact up to :data:`analysis.sketch.KEPT` and then within a standard
    error of :data:`analysis.sketch.DISTINCT_ERROR` (0.4 %).
    """

    found: tuple[Found, ...]
    tallies: dict[Key, Tally]
    parts_of_time: dict[str, _Phase]
    files: Distinct

    @property
    def runs(self) -> tuple[Run, ...]:
        return runs_of(self.found)

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What could not be read, or is missing."""
        return tuple(item for one in self.found for item in one.damage)

    def tally(self, by: str | Sequence[str] | None = None) -> Tally:
        """What the spans of each group add up to; without ``by``, all of them."""
        key: Key = () if by is None else (by,) if isinstance(by, str) else tuple(by)
        if key not in self.tallies:
            raise UsageError(
                f"the survey has no groups by {' and '.join(map(printable, key))}",
                hint="name them when it is made: survey(paths, by=[…])",
            )
        return self.tallies[key]

    def summarise(self, by: str | Sequence[str]) -> Frame:
        """The groups as :func:`stats.summarise` gives them."""
        return tally.table(self.tally(by))

    def phases(self) -> Frame:
        """The phases as :func:`stats.phases` gives them."""
        return stats.phase_table({name: one.row() for name, one in self.parts_of_time.items()})

    def overview(self) -> dict[str, Any]:
        """The totals of :func:`stats.overview`, but for ``processes``: numbers of processes mean
        nothing across hosts.  ``files`` are the different paths, whatever the host."""
        row = tally.table(self.tally()).iloc[0]
        names = ("spans", "bytes", "untold", "errors")
        times = ("time", *tally.PERCENTILES, "max")
        return {
            **{name: int(row[name]) for name in names},
            "files": self.files.count(),
            **{name: None if row[name] is pd.NaT else row[name] for name in times},
        }


def survey_part(found: Found, question: Question) -> Survey:
    """The survey of a run's parts (those of ``found``, together in memory).

    Raises what :meth:`Found.read` raises; what is damaged is in the survey.
    """
    surveys = []
    for part in found.parts:
        one = Found(found.path, [part], found.label)
        table = one.read(part, question.columns)
        if table is None:
            frame = frame_of(SCHEMA.empty_table().select(question.columns))
            name_spans(frame, (), host=True)
        else:
            frame = frame_of(table)
            name_spans(frame, (one.run(),), host=True)
        surveys.append(_of_frame(one, frame, question))
    return merged(surveys)


def merged(surveys: Sequence[Survey]) -> Survey:
    """One survey of several that were asked the same."""
    if len(surveys) == 1:
        return surveys[0]
    found: dict[str, Found] = {}
    for one in (one for survey in surveys for one in survey.found):
        found[one.path] = found[one.path].add(one) if one.path in found else one
    first = surveys[0]
    return Survey(
        tuple(found.values()),
        {key: tally.merged([one.tallies[key] for one in surveys]) for key in first.tallies},
        {
            name: _phases_merged([one.parts_of_time[name] for one in surveys])
            for name in first.parts_of_time
        },
        Distinct.merged([one.files for one in surveys]),
    )


def _of_frame(found: Found, frame: Frame, question: Question) -> Survey:
    if question.kinds is not None:
        mine = frame["kind"].isin(question.kinds).to_numpy()
        frame = frame if mine.all() else frame[mine]
    # The clock never goes back, but a trace may be made up.
    frame = frame.assign(dur=np.maximum(frame["dur"].to_numpy(), np.timedelta64(0, "ns")))
    rank = functools.partial(sketched, buckets=buckets_of(frame["dur"].to_numpy().view("int64")))
    everything = pd.Index(["all"], name="group")
    tallies = {
        _EVERYTHING: tallied(frame, np.zeros(len(frame), np.int8), everything, rank),
        **{key: _by(frame, key, question.depth, rank) for key in question.by},
    }
    phases = {
        name: _Phase(_alone(phase), int(np.count_nonzero(phase > 0)), int(dur.sum()), untold)
        for name, dur, phase, untold in stats.phase_values(frame)
    }
    paths = frame["path"].dropna().to_numpy(dtype=object)
    return Survey((found,), tallies, phases, Distinct.of(paths))


def _by(frame: Frame, key: Key, depth: int, rank: Callable[..., Sketch]) -> Tally:
    codes, index = stats.grouped(frame, key, depth)
    names = index.to_frame(index=False)
    for name in names:
        kind = names[name].dtype
        if isinstance(kind, pd.CategoricalDtype) and not kind.ordered:
            names[name] = names[name].astype(object)  # every part has its own set of words
    return tallied(frame, codes, tally.index_of(names), rank)


def _alone(values: Int64s) -> Sketch:
    values = np.maximum(values, 0)
    return sketched(values, np.zeros(len(values), np.int8), 1)


def _phases_merged(phases: Sequence[_Phase]) -> _Phase:
    nowhere = [np.zeros(1, np.int64)] * len(phases)
    return _Phase(
        sketch.merged([one.lasted for one in phases], nowhere, 1),
        sum(one.happened for one in phases),
        sum(one.whole for one in phases),
        sum(one.untold for one in phases),
    )
