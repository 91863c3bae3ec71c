"""A command that is held back until it is under observation."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

from overlay.errors import UsageError
from overlay.text import printable

__all__ = ["Gated"]


class Gated:
    """A child process that waits to be released before it becomes ``argv``.

    So that it can be put under observation before its first instruction.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = list(argv)
        gate_read, self._gate = os.pipe()
        self._report, report_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            os.close(self._report)
            self._become(gate_read, report_write)
        os.close(gate_read)
        os.close(report_write)
        self._pidfd = os.pidfd_open(self.pid)
        self._status: int | None = None

    def _become(self, gate: int, report: int) -> None:
        try:
            if os.read(gate, 1):  # nothing: the parent gave up
                os.execvp(self._argv[0], self._argv)
        except OSError as error:
            os.write(report, str(error.errno).encode())
        finally:
            os._exit(127)

    def release(self) -> None:
        """Let it run.  Raises :class:`UsageError` when there is no such program."""
        os.write(self._gate, b"x")
        os.close(self._gate)
        self._gate = -1
        failed = os.read(self._report, 16)  # closed by exec when that works
        if failed:
            self.wait(None)
            raise UsageError(
                f"{printable(self._argv[0])} cannot be run",
                hint="give the command after --, as a shell would find it",
                errno=int(failed),
            )

    def fileno(self) -> int:
        """Readable once the command has ended."""
        return self._pidfd

    def wait(self, seconds: float | None) -> bool:
        """Whether it has ended, after waiting for that at most ``seconds``."""
        if self._status is None:
            ready, _, _ = select.select([self._pidfd], [], [], seconds)
            if ready:
                _, status = os.waitpid(self.pid, 0)
                code = os.waitstatus_to_exitcode(status)
                self._status = 128 - code if code < 0 else code
        return self._status is not None

    @property
    def status(self) -> int:
        """Its exit status; 128 + N when signal N ended it."""
        return self._status if self._status is not None else 0

    def close(self) -> None:
        """Take back what it holds; a child that was never released ends."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1
        self.wait(None)
        os.close(self._report)
        os.close(self._pidfd)
