"""The clauses of the document, as data (``clauses*.toml``).

Line numbers are those of the document's edition of 708 lines, "State of writable
overlays (formerly union mounts)", 2010; its text is not part of this repository.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any, Final

from overlay.errors import UsageError

__all__ = [
    "DOCUMENT_LINES",
    "Clause",
    "Departure",
    "load",
    "parse",
    "select",
    "with_departures",
]

DOCUMENT_LINES: Final = 708

_FILES: Final = ("clauses.toml", "clauses-layers.toml")
_DEPARTURES: Final = "departures.toml"
_KEYS: Final = frozenset({"id", "lines", "statement", "intended", "status2010", "check", "departs"})
_FUZZING: Final = frozenset({"fuzz", "leaves-out"})
_DEPARTURE_KEYS: Final = frozenset({"target", "features", "why", "source", "differs"})


@dataclass(frozen=True, slots=True)
class Departure:
    """Where a target differs from a clause, and why that is accepted.

    It concerns targets whose name matches the shell pattern ``target`` and which have all
    of ``features``, or with ``!`` before one lack it.  ``differs`` are (aspect, pattern):
    the observations of that aspect whose ``subject: observed`` matches the pattern may
    differ, and at least one of each aspect does; anything else that differs is a failure,
    and so is every change of the bottom.  ``source`` is a document line, a page of ours, a
    kernel document or a commit.

    ``fuzz`` and ``leaves_out`` are for fuzzing (docs/fuzz.md): patterns of differences that
    it may find because of this departure, and of steps that it need not take.
    """

    target: str
    why: str
    source: str
    differs: tuple[tuple[str, str], ...]
    features: tuple[str, ...] = ()
    fuzz: tuple[str, ...] = ()
    leaves_out: tuple[str, ...] = ()

    def concerns(self, name: str, features: frozenset[str]) -> bool:
        """Whether this departure is about the target called ``name``."""
        return fnmatchcase(name, self.target) and all(
            (feature.removeprefix("!") in features) is not feature.startswith("!")
            for feature in self.features
        )

    def covers(self, aspect: str, text: str) -> bool:
        """Whether a differing observation is one that was announced."""
        return any(
            aspect == expected and fnmatchcase(text, pattern) for expected, pattern in self.differs
        )


@dataclass(frozen=True, slots=True)
class Clause:
    """One rule of the document.

    ``statement`` is the rule in our words; ``intended`` what the text finally wants, where
    that has to be read out of places that contradict each other, else the statement;
    ``status2010`` what the text says of the code of its time.  ``check`` says what the
    check does.  ``lines`` are ranges such as ``119`` or ``90-92``.
    """

    id: str
    lines: tuple[str, ...]
    statement: str
    intended: str
    status2010: str
    check: str
    departures: tuple[Departure, ...] = ()

    def departures_of(self, name: str, features: frozenset[str]) -> tuple[Departure, ...]:
        """The departures of one target that its check sees."""
        return tuple(d for d in self.departures if d.differs and d.concerns(name, features))

    def as_json(self) -> dict[str, Any]:
        """The clause as ``spec list --json`` shows it."""
        return {
            "id": self.id,
            "lines": list(self.lines),
            "statement": self.statement,
            "intended": self.intended,
            "status2010": self.status2010,
            "check": self.check,
            "departures": [
                {
                    "target": departure.target,
                    "features": list(departure.features),
                    "why": departure.why,
                    "source": departure.source,
                }
                for departure in self.departures
            ],
        }


def load() -> tuple[Clause, ...]:
    """All clauses, in the order of the files."""
    files = (resources.files("overlay.spec") / name for name in _FILES)
    clauses = parse("\n".join(file.read_text("utf-8") for file in files))
    others = (resources.files("overlay.spec") / _DEPARTURES).read_text("utf-8")
    return with_departures(clauses, others)


def with_departures(clauses: tuple[Clause, ...], text: str) -> tuple[Clause, ...]:
    """The clauses with departures that are grouped by their reason, for several clauses each."""
    by_id = {clause.id: clause for clause in clauses}
    for group in tomllib.loads(text)["departs"]:
        for name, differs in group.pop("clauses").items():
            if name not in by_id:
                raise ValueError(f"a departure of {name}, which is no clause")
            clause = by_id[name]
            departure = _departure(name, group | {"differs": differs})
            by_id[name] = replace(clause, departures=(*clause.departures, departure))
    return tuple(by_id.values())


def parse(text: str) -> tuple[Clause, ...]:
    """Clauses from TOML text; ValueError names the clause that is not well-formed."""
    clauses = tuple(_clause(entry) for entry in tomllib.loads(text)["clause"])
    for field in ("id", "statement", "check"):
        _refuse_duplicates(field, [getattr(clause, field) for clause in clauses])
    return clauses


def _refuse_duplicates(field: str, values: list[str]) -> None:
    repeated = {value for value in values if values.count(value) > 1}
    if repeated:
        raise ValueError(f"two clauses with the same {field}: {min(repeated)}")


def _clause(entry: dict[str, Any]) -> Clause:
    name = entry.get("id", "?")
    unknown = entry.keys() - _KEYS
    missing = _KEYS - {"departs", "intended"} - entry.keys()
    if unknown or missing:
        raise ValueError(f"clause {name}: unknown {sorted(unknown)}, missing {sorted(missing)}")
    if not re.fullmatch(r"[a-z0-9]+(?:[.-][a-z0-9]+)+", name):
        raise ValueError(f"clause {name}: the id is not of the form topic.rule")
    for lines in entry["lines"]:
        _check_range(name, lines)
    statement = _one_line(entry["statement"])
    return Clause(
        id=name,
        lines=tuple(entry["lines"]),
        statement=statement,
        intended=_one_line(entry.get("intended", statement)),
        status2010=_one_line(entry["status2010"]),
        check=_one_line(entry["check"]),
        departures=tuple(_departure(name, departs) for departs in entry.get("departs", ())),
    )


def _departure(name: str, entry: dict[str, Any]) -> Departure:
    unknown = entry.keys() - _DEPARTURE_KEYS
    missing = _DEPARTURE_KEYS - {"features"} - entry.keys()
    if unknown or missing:
        raise ValueError(
            f"a departure of {name}: unknown {sorted(unknown)}, missing {sorted(missing)}"
        )
    if "bottom" in entry["differs"]:
        raise ValueError(f"a departure of {name}: nothing may change the bottom")
    differs = [
        (aspect, pattern)
        for aspect, patterns in entry["differs"].items()
        for pattern in ([patterns] if isinstance(patterns, str) else patterns)
    ]
    return Departure(
        target=entry["target"],
        features=tuple(entry.get("features", ())),
        why=_one_line(entry["why"]),
        source=entry["source"],
        differs=tuple(pair for pair in differs if pair[0] not in _FUZZING),
        fuzz=tuple(pattern for aspect, pattern in differs if aspect == "fuzz"),
        leaves_out=tuple(pattern for aspect, pattern in differs if aspect == "leaves-out"),
    )


def _check_range(name: str, lines: str) -> None:
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", lines)
    if match is None:
        raise ValueError(f"clause {name}: {lines!r} is not a line range")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= DOCUMENT_LINES:
        raise ValueError(f"clause {name}: lines {lines} are not in the document")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def select(clauses: Iterable[Clause], patterns: Iterable[str]) -> tuple[Clause, ...]:
    """The clauses whose id matches any shell pattern; UsageError for a pattern without one."""
    everything = tuple(clauses)
    ids = {clause.id for clause in everything}
    named, wanted = set(), []
    for pattern in patterns:
        if pattern in ids:
            named.add(pattern)
            continue
        wanted.append(pattern)
        if not any(fnmatchcase(clause.id, pattern) for clause in everything):
            raise UsageError(
                f"no clause matches {pattern!r}", hint="`fallthru spec list` shows the clauses"
            )
    if not named and not wanted:
        return everything
    return tuple(
        c for c in everything if c.id in named or any(fnmatchcase(c.id, p) for p in wanted)
    )
