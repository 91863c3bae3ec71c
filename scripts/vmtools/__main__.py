"""The command scripts/vm: list, setup, run, serve."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from . import machines
from .errors import Lacks, VmError
from .jobs import run
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
    running.add_argument("kernel", metavar="KERNEL")
    running.add_argument("command", nargs="+", metavar="CMD", help="after --")
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
        union_root = getattr(chosen, "union_root", False)
        start = machine.start(chosen.memory, union_root=union_root)
        if chosen.verb == "serve":
            serve(start, sys.stdin, sys.stdout)
            return 0
        return run(start, chosen.command, timeout=chosen.timeout)
    except VmError as error:
        print(f"vm: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _list() -> int:
    for machine in machines.MACHINES:
        state = "ready  " if machine.ready() else "not built"
        print(f"{machine.name}\t{state}\t{machine.release() or '-'}\t{machine.summary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
