"""What would have been cheaper: changes to a union, with the seconds and bytes each saves.

The trace says what each copyup spent on data and on fsync; where it does not, the cost model
(:mod:`analysis.model`) divides the time.  A change that avoids a part of the work saves that part.
Savings of different changes overlap: they do not add up.

What priming would save of lookups and listings is in :mod:`analysis.priming`.

The interval of a saving is how far it would vary if the same kind of work came again: copyups
as independent events, each with what it costs (a compound Poisson sum).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import model, priming, stats
from analysis.advice import WORTH, Advice, as_rows, layers_of
from analysis.load import Run, Trace
from analysis.model import Estimate
from analysis.units import label
from analysis.waste import ATTRIBUTE_OPS

__all__ = ["REFLINK", "Advice", "advise", "as_rows", "paths_ahead"]

Frame = pd.DataFrame
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: File systems that can share extents between files.
REFLINK = frozenset({"xfs", "btrfs"})

#: A directory with this share of the time, or more, is worth a volume.
_VOLUME = 0.15


@dataclass(frozen=True, eq=False)
class _Case:
    """The copyups of one union, what each spent on data and fsync (ns), and how it is mounted."""

    run: str
    path: str
    mount: str
    frame: Frame
    data: Floats
    sync: Floats
    measured: Mask
    options: frozenset[str]
    top: str
    bottoms: tuple[str, ...]
    top_type: str
    bottom_types: tuple[str, ...]

    @property
    def dur(self) -> Floats:
        return self.frame["dur"].to_numpy().view("int64").astype(np.float64)

    @property
    def copied(self) -> Mask:
        return (self.frame["how"] == "copy").to_numpy()

    def command(self, *, profile: str = "document", top: str | None = None) -> str:
        words = ["fallthru", "mount", "--profile", profile]
        for bottom in self.bottoms:
            words += ["--bottom", bottom]
        words += ["--top", top or self.top, self.mount]
        return f"fallthru umount {shlex.quote(self.mount)} && {shlex.join(words)}"


def advise(trace: Trace, *, depth: int = 3) -> list[Advice]:
    """What would have saved time in each union of each run, most first.

    ``depth`` is where directories are cut that might become volumes.
    """
    found = []
    for run in trace.runs:
        frame = stats.copyups(trace.run(run.name))
        for place in run.metadata.mounts:
            mine = frame[(frame["mount"] == place).to_numpy()]
            if len(mine):
                case = _case(run, place, mine)
                found += [one for rule in _RULES for one in rule(case, depth) if one is not None]
            found += priming.advise(run, place, float(mine["dur"].to_numpy().view("int64").sum()))
    return sorted(found, key=lambda one: -one.time.value)


def paths_ahead(trace: Trace) -> list[str]:
    """The files whose data was copied up, slowest first, for copying them up ahead of time.

    Names that are not as in the trace (bytes that are no text) are left out.
    """
    frame = stats.copyups(trace.frame)
    mine = frame[((frame["how"] == "copy") & frame["path"].notna()).to_numpy()]
    slowest = mine.sort_values("dur", ascending=False)["path"].drop_duplicates()
    return [path for path in slowest.tolist() if path.startswith("/") and _plain(path)]


def _plain(path: str) -> bool:
    return "\\" not in path and "\0" not in path and ".." not in path.split("/")


def _case(run: Run, place: str, frame: Frame) -> _Case:
    told = run.metadata.mounts[place]
    layers = layers_of(told)
    types = told.get("bottoms")
    data, sync, measured = _parts(frame)
    return _Case(
        run=run.name,
        path=run.path,
        mount=place,
        frame=frame,
        data=data,
        sync=sync,
        measured=measured,
        options=layers.options,
        top=layers.top,
        bottoms=layers.bottoms,
        top_type=str(told.get("top")),
        bottom_types=tuple(map(str, types)) if isinstance(types, list) else (),
    )


def _parts(frame: Frame) -> tuple[Floats, Floats, Mask]:
    """What each copyup spent on data and on fsync, and for which of them that was measured.

    Elsewhere the data is the model's, and what the fsync took is not known: nothing.
    """
    dur, data, sync = (frame[one].to_numpy().view("int64") for one in ("dur", "data", "sync"))
    measured = (frame["data"].notna() & frame["sync"].notna()).to_numpy()
    if measured.all():
        return data.astype(np.float64), sync.astype(np.float64), measured
    modelled = np.zeros(len(frame))
    copied = (frame["how"] == "copy").to_numpy()
    fitted = model.fit(frame[copied], "", "", "copy")
    if fitted is not None:
        moved = stats.bytes_moved(frame)
        grown = fitted.at(moved) - fitted.at(0)
        modelled = np.where(copied, np.minimum(grown, dur), 0.0)
    return np.where(measured, data, modelled), np.where(measured, sync, 0.0), measured


def _advice(
    case: _Case, name: str, saved: Floats, mask: Mask, *, confidence: str, **texts: str
) -> Advice | None:
    mine = saved[mask]
    total, whole = float(mine.sum()), float(case.dur.sum())
    if total < WORTH * whole or total <= 0:
        return None
    spread = 1.959964 * math.sqrt(float((mine * mine).sum()))
    if confidence == "high" and not case.measured[mask].all():
        confidence = "medium"
    return Advice(
        name=name,
        run=case.run,
        mount=case.mount,
        time=Estimate(total, max(total - spread, 0.0), total + spread),
        share=total / whole,
        bytes=int(stats.bytes_moved(case.frame)[mask].sum()) if name != "throwaway" else 0,
        spans=int(np.count_nonzero(mine > 0)),
        confidence=confidence,
        **texts,
    )


def _metacopy(case: _Case, _depth: int) -> Iterator[Advice | None]:
    """Leave the data below when only an attribute or a name changes."""
    if "metacopy=on" in case.options:
        return
    mask = case.copied & case.frame["op"].isin(ATTRIBUTE_OPS).to_numpy()
    yield _advice(
        case,
        "metacopy",
        case.data + case.sync,
        mask,
        confidence="high",
        what="copy metadata alone when only an owner, a mode, a time or a name changes",
        but="files that are opened for writing later pay for their data then; "
        "directories can be renamed, which the document forbids (L130)",
        command=case.command(profile="fallthru"),
    )


def _throwaway(case: _Case, _depth: int) -> Iterator[Advice | None]:
    """Leave fsync out, for a top that is deleted anyway."""
    if "volatile" in case.options or "fsync=volatile" in case.options:
        return
    yield _advice(
        case,
        "throwaway",
        case.sync,
        case.sync > 0,
        confidence="high",
        what="leave fsync out of copyup",
        but="only for a top that is deleted afterwards: after a crash it is lost, "
        "and it cannot be mounted a second time",
        command=case.command(profile="throwaway", top="EMPTY-DIRECTORY"),
    )


def _reflink(case: _Case, _depth: int) -> Iterator[Advice | None]:
    """Share the bottom's extents instead of copying them."""
    shared = bool(REFLINK.intersection(case.bottom_types))
    kind = next((one for one in case.bottom_types if one in REFLINK), "xfs or btrfs")
    moved = f"A-DIRECTORY-ON-THE-BOTTOM'S-{kind.upper()}" if shared else "A-DIRECTORY-BESIDE-IT"
    where = "on the bottom's own file system" if shared else "and the bottom on one xfs or btrfs"
    move = "" if shared else "the bottom has to move as well; "
    yield _advice(
        case,
        "reflink",
        case.data + case.sync,
        case.copied,
        confidence="medium" if shared else "low",
        what=f"put the top {where}: extents are shared, no data moves",
        but=f"{move}what else the file system costs is taken to be as on {case.top_type}",
        command=case.command(top=moved),
    )


