"""After the command of ``fallthru try``: what it changed, and what is to become of it.

All of it goes to standard error, so that the command's own output stays what it is; only
``--json`` writes to standard output, one line, the last.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress

from overlay.cli.changelines import COLOURS, LETTERS, record
from overlay.cli.wishes import Wishes
from overlay.errors import FallthruError, UsageError, cannot_read
from overlay.lighttyping import TYPE_CHECKING
from overlay.text import human_bytes, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from overlay.differences.changes import Change
    from overlay.trials.trial import Trial

__all__ = ["settle"]

_SHOWN = 200


class _Summary:
    """How many changes there were, the first of them, and what became of them all."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(LETTERS, 0)
        self.first: list[Change] = []
        self.outcome = "discarded"
        self.kept_in: str | None = None
        self.committed = 0
        self.left: list[str] = []

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def settle(trial: Trial, wishes: Wishes) -> int:
    """Show the changes, ask what is to become of them if need be, and do it.

    Returns 0, or the exit code that goes before the command's own.
    """
    _reclaim_terminal()
    summary = _Summary()
    with _readable():
        for change in _all_changes(trial):
            summary.counts[change.kind] += 1
            if wishes.as_json or len(summary.first) < _SHOWN:
                summary.first.append(change)
    if not wishes.as_json:
        _show(summary, trial)
    code = 0
    try:
        if summary.total or wishes.keep is not None:
            _decide(trial, wishes, summary)
    except FallthruError as error:
        # The command's own exit code would hide that its changes are lost.
        from overlay.cli import report_error

        report_error(error)
        summary.outcome = "failed"
        code = error.exit_code
    if wishes.as_json:
        _emit(trial, summary)
    return code


def _all_changes(trial: Trial) -> Iterator[Change]:
    from overlay.trials.changes import changes

    for _, change in changes(trial):
        yield change


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_read(error) from error


def _reclaim_terminal() -> None:
    """Be in the terminal's foreground again: a shell that was killed may have left it."""
    import signal

    with suppress(OSError):
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(sys.stdin.fileno(), os.getpgrp())
        signal.signal(signal.SIGTTOU, before)


# -------------------------------------------------------------------- what becomes of it


def _decide(trial: Trial, wishes: Wishes, summary: _Summary) -> None:
    if wishes.keep is not None:
        summary.outcome, summary.kept_in = "kept", wishes.keep
        if not wishes.as_json:
            _say(f"fallthru: kept in {printable(wishes.keep)}")
        return
    if wishes.commit and wishes.yes:
        if trial.code == 0:
            _commit(trial, wishes, summary)
        else:
            _say(f"fallthru: the command failed ({trial.code}), so nothing is committed")
    elif not wishes.discard and wishes.can_ask:
        _ask(trial, wishes, summary)
    elif not wishes.discard and not wishes.as_json:
        _say("fallthru: discarded; --commit --yes or --keep DIR would have kept them")


def _ask(trial: Trial, wishes: Wishes, summary: _Summary) -> None:
    """Until the answer could be carried out, or nothing is left to answer for."""
    while True:
        _say("fallthru: [c]ommit [PATTERN...], [k]eep DIR, or [d]iscard? ", newline=False)
        answer = sys.stdin.readline()
        verb, *words = answer.split() or [""]
        try:
            if not answer or (verb and "discard".startswith(verb)):
                return
            if verb and "commit".startswith(verb):
                _commit(trial, wishes._replace(only=(*wishes.only, *words)), summary)
                if not _changed(trial):
                    return
            if verb and "keep".startswith(verb):
                _keep(trial, " ".join(words), summary)
                return
        except FallthruError as error:
            from overlay.cli import report_error

            report_error(error)


def _changed(trial: Trial) -> bool:
    with _readable():
        return next(_all_changes(trial), None) is not None


def _commit(trial: Trial, wishes: Wishes, summary: _Summary) -> None:
    from overlay.trials.commit import commit

    done = commit(trial, only=wishes.only, without=wishes.without)
    summary.outcome = "committed"
    summary.committed += done.entries
    summary.left = [printable(path) for path in done.left]
    if not wishes.as_json:
        _say(f"fallthru: committed {done.entries}")
        for path in summary.left:
            _say(f"fallthru: not committed: /{path}")


def _keep(trial: Trial, directory: str, summary: _Summary) -> None:
    """Copy the tops out of memory to a directory, as --keep would have had them there."""
    from overlay.trials import store as trialstore
    from overlay.trials.changes import is_empty

    if not directory:
        raise UsageError("no directory was named")
    directory = os.path.expanduser(directory)
    store = f"/proc/{os.getpid()}/fd/{trial.store}"  # cp has a self of its own
    with trialstore.kept(directory, trial.family) as tops:
        if tops:
            raise UsageError(f"another trial is kept in {printable(directory)}")
        chosen = [each for each in trial.pieces if not is_empty(f"{store}/{each.name}/top")]
        trialstore.copy_store(store, directory, [each.name for each in chosen])
        tops.update({each.path: each.name for each in chosen})
    summary.outcome, summary.kept_in = "kept", directory
    _say(f"fallthru: kept in {printable(directory)}")


# -------------------------------------------------------------------------- what changed


def _show(summary: _Summary, trial: Trial) -> None:
    for shown in trial.failed:
        _say(f"fallthru: {printable(shown.path)} was not writable in the trial: {shown.why}")
    if not summary.total:
        _say("fallthru: nothing changed")
        return
    for change in summary.first:
        letter = LETTERS[change.kind]
        slash = "/" if "directory" in (change.ftype, change.old_ftype) else ""
        name = _coloured(f"{letter} /{printable(change.path)}{slash}", COLOURS[letter])
        _say(name + _remark(change))
    if summary.total > len(summary.first):
        _say(f"… and {summary.total - len(summary.first)} more")
    counts = ", ".join(f"{count} {kind}" for kind, count in summary.counts.items() if count)
    _say(f"fallthru: {counts}")


def _remark(change: Change) -> str:
    if change.kind == "changed":
        return "  " + ", ".join(sorted(change.what))
    if change.gone > 1:
        return f"  {change.gone} entries, {human_bytes(change.gone_bytes)} gone"
    return f"  {human_bytes(change.size)}" if change.ftype == "file" else ""


def _emit(trial: Trial, summary: _Summary) -> None:
    import json

    document: dict[str, Any] = {
        "exit_code": trial.code,
        "outcome": summary.outcome,
        "kept_in": summary.kept_in,
        "committed": summary.committed,
        "left": summary.left,
        "counts": summary.counts,
        "changes": [record(change) for change in summary.first],
        "not_overlaid": [
            {"path": printable(each.path), "why": each.why, "read_only": each.read_only}
            for each in (*trial.shown, *trial.failed)
        ],
    }
    print(json.dumps(document, default=os.fspath), flush=True)


def _coloured(text: str, colour: str) -> str:
    """Text for standard error, in a colour if that is a terminal."""
    if not sys.stderr.isatty():
        return text
    import click

    return click.style(text, fg=colour)


def _say(text: str, *, newline: bool = True) -> None:
    try:
        print(text, end="\n" if newline else "", file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # The terminal is gone; what was told to be done is done all the same.
