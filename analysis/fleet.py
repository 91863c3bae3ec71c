"""Traces of many hosts: more than fits in memory, on this machine or on a Dask cluster.

``survey`` goes through a data set of traces (``host=…/run=…``, in a directory or behind a URL)
part by part.  What comes out does not depend on the engine: parts are summarised alike, and
put together exactly.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd

from analysis.compare import Overlap, compare_tables
from analysis.regress import Regression, past_of, ratios_of
from analysis.runs import Found, found_in
from analysis.sketch import VALUE_ERROR
from analysis.survey import Question, Survey, merged, survey_part
from analysis.tally import medians, table
from overlay import __version__
from overlay.errors import EnvironmentLacks, OperationFailed, UsageError
from overlay.text import printable
from tracer.parts import StrPath

__all__ = ["ENGINES", "Survey", "compare", "overlap", "past", "ratios", "survey"]

Frame = pd.DataFrame

#: So many surveys are put together at a time.
_FAN_IN = 16
#: How far at most the ends of a ratio's interval are off: two medians, and the distances of four
#: ends from them, joined as the sides of right angles.
_RATIO_ERROR = (2 + 2 * 2**0.5) * VALUE_ERROR


def survey(
    paths: StrPath | Iterable[StrPath],
    by: str | Sequence[str | Sequence[str]] = (),
    *,
    depth: int = 2,
    kinds: Sequence[str] | None = ("copyup",),
    engine: str = "pandas",
    scheduler: str | None = None,
) -> Survey:
    """Summarise all traces that ``paths`` (directories, globs, URLs) stand for.

    ``by`` are the groups that can be asked for: each a key of :data:`stats.KEYS`, a column, or
    several of them together.  With ``engine="pandas"`` parts are read one after the other, in
    this process.  With ``engine="dask"`` they are read by the cluster whose ``scheduler`` has that
    address (its workers need fallthru and the same paths), else by the Dask client or scheduler
    that is set in this process, else by a process for each processor.

    Raises what :func:`analysis.load.load` raises, :class:`EnvironmentLacks` where Dask or the
    cluster is missing, and :class:`OperationFailed` where workers are killed.
    """
    if engine not in ENGINES:
        raise UsageError(
            f"there is no engine {printable(engine)}", hint=f"there are: {', '.join(ENGINES)}"
        )
    names = [by] if isinstance(by, str) else list(by)
    keys = tuple((one,) if isinstance(one, str) else tuple(one) for one in names)
    question = Question(keys, depth, None if kinds is None else tuple(kinds))
    found = found_in(paths)
    parts = [Found(one.path, [part], one.label) for one in found for part in one.parts]
    whole = ENGINES[engine](parts, question, scheduler)
    for run in whole.found:
        run.check(counted=True)
    return whole


def compare(before: Survey, after: Survey, by: str | Sequence[str] | None = None) -> Frame:
    """What ``after`` costs against ``before``, as :func:`analysis.compare.compare` has it."""
    names = ["spans", "time", "bytes"]
    first, second = (_plain(table(one.tally(by)))[names] for one in (before, after))
    return compare_tables(first, second, ordered=by == "size")


def ratios(before: Survey, after: Survey, by: str | Sequence[str] | None = None) -> Frame:
    """Typical times of two surveys, as :func:`analysis.regress.ratios` has them; the intervals
    are wider by what percentiles may be off."""
    first, second = (one.tally(by) for one in (before, after))
    tables = (_plain(medians(one.durations, one.index)) for one in (first, second))
    return ratios_of(*tables, error=_RATIO_ERROR)


def past(before: Survey, after: Survey, limit: float, by: str = "op") -> list[Regression]:
    """What exceeds ``limit``, as :func:`analysis.regress.past` has it."""
    totals = [one.overview() for one in (before, after)]
    return past_of(
        (ratios(before, after), ratios(before, after, by)),
        [one["spans"] for one in totals],
        [one["bytes"] for one in totals],
        limit,
    )


def overlap(before: Survey, after: Survey) -> Overlap:
    """How many paths two surveys have in common, within what :class:`Survey` says of files."""
    both = before.files.common(after.files)
    return Overlap(both, max(before.files.count() - both, 0), max(after.files.count() - both, 0))


def _plain(frame: Frame) -> Frame:
    """Without a name for the one group there is, as frames have it."""
    return frame.rename_axis(None) if frame.index.names == ["group"] else frame


def _here(parts: Sequence[Found], question: Question, scheduler: str | None) -> Survey:
    if scheduler is not None:
        raise UsageError("a scheduler is for the engine dask", hint='engine="dask"')
    waiting: list[Survey] = []
    for part in parts:
        waiting.append(survey_part(part, question))
        if len(waiting) == _FAN_IN:
            waiting = [merged(waiting)]
    return merged(waiting)


def _dask(parts: Sequence[Found], question: Question, scheduler: str | None) -> Survey:
    """One task for each part; then trees of merging, so that no surveys pile up anywhere."""
    dask = _imported("dask")
    level = [dask.delayed(survey_part, pure=False)(part, question) for part in parts]
    while len(level) > 1:
        level = [
            dask.delayed(merged, pure=False)(level[at : at + _FAN_IN])
            for at in range(0, len(level), _FAN_IN)
        ]
    with _computing(scheduler) as compute:
        whole: Survey = compute(level[0])
    return whole


@contextmanager
def _computing(scheduler: str | None) -> Iterator[Callable[[Any], Any]]:
    """What computes a delayed object: a cluster, or processes of this machine."""
    if scheduler is None:
        # Processes with pipes to them: a cluster of our own would listen on a port, and run what
        # any user of the machine sends it.
        chosen = _imported("dask.base").get_scheduler()
        yield lambda delayed: delayed.compute(scheduler=chosen or "processes")
        return
    distributed = _imported("distributed")
    try:
        client = distributed.Client(scheduler)
    except (OSError, ValueError) as error:
        raise EnvironmentLacks(
            f"no Dask scheduler answers at {printable(scheduler)}",
            hint="start one (dask scheduler), and name its address: tcp://HOST:8786",
        ) from error
    with client:
        _check_workers(client)
        try:
            yield lambda delayed: client.compute(delayed).result()
        except _imported("distributed.scheduler").KilledWorker as error:
            raise OperationFailed(
                "workers were killed again and again",
                hint="give each more memory: a part of 262,144 spans takes about 150 MB",
            ) from error


def _imported(name: str) -> Any:
    """A module of Dask; its types are half told."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EnvironmentLacks(
            f"the engine dask needs {name}, which is not installed",
            hint="pip install 'fallthru[fleet]'",
        ) from error


def _check_workers(client: Any) -> None:
    """Workers import what they run: they need this fallthru."""
    try:
        versions: dict[str, str] = client.run(_version)
    except ImportError as error:
        raise EnvironmentLacks(
            f"the workers lack fallthru: {printable(str(error))}",
            hint="install it where they run: pip install 'fallthru[fleet]'",
        ) from error
    for worker, version in versions.items():
        if version != __version__:
            raise EnvironmentLacks(
                f"the worker {worker} has fallthru {printable(version)}, this is {__version__}",
                hint="install the same version everywhere",
            )


def _version() -> str:
    return __version__


_Engine = Callable[[Sequence[Found], Question, str | None], Survey]
ENGINES: dict[str, _Engine] = {"pandas": _here, "dask": _dask}
