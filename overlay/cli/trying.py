"""``fallthru try``."""

from __future__ import annotations

import click

from overlay.cli.layers import DIRECTORY, SIZE, json_option, selection_options
from overlay.cli.trial_run import run_trial
from overlay.cli.wishes import Asked, Wishes


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
    context.exit(run_trial(Asked(words, wishes, disk, size, shared)))