def _ahead(case: _Case, _depth: int) -> Iterator[Advice | None]:
    """Do the copies before anybody waits for them."""
    known = case.copied & case.frame["path"].notna().to_numpy()
    yield _advice(
        case,
        "ahead",
        case.dur,
        known,
        confidence="high",
        what="copy these files up ahead of time, in a batch",
        but="the time is spent before the run, not saved; the same files must be changed again",
        command=f"fallthru advise {shlex.quote(case.path)} --paths | "
        f"fallthru precopy --mount {shlex.quote(case.mount)} --from -",
    )


def _volume(case: _Case, depth: int) -> Iterator[Advice | None]:
    """Take a tree that is written all the time out of the union."""
    places = stats.directory(case.frame["path"], depth)
    codes, groups = stats.grouped(case.frame.assign(directory=places), "directory", depth)
    times = np.bincount(codes, weights=case.dur, minlength=len(groups))
    for place in np.argsort(-times, kind="stable"):
        name = groups[place]
        if times[place] < _VOLUME * case.dur.sum() or pd.isna(name) or name == "/":
            continue
        tree = shlex.quote(f"{case.mount.rstrip('/')}{name}")
        yield _advice(
            case,
            "volume",
            case.dur,
            codes == place,
            confidence="high",
            what=f"move {label(name, 60)} out of the union, to a volume of its own",
            but="all of it is copied once, and is no longer shared between roots",
            command=f"cp -a {tree}/. VOLUME/ && mount --bind VOLUME {tree}",
        )


_Rule = Callable[[_Case, int], Iterator[Advice | None]]
_RULES: tuple[_Rule, ...] = (_metacopy, _throwaway, _reflink, _ahead, _volume)
