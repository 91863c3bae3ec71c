"""Runs clauses on targets: each clause alone, on a union of its own.

Statuses: ``kept``; ``departed`` (differs exactly as the catalogue says it will);
``failed`` (differs and should not, or could not be carried out); ``not-run``, with the
reason, where the target or the clause lacks something here.  A clause that is kept though
the catalogue announces a departure *is* kept, and the result says that the announcement is
stale: users of another kernel must not fail on good news, while the catalogue's own tests
insist that none is.
"""

from __future__ import annotations

import os
import random
import re
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from overlay.errors import FallthruError
from overlay.spec.bench import Bench, Places
from overlay.spec.catalogue import Clause, Departure
from overlay.spec.checks import Check, all_checks
from overlay.spec.kept import KeptImages, keeping
from overlay.spec.observe import Lacks, Observation
from overlay.spec.scratch import Homes, Scratch
from overlay.spec.targets import Target
from overlay.spec.worker import Message, Send, WorkerSilent, worker
from overlay.text import printable

__all__ = ["STATUSES", "Result", "in_order", "judge", "prepare", "run", "running_kernel"]

STATUSES: Final = ("kept", "departed", "failed", "not-run")
_PATIENCE: Final = 60.0  # seconds for one clause


@dataclass(frozen=True, slots=True)
class Result:
    """What one clause did on one target.

    ``expected`` and ``observed`` are in words; ``note`` is the reason of a departure, or
    says that a departure is stale; ``seconds`` is how long the clause took; ``steps`` is a
    shell script that repeats it (steps.py), empty where there is no mount.
    """

    id: str
    target: str
    kernel: str
    status: str
    expected: str
    observed: str
    lines: tuple[str, ...]
    note: str = ""
    stale: bool = False
    seconds: float = 0.0
    steps: str = ""

    def as_json(self) -> dict[str, Any]:
        """The record of ``spec run --json``: the contract's keys, and ``steps`` if kept."""
        keys = ("id", "target", "kernel", "status", "expected", "observed")
        record = {key: getattr(self, key) for key in keys} | {"lines": list(self.lines)}
        return record | {"steps": self.steps} if self.steps else record


