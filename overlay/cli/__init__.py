"""The ``fallthru`` command: runs it, and reports what went wrong.

click reads the command line (:mod:`overlay.cli.group`), but where ``try`` is asked for in
plain words: that is to start as fast as it can, and importing click would take a good part
of it (:mod:`overlay.cli.plainwords`).  Nor does the version need it.
"""

from __future__ import annotations

import gc
import os
import sys

from overlay import __version__
from overlay.errors import FallthruError, of_disk
from overlay.lighttyping import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["main", "report_error"]


def report_error(error: FallthruError, command_name: str = "fallthru") -> None:
    """Write an error and its hint to standard error, two lines at most."""
    print(f"{command_name}: {error}", file=sys.stderr)
    if error.hint:
        print(f"  → {error.hint}", file=sys.stderr)


def main() -> None:
    """Run the command; the one place where errors become messages and exit codes."""
    try:
        code = _run()
    except FallthruError as error:
        report_error(error)
        code = error.exit_code
    except BrokenPipeError:
        # Nobody reads on, which is no error; what is still to be written would be one at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        failure = of_disk(error)
        if failure is None:
            raise
        report_error(failure)
        code = failure.exit_code
    except KeyboardInterrupt:
        code = 130  # as a shell reports a command ended by Ctrl-C
    sys.exit(code)


def _run() -> int:
    if sys.argv[1:2] == ["try"] and "_FALLTHRU_COMPLETE" not in os.environ:
        gc.disable()  # what a start makes stays: looking for garbage would take a tenth of it
        from overlay.cli.plainwords import trial

        asked = trial(sys.argv[2:])
        if asked is not None:
            from overlay.cli.trial_run import run_trial

            _leave(run_trial(asked))
        gc.enable()
    if sys.argv[1:] == ["--version"]:
        print(f"fallthru, version {__version__}")
        return 0
    from overlay.cli import group

    return group.run()


def _leave(code: int) -> NoReturn:
    """End at once: Python would take itself apart first, which takes a tenth of a trial."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
