"""A walk over a top by all processors: forked helpers that hand back what is too much.

Nobody knows beforehand how large a subtree is, so it is never asked: a helper takes some
directories, walks until it has seen its budget of entries, and returns the directories it
has not come to.  That keeps all processors busy and every message small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from overlay.checking.harvest import Harvest, Visit
from overlay.checking.walk import Walker
from overlay.helpers import work_off

__all__ = ["walk_all"]

#: Below this a fork costs more than it saves.
_ALONE: Final = 2_000
_BUDGET: Final = 10_000
_BATCH: Final = 64


def walk_all(make: Callable[[bool], Walker], workers: int) -> Harvest:
    """Walk a whole top with up to ``workers`` processes; findings in no particular order.

    ``make`` gives a walker, told whether its process is its own to change directory in.
    """
    walker = make(False)
    try:
        harvest, pending = walker.walk([walker.root()], _ALONE if workers > 1 else 1 << 62)
    finally:
        walker.below.close()

    def begin() -> Callable[[list[Visit]], tuple[Harvest, list[Visit]]]:
        own = make(True)
        return lambda batch: own.walk(batch, _BUDGET)

    def take() -> list[Visit] | None:
        # No more than a fair share, so that nobody waits for the last one.
        share = max(1, min(_BATCH, len(pending) // workers))
        batch = pending[-share:]
        del pending[-share:]
        return batch or None

    def account(_: list[Visit], answer: tuple[Harvest, list[Visit]]) -> None:
        harvest.add(answer[0])
        pending.extend(answer[1])

    if pending:
        work_off(begin, workers, take, account)
    return harvest