def run(
    clauses: Sequence[Clause],
    targets: Iterable[Target],
    *,
    shuffle: int | None = None,
    bottom_dir: Path | None = None,
    top_dir: Path | None = None,
    bottom_fs: str | None = None,
    top_fs: str | None = None,
    nfs_dir: Path | None = None,
    checks: dict[str, Check] | None = None,
    patience: float = _PATIENCE,
    kept: KeptImages | None = None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Judge every clause on every target; results by target, then in the clauses' order.

    ``shuffle`` seeds a random order of execution.  Layers are made in memory, or below
    ``bottom_dir`` and ``top_dir``, or on fresh file systems of the kinds ``bottom_fs`` and
    ``top_fs`` (of :data:`overlay.spec.filesystems.KINDS`).  ``nfs_dir`` is a
    directory on NFS for the clauses about that.  ``kept`` has images for other runs, too.
    ``on_result`` is called as each clause ends.
    """
    order = in_order(clauses, shuffle)
    chosen = all_checks() if checks is None else checks
    homes = Homes(bottom_dir, top_dir, bottom_fs, top_fs, nfs_dir)
    results = []
    with nullcontext(kept) if kept else keeping() as images:
        for target in targets:
            found: dict[str, Result] = {}
            while len(found) < len(order):
                rest = [clause for clause in order if clause.id not in found]
                batch = _run_in_worker(rest, target, chosen, Scratch(homes, images), patience)
                # Closed at once when interrupted here, so that the worker never lingers.
                with closing(batch):
                    for result in batch:
                        found[result.id] = result
                        on_result(result)
            results += [found[clause.id] for clause in clauses]
    return results


def in_order(clauses: Sequence[Clause], shuffle: int | None) -> list[Clause]:
    """The clauses as they are carried out: as they are, or in the random order of a seed."""
    order = list(clauses)
    if shuffle is not None:
        random.Random(shuffle).shuffle(order)
    return order


def _run_in_worker(
    clauses: list[Clause],
    target: Target,
    checks: dict[str, Check],
    place: Scratch,
    patience: float,
) -> Generator[Result, None, None]:
    """Results as they come; after a crash or a hang the last one is that clause's failure."""
    by_id = {clause.id: clause for clause in clauses}
    running = clauses[0]
    why = "the process that ran it died"
    with place as scratch:

        def body(send: Send) -> None:
            _worker_body(clauses, target, checks, scratch, send)

        with worker(body, patience=patience) as messages:
            try:
                for message in messages:
                    if "unavailable" in message:
                        reason = message["unavailable"]
                        yield from (_not_run(c, target, reason) for c in by_id.values())
                        return
                    if "broken" in message:
                        why = message["broken"]
                    elif "start" in message:
                        running = by_id[message["start"]]
                    else:
                        del by_id[message["id"]]
                        yield _from_message(message)
            except WorkerSilent:
                why = f"it did not end in {patience:.0f} s"
        if running.id in by_id:
            yield _result(running, target, "failed", "the check runs to its end", why)


def _worker_body(
    clauses: list[Clause],
    target: Target,
    checks: dict[str, Check],
    scratch: Scratch,
    send: Send,
) -> None:
    features, reason = prepare(target, scratch)
    if reason is not None:
        send({"unavailable": reason})
        return
    for clause in clauses:
        send({"start": clause.id})
        started = perf_counter()
        places = scratch.places()
        result = judge(clause, checks[clause.id], target, features, places)
        scratch.remove(places)
        send(_to_message(result, perf_counter() - started))


def prepare(target: Target, scratch: Scratch) -> tuple[frozenset[str], str | None]:
    """In a worker: (the target's features, the reason why it can't be run, if any)."""
    os.umask(0o022)
    reason = _privilege_lacks()
    if reason is not None:
        return frozenset(), reason
    try:
        scratch.mount()
    except Lacks as lacks:
        return frozenset(), str(lacks)
    return _probe(target, scratch)


def _privilege_lacks() -> str | None:
    """Why this process could mount and yet not judge; None if it can.

    Root of a user namespace mounts overlays too, but can neither give files to arbitrary
    owners nor look at the marks: clauses would fail that the target keeps.
    """
    with open("/proc/self/uid_map", "rb") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    if ranges != [(0, 0, 0xFFFFFFFF)]:
        return "judging needs root of the initial user namespace"
    return None


def _probe(target: Target, scratch: Scratch) -> tuple[frozenset[str], str | None]:
    """The target's features by a trial mount, or the reason why it can't be run."""
    reason = target.available()
    if reason is not None:
        return frozenset(), reason
    places = scratch.places()
    bench = Bench(target, frozenset(), places)
    try:
        bench.mount()
        try:
            return target.features(str(bench.mnt)), None
        finally:
            bench.close()
    except (FallthruError, OSError) as error:
        return frozenset(), f"it cannot mount here: {_without_places(str(error), places)}"
    finally:
        scratch.remove(places)


def _without_places(text: str, places: Places) -> str:
    """Without the names of directories, which are others in every run."""
    for home in (places.mounts, places.bottom, places.top):
        text = text.replace(f"{home}/", "")
    return text


def judge(
    clause: Clause,
    check: Check,
    target: Target,
    features: frozenset[str],
    places: Places,
) -> Result:
    """Carry out one check on a fresh union in ``places`` and compare with the catalogue."""
    seen: list[Observation] = []
    broken = None
    bench = Bench(target, features, places)
    try:
        for observation in check(bench):
            seen.append(observation)
            bench.steps.saw(observation)
    except Lacks as lacks:
        return _not_run(clause, target, str(lacks))
    except Exception as error:
        broken = traceback.format_exception_only(error)[-1].strip()
        broken = _without_places(broken, places)
    finally:
        trouble = bench.close()
    if trouble is not None:
        told = _without_places(trouble, places)
        seen.append(Observation("mount", "unmounting", "leaves nothing", told))
    if bench.untouched is not None:
        seen.append(bench.untouched)
        bench.steps.saw(bench.untouched)
    if broken is not None:
        differing = [o for o in seen if not o.ok]
        differing.append(Observation("result", "the check", "runs to its end", broken))
        result = _of_observations(clause, target, "failed", differing)
    else:
        result = _verdict(clause, target, bench.features, seen)
    by_hand, _ = target.by_hand(("bottom",), "top", "top.work", "mnt")
    return replace(result, steps=bench.steps.text) if by_hand else result


def _verdict(
    clause: Clause, target: Target, features: frozenset[str], seen: list[Observation]
) -> Result:
    differing = [observation for observation in seen if not observation.ok]
    departures = clause.departures_of(target.name, features)
    if not differing:
        note = "stale: the catalogue announces a departure here" if departures else ""
        return _of_observations(clause, target, "kept", seen, note=note, stale=bool(departures))

    happened = [departure for departure in departures if _happened(departure, differing)]
    surprising = [o for o in differing if not any(_covers(d, o) for d in happened)]
    if surprising:
        return _of_observations(clause, target, "failed", surprising)
    note = " ".join(departure.why for departure in happened)
    return _of_observations(clause, target, "departed", differing, note=note)


def _covers(departure: Departure, observation: Observation) -> bool:
    text = f"{observation.subject}: {observation.observed}"
    return departure.covers(observation.aspect, text)


def _happened(departure: Departure, differing: list[Observation]) -> bool:
    """Whether all that the departure announces was seen: half of it is something else."""
    seen = {o.aspect for o in differing if _covers(departure, o)}
    return seen == {aspect for aspect, _ in departure.differs}


def _of_observations(
    clause: Clause,
    target: Target,
    status: str,
    observations: list[Observation],
    *,
    note: str = "",
    stale: bool = False,
) -> Result:
    expected = printable("; ".join(f"{o.subject}: {o.expected}" for o in observations))
    observed = printable("; ".join(f"{o.subject}: {o.observed}" for o in observations))
    return _result(clause, target, status, expected, observed, note=note, stale=stale)


def _not_run(clause: Clause, target: Target, reason: str) -> Result:
    return _result(clause, target, "not-run", clause.statement, f"not run: {reason}", note=reason)


def _result(
    clause: Clause,
    target: Target,
    status: str,
    expected: str,
    observed: str,
    *,
    note: str = "",
    stale: bool = False,
) -> Result:
    kernel = running_kernel()
    return Result(
        clause.id, target.name, kernel, status, expected, observed, clause.lines, note, stale
    )


def running_kernel() -> str:
    """The running kernel's version, without what its builder appended.

    A release may name a private build or machine, and results are published.  Debian's
    names an ABI (6.1.0-49); the version proper stands in its version string.
    """
    here = os.uname()
    found = re.search(r"Debian (\d+\.\d+\.\d+)", here.version)
    found = found or re.match(r"(\d+\.\d+(?:\.\d+)?)", here.release)
    return found[1] if found else here.release


def _to_message(result: Result, seconds: float) -> Message:
    return {name: getattr(result, name) for name in Result.__slots__} | {"seconds": seconds}


def _from_message(message: Message) -> Result:
    return Result(**(message | {"lines": tuple(message["lines"])}))
