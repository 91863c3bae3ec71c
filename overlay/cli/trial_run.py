"""``fallthru try`` once it is known what was asked for: runs the command, and settles the trial."""

from __future__ import annotations

import gc
import os
from contextlib import ExitStack, contextmanager
from functools import partial

from overlay.cli.wishes import Asked, Wishes
from overlay.errors import UsageError
from overlay.lighttyping import TYPE_CHECKING
from overlay.privilege import in_user_namespace
from overlay.roots.enclosure import Command
from overlay.trials.trial import Trial, memory_size, run

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["run_trial"]


def run_trial(asked: Asked) -> int:
    """Run the command, show what it changed, and do what is wished; the exit code."""
    _check(asked.wishes, asked.disk)
    with _running(asked) as trial:
        gc.enable()  # the command line turned it off for the start
        from overlay.cli.trial_outcome import settle

        settled = settle(trial, asked.wishes)
    return settled or trial.code


def _check(wishes: Wishes, disk: str | None) -> None:
    """Refuse what contradicts itself before anything is run."""
    chosen = [wishes.commit, wishes.discard, wishes.keep is not None]
    if sum(chosen) > 1:
        raise UsageError("--commit, --discard and --keep exclude one another")
    if wishes.keep is not None and disk is not None:
        raise UsageError("--keep and --disk exclude one another: what is kept is on a disk")
    if wishes.commit and not wishes.yes and not wishes.can_ask:
        raise UsageError(
            "nobody can be asked whether to commit: there is no terminal",
            hint="say --yes as well, or keep the changes with --keep DIR",
        )


@contextmanager
def _running(asked: Asked) -> Iterator[Trial]:
    """The trial of a command that ended, while its tops exist."""
    keep, size = asked.wishes.keep, asked.size
    as_user = os.geteuid() != 0 or in_user_namespace()
    family = "user" if as_user else "trusted"
    with ExitStack() as held:
        directory, names, cleanup = None, None, None
        if keep is not None or asked.disk is not None:
            from overlay.trials import store
        if keep is not None:
            directory = keep
            names = held.enter_context(store.kept(directory, family))
        elif asked.disk is not None:
            need = size or store.DEFAULT_NEED
            directory = held.enter_context(store.on_disk(asked.disk, need))
            cleanup = partial(store.remove, directory)
        elif size is None:
            size = memory_size()
        made = run(
            Command(asked.words, directory=os.getcwd()),
            directory=directory,
            size=size,
            shared=asked.shared,
            as_user=as_user,
            names=names,
            cleanup=cleanup,
        )
        held.callback(os.close, made.store)
        yield made
        if directory is not None and names is not None:
            _note_kept(made, directory, names)


def _note_kept(trial: Trial, directory: str, names: dict[str, str]) -> None:
    """Keep the tops that hold something, and note whose they are."""
    from overlay.trials import store
    from overlay.trials.changes import is_empty

    for piece in trial.pieces:
        if is_empty(os.path.join(directory, piece.name, "top")):
            store.remove(os.path.join(directory, piece.name))
            names.pop(piece.path, None)
        else:
            names[piece.path] = piece.name
