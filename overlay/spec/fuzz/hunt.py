"""The loop: case after case in a worker of its own, and what becomes of a finding.

The worker (see :mod:`overlay.spec.worker`) draws and runs cases and shrinks what it finds.
It says every half second that it is alive and, in memory that both see, where it is: when
a target's server hangs or the worker dies, the parent knows the step, and that is the
finding.  Then the parent does the shrinking, a worker for each try.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from overlay.spec import runner
from overlay.spec.bench import Places
from overlay.spec.fuzz.announced import Announcements
from overlay.spec.fuzz.case import Case
from overlay.spec.fuzz.layers import Plant
from overlay.spec.fuzz.session import Found, Session, Unannounced
from overlay.spec.fuzz.shrink import shrink
from overlay.spec.fuzz.trees import Difference
from overlay.spec.scratch import Homes, Scratch
from overlay.spec.targets import Target
from overlay.spec.worker import Message, Send, WorkerSilent, worker

__all__ = ["Finding", "Hunt", "Outcome", "run_case"]

_ALIVE: Final = 0.5  # seconds between two signs of life
_NO_ANSWER: Final = "no answer"
_SHORT: Final = 3.0  # seconds that are taken for a hang once one was seen
_PLACE: Final = struct.Struct("qq")  # which case, which step


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that shows something unannounced, as short as it could be made.

    ``number`` and ``seed`` are where it was found, after ``steps`` steps; ``swapped`` are
    the tops that the target gets at each swap.
    """

    found: Found
    case: Case
    seed: int
    number: int
    steps: int
    swapped: tuple[tuple[Plant, ...], ...] = ()


@dataclass(slots=True)
class Outcome:
    """What a hunt came to.  ``counts``: announced differences, by the clause that has them."""

    target: str
    seed: int
    steps: int = 0
    cases: int = 0
    seconds: float = 0.0
    features: frozenset[str] = frozenset()
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unavailable: str | None = None


def run_case(
    case: Case,
    target: Target,
    features: frozenset[str],
    announced: Announcements,
    places: Places,
    on_step: Callable[[int], None] = lambda at: None,
) -> tuple[Session, Found | None, int]:
    """One case on fresh layers: (the closed session, what was found, steps taken)."""
    session = Session(case, target, features, announced, places)
    at = 0
    try:
        session.open()
        for at, step in enumerate(case.steps, 1):
            on_step(at)
            session.run(step)
        on_step(at + 1)
        session.finish()
    except Unannounced as unannounced:
        return session, unannounced.found, at
    finally:
        session.close()
    return session, None, at


@dataclass(slots=True)
class Hunt:
    """What to hunt for, and how long: ``steps`` and ``seconds`` are limits, None for none.

    ``shrinking`` are the seconds that one finding may be shrunk for, ``patience`` those
    that a step may take.  Without ``keep_going`` the first finding ends it.
    """

    target: Target
    seed: int
    seconds: float | None = None
    steps: int | None = None
    keep_going: bool = False
    homes: Homes = field(default_factory=Homes)
    shrinking: float = 30.0
    patience: float = 10.0
    on_progress: Callable[[Outcome], None] = lambda outcome: None

    def run(self) -> Outcome:
        """Hunt until a limit is met."""
        outcome = Outcome(self.target.name, self.seed)
        started = time.monotonic()
        number: int | None = 0
        with mmap.mmap(-1, _PLACE.size) as place:
            while number is not None:
                spent = time.monotonic() - started
                left = None if self.seconds is None else self.seconds - spent
                number = self._batch(number, left, outcome, place)
                outcome.seconds = time.monotonic() - started
        return outcome

    def _batch(
        self, first: int, left: float | None, outcome: Outcome, place: mmap.mmap
    ) -> int | None:
        """Cases from ``first`` on in one worker; the number to go on with, if any."""
        steps = None if self.steps is None else self.steps - outcome.steps
        if first and _is_over(left, steps):
            return None
        with Scratch(self.homes) as scratch:

            def body(send: Send) -> None:
                known = {finding.found.signature for finding in outcome.findings}
                _Worker(self, scratch, place, send, known).run(first, left, steps)

            place[:] = _PLACE.pack(first, -1)
            why, pending = "the process that ran it died", None
            with worker(body, patience=self.patience) as messages:
                try:
                    for message in messages:
                        if "end" in message or "unavailable" in message:
                            outcome.unavailable = message.get("unavailable")
                            return None
                        self._note(message, outcome)
                        pending = message.get("found", pending)
                        pending = None if "finding" in message else pending
                        why = message.get("broken", why)
                except WorkerSilent:
                    why = f"{_NO_ANSWER} in {self.patience:.0f} s"
        number, at = _PLACE.unpack(place[:])
        if at < 0:
            outcome.unavailable = f"the trial mount: {why}"
            return None
        if pending is not None:  # it was lost while it was being shrunk
            outcome.findings.append(_loaded(pending))
        else:
            self._stuck(number, at, why, outcome)
        return number + 1 if self.keep_going else None

    def _note(self, message: Message, outcome: Outcome) -> None:
        if "features" in message:
            outcome.features = frozenset(message["features"])
        if "steps" in message:
            outcome.steps += message["steps"]
            outcome.cases += 1
            outcome.counts.update(message["counts"])
        if "finding" in message:
            outcome.findings.append(_loaded(message["finding"]))
        self.on_progress(outcome)

    def _stuck(self, number: int, at: int, why: str, outcome: Outcome) -> None:
        """A hang, or the end of the worker itself: the finding is the step it was at."""
        announced = Announcements.of(self.target.name, outcome.features)
        case = Case.numbered(self.seed, number, outcome.features, announced)
        case = replace(case, steps=case.steps[:at])
        outcome.steps += at
        outcome.cases += 1
        what = _what(why)
        found = _of_worker(what, why, case)
        if found.signature in {finding.found.signature for finding in outcome.findings}:
            return

        def shows(candidate: Case) -> bool:
            return self._ends(candidate, outcome.features, announced) == what

        case = shrink(case, shows, self.shrinking)
        finding = Finding(_of_worker(what, why, case), case, self.seed, number, at)
        outcome.findings.append(finding)

    def _ends(self, case: Case, features: frozenset[str], announced: Announcements) -> str | None:
        """How a case ends: as ``hang``, as ``crash``, or (None) by itself."""
        with Scratch(self.homes) as scratch:

            def body(send: Send) -> None:
                os.umask(0o022)
                scratch.mount()
                run_case(case, self.target, features, announced, scratch.places())
                send({"end": True})

            with worker(body, patience=min(self.patience, _SHORT)) as messages:
                try:
                    return None if any("end" in message for message in messages) else "crash"
                except WorkerSilent:
                    return "hang"


