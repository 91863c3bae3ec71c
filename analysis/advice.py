"""One piece of advice, and the layers of a union as the trace tells them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.model import Estimate
from overlay.mountinfo import split_lowerdir
from overlay.text import printable

__all__ = ["WORTH", "Advice", "Layers", "as_rows", "layers_of"]

#: What saves a smaller share of the time is not worth a change.
WORTH = 0.02


@dataclass(frozen=True)
class Advice:
    """One change to one union of one run.

    ``time`` (ns) is what it would have saved, ``share`` of all time in what ``of`` names; ``bytes``
    what would not have been copied; ``spans`` how many ``calls`` that concerns.  ``confidence`` is
    ``high`` where the parts saved were measured in the trace, ``medium`` where the model or
    another file system stands in, ``low`` where more than the union has to change.  ``but`` is
    what the trace cannot know, or what the change gives up.
    """

    name: str
    run: str
    mount: str
    what: str
    time: Estimate
    share: float
    bytes: int
    spans: int
    confidence: str
    but: str
    command: str
    of: str = "copyup"
    calls: str = "copyups"


@dataclass(frozen=True)
class Layers:
    """How a union was mounted; where the trace does not tell, names in capitals to fill in."""

    top: str
    bottoms: tuple[str, ...]
    options: frozenset[str]


def layers_of(told: Mapping[str, Any]) -> Layers:
    """The layers of a mount in a trace's metadata."""
    options = [one for one in re.split(r"(?<!\\),", str(told.get("options", ""))) if one]
    pairs = [tuple(one.split("=", 1)) for one in options if "=" in one]
    bottoms = [value for key, value in pairs if key == "lowerdir+"]
    bottoms += [
        one for key, value in pairs if key == "lowerdir" for one in split_lowerdir(value)[0]
    ]
    tops = [value for key, value in pairs if key == "upperdir"]
    return Layers(
        top=tops[0] if tops else "TOP",
        bottoms=tuple(bottoms) or ("BOTTOM",),
        options=frozenset(options),
    )


def as_rows(advice: list[Advice]) -> list[dict[str, Any]]:
    """For machines: times in nanoseconds (keys end in ``_ns``)."""
    return [
        {
            "advice": one.name,
            "run": one.run,
            "mount": printable(one.mount),
            "what": one.what,
            "time_saved_ns": round(one.time.value),
            "time_saved_low_ns": round(one.time.low),
            "time_saved_high_ns": round(one.time.high),
            "share": one.share,
            "bytes_saved": one.bytes,
            "of": one.of,
            one.calls.replace(" ", "_"): one.spans,
            "confidence": one.confidence,
            "but": one.but,
            "command": printable(one.command),
        }
        for one in advice
    ]
