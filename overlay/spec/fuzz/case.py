"""A case: layers, and what is done in the union of them.  A seed and a number give one."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final, Self

from overlay.spec.fuzz import layers
from overlay.spec.fuzz.announced import BOTTOM_LINKS, Announcements
from overlay.spec.fuzz.layers import Plant
from overlay.spec.fuzz.steps import DIRECTORIES, OPERATIONS, REMOUNT, SWAP, Chooser, Step

__all__ = ["STEPS", "Case", "Knobs"]

#: Steps of one case: new layers are what costs, and the state that old ones get is what finds.
STEPS: Final = 60

#: One step in so many is a remount.
_REMOUNTS: Final = 20
#: And once in so many a directory is removed with all that is in it, and made anew.
_REMAKINGS: Final = 60


@dataclass(frozen=True, slots=True)
class Knobs:
    """How the engine is to go about it: the union is the same in any way.

    ``avoids``: where an announced difference would part the two, neither does the step, so
    that each can still read the other's top; else the engine goes on with what the target
    shows.
    """

    matching: bool = True
    directory_copyup: bool = False
    move_directories: bool = False
    avoids: bool = False

    @classmethod
    def draw(cls, choose: Chooser, features: frozenset[str], *, swaps: bool) -> Self:
        """Ways that the target with ``features`` can follow."""
        stubs = swaps and {"metacopy", "follows-redirects"} <= features
        copies = stubs and choose((True, False))
        # A directory copied up as fallthrus is on the top alone, and overlayfs would move it.
        moves = "overlayfs" in features and not copies and choose((True, True, False))
        return cls(choose((True, False)), copies, moves, swaps)


@dataclass(frozen=True, slots=True)
class Case:
    """``bottoms`` are uppermost first."""

    bottoms: tuple[tuple[Plant, ...], ...]
    steps: tuple[Step, ...]
    knobs: Knobs = Knobs()

    @classmethod
    def numbered(
        cls, seed: int, number: int, features: frozenset[str], announced: Announcements
    ) -> Self:
        """Always the same for a target with the same features and announcements."""
        choose: Chooser = random.Random(f"{seed}/{number}").choice
        links = announced.leaves_out(BOTTOM_LINKS) is None and choose((False, False, True))
        bottom = layers.draw(choose, links=links)
        swaps = "overlayfs" in features and "volatile" not in features and choose((True, False))
        knobs = Knobs.draw(choose, features, swaps=swaps)
        steps = _steps(choose, bottom)
        if swaps:
            steps[choose(range(STEPS // 4, STEPS * 3 // 4))] = SWAP
        return cls((bottom,), tuple(steps), knobs)


def _steps(choose: Chooser, bottom: tuple[Plant, ...]) -> list[Step]:
    steps: list[Step] = []
    while len(steps) < STEPS:
        if choose(range(_REMAKINGS)) == 0:
            steps += _remaking(choose(DIRECTORIES), bottom)
        else:
            steps.append(_step(choose, steps[-1] if steps else REMOUNT))
    # The last look is at what only the layers remember.
    return [*steps[: STEPS - 1], REMOUNT]


def _remaking(directory: str, bottom: tuple[Plant, ...]) -> list[Step]:
    """A directory emptied, removed and made anew: its opaque mark is all that hides the old."""
    below = [entry for entry in bottom if entry.path.startswith(directory + "/")]
    removing = [
        Step("root", "rmdir" if entry.kind == "dir" else "unlink", (entry.path,))
        for entry in sorted(below, key=lambda entry: entry.path, reverse=True)
    ]
    made = Step("root", "mkdir", (directory, 0o755))
    return [*removing, Step("root", "rmdir", (directory,)), made]


def _step(choose: Chooser, before: Step) -> Step:
    """The next step; often about the path of the one before, for calls have to meet."""
    if choose(range(_REMOUNTS)) == 0:
        return REMOUNT
    step = Step.draw(choose)
    kinds = OPERATIONS[step.operation]
    if before.arguments and choose((True, False, False)):
        path = before.arguments[OPERATIONS[before.operation].index("path")]
        arguments = list(step.arguments)
        arguments[kinds.index("path")] = path
        return replace(step, arguments=tuple(arguments))
    return step
