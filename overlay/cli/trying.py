"""``fallthru try``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from overlay.cli.layers import DIRECTORY, SIZE, json_option, selection_options
from overlay.cli.wishes import Wishes

if TYPE_CHECKING:
    from overlay.roots.enclosure import Command
    from overlay.trials.trial import Trial


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the tops are: in memory, in a directory for once, or where they are kept."""

    disk: str | None
    size: int | None
    keep: str | None
    as_user: bool


@click.command(
    "try",
    short_help="Run a command on a throw-away view of the system.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--commit", is_flag=True, help="Make the changes for real, if the command succeeds.")
@click.option("--discard", is_flag=True, help="Throw the changes away.")
@click.option(
    "--keep",
    type=DIRECTORY,
    metavar="DIR",
    help="Keep the changes in DIR; a trial kept there before goes on.",
)
@click.option("--yes", is_flag=True, help="Ask nothing.")
@selection_options
@click.option(
    "--disk",
    is_flag=False,
    flag_value="/var/tmp",
    type=DIRECTORY,
    metavar="[DIR]",
    help="Hold the changes in a directory instead of memory.  [DIR: /var/tmp]",
)
@click.option(
    "--size",
    type=SIZE,
    metavar="SIZE",
    help="How much the changes may take (with --disk: what must be free).",
)
@click.option(
    "--share",
    "shared",
    type=DIRECTORY,
    metavar="PATH",
    multiple=True,
    help="A path that is the real one: what is written there is written.",
)
@json_option
@click.argument("words", metavar="[--] COMMAND...", nargs=-1, required=True)
@click.pass_context
def try_(
    context: click.Context,
    commit: bool,
    discard: bool,
    keep: str | None,
    yes: bool,
    only: tuple[str, ...],
    without: tuple[str, ...],
    disk: str | None,
    size: int | None,
    shared: tuple[str, ...],
    as_json: bool,
    words: tuple[str, ...],
) -> None:
    """Run COMMAND on a writable view of the whole system, then show what it changed and ask:
    commit it, keep it, or discard it.

    The command sees the system as it is and may change everything; nothing of it reaches the
    real one before it is committed.  It has the terminal, the environment, and processes of
    its own.  An ordinary user can do this too, for what he may write.  The exit code is the
    command's.

    This is no protection against a program that means harm: devices, the network and the
    kernel are the real ones.

    \b
    Examples:
      fallthru try -- make install
      fallthru try --commit --yes -- apt-get -y upgrade
      fallthru try --keep /var/tmp/trial -- sh
      fallthru try --commit --only 'etc/**' -- ./configure-host
      fallthru try --discard --json -- ./build | tail -1 | jq .
    """
    wishes = Wishes(commit, discard, keep, yes, as_json, only, without)
    _check(wishes, disk)
    from overlay.privilege import in_user_namespace
    from overlay.roots import enclosure

    place = _Place(disk, size, keep, os.geteuid() != 0 or in_user_namespace())
    command = enclosure.Command(words, directory=os.getcwd())
    with _running(command, place, shared) as trial:
        from overlay.cli.trial_outcome import settle

        settled = settle(trial, wishes)
    context.exit(settled or trial.code)


def _check(wishes: Wishes, disk: str | None) -> None:
    """Refuse what contradicts itself before anything is run."""
    from overlay.errors import UsageError

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
def _running(command: Command, place: _Place, shared: tuple[str, ...]) -> Iterator[Trial]:
    """The trial of a command that ended, while its tops exist."""
    from overlay.trials import trial

    family = "user" if place.as_user else "trusted"
    with ExitStack() as held:
        directory, size, names, cleanup = None, place.size, None, None
        if place.keep is not None or place.disk is not None:
            from overlay.trials import store as trialstore
        if place.keep is not None:
            directory = place.keep
            names = held.enter_context(trialstore.kept(directory, family))
        elif place.disk is not None:
            need = place.size or trialstore.DEFAULT_NEED
            directory = held.enter_context(trialstore.on_disk(place.disk, need))
            cleanup = partial(trialstore.remove, directory)
        elif size is None:
            size = trial.memory_size()
        made = trial.run(
            command,
            directory=directory,
            size=size,
            shared=shared,
            as_user=place.as_user,
            names=names,
            cleanup=cleanup,
        )
        held.callback(os.close, made.store)
        yield made
        if directory is not None and names is not None:
            _note_kept(made, directory, names)


def _note_kept(trial: Trial, directory: str, names: dict[str, str]) -> None:
    """Keep the tops that hold something, and note whose they are."""
    from overlay.trials import store as trialstore
    from overlay.trials.changes import is_empty

    for piece in trial.pieces:
        if is_empty(os.path.join(directory, piece.name, "top")):
            trialstore.remove(os.path.join(directory, piece.name))
            names.pop(piece.path, None)
        else:
            names[piece.path] = piece.name
