"""The command scripts/vm: list, setup, run, serve."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence

from . import booting, machines
from .booting import KINDS, MAKERS
from .errors import Lacks, VmError
from .jobs import Start, run
from .serving import serve

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(
        prog="vm", description="Other kernels to test on: user-mode Linux, and QEMU without KVM."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the kernels, and whether they are ready")
    setup = verbs.add_parser("setup", help="build what kernels take, once")
    setup.add_argument("kernels", nargs="*", default=["uml"], metavar="KERNEL")
    running = verbs.add_parser("run", help="run a command on a kernel, in this checkout")
    running.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    running.add_argument("--memory", default="2G", metavar="SIZE", help="such as 2G (default)")
    running.add_argument(
        "--union-root", action="store_true", help="its root is an overlay (uml only)"
    )
    running.add_argument(
        "--engines",
        action="store_true",
        help="with docker, podman and containerd on /dev/vdc (not uml)",
    )
    running.add_argument("kernel", metavar="KERNEL")
    running.add_argument("command", nargs="+", metavar="CMD", help="after --")
    system = verbs.add_parser(
        "boot",
        help="boot a whole Debian on an overlay, and run a command in it",
        description="WORD is for the kernel's command line, as top:tmpfs,bottom:/dev/vda.  "
        "Disks are /dev/vda and on, first the bottoms.  A command runs when systemd is done; "
        "what it thinks of the system is in /run/state.",
    )
    system.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    system.add_argument("--memory", default="1G", metavar="SIZE")
    system.add_argument(
        "--bottom", action="append", choices=list(KINDS), help="an image of the system"
    )
    system.add_argument(
        "--disk", action="append", default=[], metavar="FILE", help="one that keeps what is written"
    )
    system.add_argument("--maker", choices=list(MAKERS), default="initramfs-tools")
    system.add_argument("kernel", metavar="KERNEL")
    system.add_argument("word", metavar="WORD")
    system.add_argument("command", nargs="+", metavar="CMD", help="after --")
    serving = verbs.add_parser(
        "serve",
        help="boot once, run the commands that come on standard input",
        description='A request is a line, {"command": ["CMD", ...], "timeout": SECONDS}; so is '
        'its answer, {"status": CODE, "stdout": BASE64, "stderr": BASE64}.',
    )
    serving.add_argument("--memory", default="2G", metavar="SIZE")
    serving.add_argument("kernel", metavar="KERNEL")
    chosen = parser.parse_args(arguments)
    # As an exception, so that the machine is ended and its files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if chosen.verb == "list":
            return _list()
        if chosen.verb == "setup":
            for name in chosen.kernels:
                machines.named(name)
            for name in chosen.kernels:
                machines.named(name).build()
            return 0
        machine = machines.named(chosen.kernel)
        if not machine.ready():
            raise Lacks(f"{machine.name} is not built yet: scripts/vm setup {machine.name}")
        if chosen.verb == "boot":
            return run(_booted(machine, chosen), chosen.command, timeout=chosen.timeout)
        if chosen.verb == "serve":
            serve(machine.start(chosen.memory), sys.stdin, sys.stdout)
            return 0
        with contextlib.redirect_stdout(sys.stderr):  # the command's is its own
            start = machine.start(
                chosen.memory, union_root=chosen.union_root, with_engines=chosen.engines
            )
        return run(start, chosen.command, timeout=chosen.timeout)
    except VmError as error:
        print(f"vm: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _booted(machine: machines.Machine, chosen: argparse.Namespace) -> Start:
    """How to start the system that is to be booted, built when something of it is missing."""
    with contextlib.redirect_stdout(sys.stderr):  # the command's is its own
        system = machine.build_system(chosen.maker)
    bottoms = chosen.bottom or ["squashfs"]
    return booting.start(system, chosen.memory, f"fallthru={chosen.word}", bottoms, chosen.disk)


def _list() -> int:
    for machine in machines.MACHINES:
        state = "ready  " if machine.ready() else "not built"
        print(f"{machine.name}\t{state}\t{machine.release() or '-'}\t{machine.summary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
