"""Waiting for a child that has the terminal, and passing on what it should hear."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from overlay.lighttyping import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

__all__ = ["ORPHANED", "WATCHED", "code_of", "supervise"]

#: What the doorkeeper is told when the caller died.
ORPHANED: Final = signal.SIGRTMIN
#: What a terminal, a service manager or a user sends, and what tells of children.
WATCHED: Final = frozenset(
    {
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGTSTP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        ORPHANED,
    }
)
_SI_KERNEL: Final = 0x80  # sent by the terminal (include/uapi/asm-generic/siginfo.h)


def code_of(status: int) -> int:
    """A wait status as a shell's exit code."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def supervise(
    child: int,
    *,
    reap_all: bool = False,
    stop_with: bool = False,
    orphaned: Callable[[], bool] = lambda: False,
) -> int:
    """Wait for ``child``, passing signals on; its wait status.

    What the terminal sends goes to everybody in its foreground, so to the command as well.
    ``stop_with``: be stopped too when the terminal stops the command, for the shell to see.
    The child is killed once ``orphaned`` says so.
    """
    while True:
        if orphaned():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        got = signal.sigwaitinfo(WATCHED)
        if got.si_signo == signal.SIGCHLD:
            status = _reaped(child, reap_all)
            if status is not None:
                return status
        elif _heard_by_all(got) or got.si_signo in (signal.SIGCONT, ORPHANED):
            if stop_with and got.si_signo == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)
        else:
            with suppress(ProcessLookupError):
                os.kill(child, got.si_signo)


def _heard_by_all(got: signal.struct_siginfo) -> bool:
    """Whether the terminal sent it, to its whole foreground.

    That it hung up is told to the session's leader alone (tty_signal_session_leader()).
    """
    return got.si_code == _SI_KERNEL and got.si_signo != signal.SIGHUP


def _reaped(child: int, everybody: bool) -> int | None:
    """The child's status if it ended; with ``everybody`` orphans are reaped on the way."""
    while True:
        try:
            pid, status = os.waitpid(-1 if everybody else child, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == child:
            return status
        if pid == 0:
            return None