class _Worker:
    """What the worker does: cases, one after the other."""

    def __init__(
        self,
        hunt: Hunt,
        scratch: Scratch,
        place: mmap.mmap,
        send: Send,
        known: set[tuple[str, str, str]],
    ) -> None:
        self.hunt, self.scratch, self.place, self.send = hunt, scratch, place, send
        self.known = known
        self.number = 0
        self.last_sign = time.monotonic()

    def run(self, first: int, seconds: float | None, steps: int | None) -> None:
        deadline = None if seconds is None else time.monotonic() + seconds
        features, reason = runner.prepare(self.hunt.target, self.scratch)
        if reason is not None:
            self.send({"unavailable": reason})
            return
        self.features = features
        self.announced = Announcements.of(self.hunt.target.name, features)
        self.send({"features": sorted(features)})
        self.number = first
        while True:
            taken, found = self._case(steps)
            steps = None if steps is None else steps - taken
            left = None if deadline is None else deadline - time.monotonic()
            if _is_over(left, steps) or (found and not self.hunt.keep_going):
                break
            self.number += 1
        self.send({"end": True})

    def _case(self, steps: int | None) -> tuple[int, bool]:
        """(steps taken, whether something new was found)."""
        case = Case.numbered(self.hunt.seed, self.number, self.features, self.announced)
        if steps is not None:
            case = replace(case, steps=case.steps[:steps])
        session, found, taken = self._carry_out(case)
        self.send({"steps": taken, "counts": session.counts})
        if found is None or found.signature in self.known:
            return taken, False
        self.known.add(found.signature)
        case = replace(case, steps=case.steps[:taken])
        self.send({"found": self._finding(found, case, taken, session)})

        def shows(candidate: Case) -> bool:
            _, again, _ = self._carry_out(candidate)
            return again is not None and again.signature == found.signature

        case = shrink(case, shows, self.hunt.shrinking)
        session, again, _ = self._carry_out(case)
        self.send({"finding": self._finding(again or found, case, taken, session)})
        return taken, True

    def _finding(self, found: Found, case: Case, taken: int, session: Session) -> str:
        seed, swapped = self.hunt.seed, tuple(session.swapped)
        return pickle.dumps(Finding(found, case, seed, self.number, taken, swapped)).hex()

    def _carry_out(self, case: Case) -> tuple[Session, Found | None, int]:
        places = self.scratch.places()
        self.place[:] = _PLACE.pack(self.number, 0)
        try:
            return run_case(case, self.hunt.target, self.features, self.announced, places, self._at)
        finally:
            self.scratch.remove(places)

    def _at(self, step: int) -> None:
        self.place[:] = _PLACE.pack(self.number, step)
        now = time.monotonic()
        if now - self.last_sign > _ALIVE:
            self.last_sign = now
            self.send({"alive": True})


def _is_over(seconds: float | None, steps: int | None) -> bool:
    return (seconds is not None and seconds <= 0) or (steps is not None and steps <= 0)


def _loaded(text: str) -> Finding:
    found = pickle.loads(bytes.fromhex(text))  # our own child's
    assert isinstance(found, Finding)
    return found


def _what(why: str) -> str:
    return "hang" if why.startswith(_NO_ANSWER) else "crash"


def _of_worker(what: str, why: str, case: Case) -> Found:
    step = str(case.steps[-1]) if case.steps else "mount"
    return Found(what, Difference(b".", "the call", "answers", why), step)
