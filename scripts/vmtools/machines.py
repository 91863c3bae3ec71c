"""The machines by name: which kernel, from which Debian suite, in what kind of guest."""

from __future__ import annotations

from dataclasses import dataclass

from . import booting, debian, engines, qemu, uml
from .errors import VmError
from .jobs import Start

__all__ = ["MACHINES", "Machine", "UnknownMachine", "named"]


class UnknownMachine(VmError):
    """No machine has that name."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """A kernel to run commands on; ``suite`` is where its package comes from."""

    name: str
    summary: str
    suite: str

    def build(self) -> None:
        """Build what is missing; nothing when all is there."""
        if self.name == "uml":
            uml.build(self.suite)
            return
        debian.require("qemu-system-x86_64")
        # First, because it finds out sooner when there is no network.
        qemu.build_kernel(self.name, self.suite)
        qemu.build_root()

    def ready(self) -> bool:
        """Whether everything is built, from today's recipes."""
        return self.release() is not None and (self.name == "uml" or qemu.find_root() is not None)

    def release(self) -> str | None:
        """The kernel's release; None before it is built."""
        if self.name == "uml":
            tree = uml.find(self.suite)
        else:
            tree = qemu.find_kernel(self.name, self.suite)
        return None if tree is None else (tree / "release").read_text("utf-8").strip()

    def build_system(self, maker: str) -> booting.System:
        """What booting a whole system on this kernel takes."""
        return booting.build(self.name, self.suite, maker)

    def start(self, memory: str, *, union_root: bool = False, with_engines: bool = False) -> Start:
        """How to start it.  Nothing but what is built is used, except for the engines' disk."""
        if self.name == "uml":
            if with_engines:
                raise UnknownMachine("user-mode Linux runs no containers")
            return uml.start(uml.build(self.suite), memory, union_root=union_root)
        if union_root:
            raise UnknownMachine("only user-mode Linux boots on a union")
        kernel = qemu.build_kernel(self.name, self.suite)
        disks = [engines.build()] if with_engines else []
        return qemu.start(kernel, qemu.build_root(), memory, disks)


MACHINES = (
    Machine("uml", "user-mode Linux, Debian 12's", "bookworm"),
    Machine("debian-6.1", "Debian 12's kernel, in QEMU", "bookworm"),
    Machine("debian-6.12", "Debian 13's kernel, in QEMU", "trixie"),
    Machine("debian-7", "Debian's newest packaged kernel, in QEMU", "trixie-backports"),
)


def named(name: str) -> Machine:
    """The machine called ``name``; UnknownMachine names those there are."""
    for machine in MACHINES:
        if machine.name == name:
            return machine
    known = ", ".join(machine.name for machine in MACHINES)
    raise UnknownMachine(f"no kernel is called {name!r}; there are {known}")
