"""What goes wrong here, with the exit codes of the fallthru command (docs/exit-codes.md)."""

from __future__ import annotations

__all__ = ["GuestDied", "Lacks", "VmError"]


class VmError(Exception):
    """A message for people; ``exit_code`` is what the command ends with."""

    exit_code = 5


class Lacks(VmError):
    """This machine lacks something, and the message says what to do."""

    exit_code = 3


class GuestDied(VmError):
    """The guest ended without saying how its command did: a panic, most likely."""
