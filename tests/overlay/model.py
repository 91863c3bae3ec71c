"""The engine and a kernel mount side by side: two bottoms, a top each, one script.

The comparison is that of ``fallthru spec fuzz`` (:mod:`overlay.spec.fuzz.session`), and
what may differ is in the clause catalogue.  Here the upper bottom hides things of the lower
one, and with the first swap the kernel goes on with the profile that reads fallthrus.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from overlay.spec.bench import Places
from overlay.spec.fuzz import layers
from overlay.spec.fuzz.announced import Announcements
from overlay.spec.fuzz.case import Case, Knobs
from overlay.spec.fuzz.session import Session, Unannounced
from overlay.spec.fuzz.steps import SWAP, Chooser, Step
from overlay.spec.targets import KernelTarget

__all__ = ["Model", "Unannounced", "case_of"]

_FEATURES: Final = frozenset({"overlayfs", "index", "noatime"})
_STUBS: Final = frozenset({"metacopy", "redirect_dir", "follows-redirects"})


def case_of(
    choose: Chooser, steps: tuple[Step, ...] = (), *, directory_copyup: bool, links: bool = False
) -> Case:
    """Two bottoms and a way for the engine to go about it, drawn by ``choose``."""
    upper, lower = (layers.draw(choose, links=links) for _ in range(2))
    # A directory copied up as fallthrus is on the top alone, and overlayfs would move it.
    moves = not directory_copyup and choose((True, True, False))
    knobs = Knobs(choose((True, False)), directory_copyup, moves, avoids=True)
    return Case((layers.covered(upper, lower, choose), lower), steps, knobs)


class Model(Session):
    """One script's layers, in the empty directory ``base``; call :meth:`open` first."""

    def __init__(self, base: Path, case: Case) -> None:
        for name in ("bottoms", "tops", "mounts"):
            (base / name).mkdir()
        places = Places(base / "bottoms", base / "tops", base / "mounts")
        target = KernelTarget("document")
        super().__init__(case, target, _FEATURES, Announcements.of(target.name, _FEATURES), places)

    def run(self, step: Step) -> None:
        if step == SWAP:
            self.target, self.features = KernelTarget("fallthru"), _FEATURES | _STUBS
            self.announced = Announcements.of(self.target.name, self.features)
            # This profile moves directories of every kind.
            knobs = replace(self.case.knobs, move_directories=False)
            self.case = replace(self.case, knobs=knobs)
        super().run(step)
