"""The runs that traces are of: their parts as they are read, and what is missing of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from overlay.text import printable
from tracer.frame import category
from tracer.parts import (
    NotATrace,
    PartError,
    StrPath,
    UnreadableTrace,
    discover,
    read_part,
    siblings,
    whole_run,
)
from tracer.schema import RunMetadata

__all__ = ["Damage", "Found", "Run", "found_in", "name_spans", "runs_of"]


@dataclass(frozen=True)
class Damage:
    """Something a trace has lost: ``path`` (a part, or the trace) and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


@dataclass(frozen=True)
class Run:
    """One recorded run: its unique ``name`` (the value in the frame's ``run`` column),
    the directory it came from, its metadata, and how many parts and spans were read."""

    name: str
    path: str
    metadata: RunMetadata
    parts: int = 0
    spans: int = 0

    @property
    def host(self) -> str:
        """The partition ``host=…`` that the run lies in, or else the host that recorded it."""
        for name in reversed(self.path.split("/")):
            if name.startswith("host="):
                return printable(name.removeprefix("host="))
        return self.metadata.hostname


@dataclass
class Found:
    """One run as it is read: ``path`` of its directory, the ``parts`` to read, and the shortest
    ``label`` that tells it from others; then what its parts say, how many are ``sound``, and what
    is wrong with the others."""

    path: str
    parts: list[str]
    label: str
    metadata: list[RunMetadata] = field(default_factory=list)
    sound: int = 0
    spans: int = 0
    damage: list[Damage] = field(default_factory=list)
    foreign: int = 0

    def read(self, part: str, names: list[str] | None) -> pa.Table | None:
        """The columns of one part (no table when None, or when it cannot be read).

        Raises :class:`NewerTrace` and :class:`UnreadableTrace`.
        """
        try:
            metadata, table = read_part(part, names)
        except (NotATrace, PartError) as error:
            self.lose(part, error)
            return None
        self.keep(metadata, 0 if table is None else table.num_rows)
        return table

    def keep(self, metadata: RunMetadata, spans: int) -> None:
        """One of the parts was read."""
        self.metadata.append(metadata)
        self.sound += 1
        self.spans += spans

    def lose(self, part: str, error: NotATrace | PartError) -> None:
        """One of the parts could not be read."""
        self.foreign += isinstance(error, NotATrace)
        self.damage.append(
            Damage(part, error.message if isinstance(error, NotATrace) else str(error))
        )

    def check(self, *, counted: bool) -> None:
        """Once all parts were read: raises :class:`NotATrace` or :class:`UnreadableTrace` where
        none could be, and notes where spans are missing (``counted``: all were read)."""
        if not self.metadata:
            reason = self.damage[0].reason
            if self.foreign == len(self.parts):
                raise NotATrace(
                    f"not a trace: {printable(self.path)}: {reason}",
                    hint="name a directory that `fallthru trace record -o DIR` wrote",
                )
            raise UnreadableTrace(
                f"no part of {printable(self.path)} can be read: {reason}",
                hint="the files were cut short or changed after they were written; record again",
            )
        if counted:
            self._check_count()

    def _check_count(self) -> None:
        """A finished run says how many spans it has: parts that are gone show in the count."""
        merged = whole_run(self.metadata)
        if merged.ended_ns is None or self.damage or set(self.parts) != set(siblings(self.path)):
            return
        want = merged.spans - merged.removed
        if self.spans < want:
            missing = f"{want - self.spans} of {want} spans are missing"
            self.damage.append(Damage(self.path, missing))

    def add(self, other: Found) -> Found:
        """This and other parts of the same run together."""
        return Found(
            self.path,
            [*self.parts, *other.parts],
            self.label,
            [whole_run(both)] if (both := [*self.metadata, *other.metadata]) else [],
            self.sound + other.sound,
            self.spans + other.spans,
            [*self.damage, *other.damage],
            self.foreign + other.foreign,
        )

    def run(self) -> Run:
        """The run, by what was read of it so far (one part at least)."""
        merged = whole_run(self.metadata)
        return Run(self.label, self.path, merged, parts=self.sound, spans=self.spans)


def found_in(paths: StrPath | Iterable[StrPath]) -> list[Found]:
    """The runs that ``paths`` name, none of them read yet.  Raises :class:`NotATrace`."""
    parts = discover(paths)
    return [
        Found(directory, parts[directory], label)
        for directory, label in zip(parts, _labels(list(parts)), strict=True)
    ]


def runs_of(found: Sequence[Found]) -> tuple[Run, ...]:
    return tuple(one.run() for one in found)


def name_spans(frame: pd.DataFrame, runs: Sequence[Run], *, host: bool) -> None:
    """Say in ``frame``, which has the spans of ``runs`` in that order, which run each span is of,
    and with ``host`` which host."""
    numbers = np.arange(len(runs), dtype=np.min_scalar_type(-len(runs)))
    codes = np.repeat(numbers, [run.spans for run in runs])
    frame.insert(0, "run", pd.Series(category(codes, [run.name for run in runs])))
    if host:
        hosts = list(dict.fromkeys(run.host for run in runs))
        places = np.array([hosts.index(run.host) for run in runs], dtype=codes.dtype)
        frame.insert(1, "host", pd.Series(category(places[codes], hosts)))


def _labels(paths: Sequence[str]) -> list[str]:
    """The shortest ends of ``paths`` that tell them apart: ``document``, or ``a/trace``."""
    split = [path.strip("/").split("/") for path in paths]
    for depth in range(1, max(map(len, split)) + 1):
        labels = [printable("/".join(parts[-depth:]) or "/") for parts in split]
        if len(set(labels)) == len(labels):
            break
    return labels
