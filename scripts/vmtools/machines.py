"""The machines by name: which kernel, from which Debian suite, in what kind of guest."""

from __future__ import annotations

from dataclasses import dataclass

from . import uml
from .errors import VmError
from .jobs import Start

__all__ = ["MACHINES", "Machine", "UnknownMachine", "named"]


class UnknownMachine(VmError):
    """No machine has that name."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """A kernel to run commands on; ``suite`` is where its packages come from."""

    name: str
    summary: str
    suite: str

    def build(self) -> None:
        """Build what is missing; nothing when all is there."""
        uml.build(self.suite)

    def ready(self) -> bool:
        """Whether everything is built, from today's recipes."""
        return uml.find(self.suite) is not None

    def release(self) -> str | None:
        """The kernel's release; None before it is built."""
        tree = uml.find(self.suite)
        return None if tree is None else (tree / "release").read_text("utf-8").strip()

    def start(self, memory: str) -> Start:
        """How to start it; it must be ready."""
        tree = uml.find(self.suite)
        assert tree is not None
        return uml.start(tree, memory)


MACHINES = (Machine("uml", "user-mode Linux, Debian 12's", "bookworm"),)


def named(name: str) -> Machine:
    """The machine called ``name``; UnknownMachine names those there are."""
    for machine in MACHINES:
        if machine.name == name:
            return machine
    known = ", ".join(machine.name for machine in MACHINES)
    raise UnknownMachine(f"no kernel is called {name!r}; there are {known}")
