"""The same clauses on another kernel: judged in a guest, the results handed back.

The guests are built and run by ``scripts/vm`` of a checkout (docs/other-kernels.md).  In
the guest this module is the command: it judges what the request on its command line asks
for and prints each result as a line of JSON, whole, with the reasons that the contract of
``--json`` leaves out.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from overlay.errors import EnvironmentLacks, FallthruError, OperationFailed, UsageError
from overlay.spec import catalogue, runner
from overlay.spec.catalogue import Clause
from overlay.spec.command import CommandTarget
from overlay.spec.runner import Result
from overlay.spec.targets import Target, parse_target

__all__ = ["HOST", "KERNELS", "Request", "command", "results", "run", "shares"]

HOST: Final = "host"
#: The kernels that scripts/vm knows, besides the running one.
KERNELS: Final = (HOST, "uml", "debian-6.1", "debian-6.12", "debian-7")

_VM = Path(__file__).resolve().parents[2] / "scripts" / "vm"
_BOOTED: Final = "boot.root"
_PATIENCE = 600  # seconds for a whole run; a clause that hangs is ended long before


@dataclass(frozen=True, slots=True)
class Request:
    """What to judge: clause ids, target names, mount commands; the rest as in runner.run."""

    clauses: tuple[str, ...]
    targets: tuple[str, ...]
    commands: tuple[str, ...] = ()
    shuffle: int | None = None
    bottom_fs: str | None = None
    top_fs: str | None = None


def run(kernel: str, request: Request) -> list[Result]:
    """Judge what ``request`` says in the guest called ``kernel``; results as runner.run gives.

    UsageError for an unknown kernel, EnvironmentLacks when its guest is not built or this
    is no checkout, OperationFailed when the guest dies.
    """
    if not _VM.is_file():
        raise EnvironmentLacks(
            "other kernels are run by scripts/vm, which comes with the sources only",
            hint="run fallthru from a checkout: scripts/setup",
        )
    if kernel != "uml":
        return _run(kernel, request)
    # User-mode Linux has one processor, which a process can make up for: one guest for each
    # of the machine's.  And it can be booted on a union, for the clause that is about that.
    jobs = [partial(_run, kernel, share) for share in shares(request, os.cpu_count() or 1)]
    chosen = catalogue.select(catalogue.load(), request.clauses)
    if any(clause.id == _BOOTED for clause in chosen):
        jobs.append(partial(_run, kernel, replace(request, clauses=(_BOOTED,)), "--union-root"))
    with ThreadPoolExecutor(len(jobs)) as pool:
        judged = [result for results in pool.map(lambda job: job(), jobs) for result in results]
    # The union root's come last, and take the place of what a plain root had to say.
    found = {(result.target, result.id): result for result in judged}
    return list(found.values())


def shares(request: Request, most: int) -> list[Request]:
    """The request's targets in at most ``most`` requests, in the same order."""
    named = len(request.targets)
    every = [*request.targets, *request.commands]
    bounds = [len(every) * part // most for part in range(most + 1)]
    return [
        replace(
            request,
            targets=tuple(every[begin : min(end, named)]),
            commands=tuple(every[max(begin, named) : end]),
        )
        for begin, end in pairwise(bounds)
        if begin < end
    ]


def _run(kernel: str, request: Request, *options: str) -> list[Result]:
    done = subprocess.run(
        (_VM, "run", "--timeout", str(_PATIENCE), *options, kernel, "--", *command(request)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise _why(kernel, done.returncode, done.stderr)
    return results(kernel, done.stdout)


def command(request: Request) -> tuple[str, ...]:
    """What to run in a guest, in this checkout, to have ``request`` judged."""
    return ("python", "-m", __name__, json.dumps(asdict(request)))


def results(kernel: str, printed: str) -> list[Result]:
    """The results that :func:`command` printed in the guest called ``kernel``."""
    return [_labelled(_parse(line), kernel) for line in printed.splitlines()]


def _labelled(result: Result, kernel: str) -> Result:
    """User-mode Linux is an architecture of its own, which its release does not show."""
    return replace(result, kernel=f"{result.kernel} (uml)") if kernel == "uml" else result


def _parse(line: str) -> Result:
    fields: dict[str, Any] = json.loads(line)
    return Result(**(fields | {"lines": tuple(fields["lines"])}))


def _why(kernel: str, status: int, said: str) -> FallthruError:
    lines = [line.removeprefix("vm: ") for line in said.strip().splitlines()]
    message = "\n".join(lines[-20:]) or f"it ended with status {status}"
    if status == UsageError.exit_code:
        return UsageError(message)
    if status == EnvironmentLacks.exit_code:
        return EnvironmentLacks(message, hint=f"scripts/vm setup {kernel}")
    return OperationFailed(f"the clauses could not be judged on {kernel}: {message}")


def _main(arguments: Sequence[str]) -> None:
    """In the guest: judge, a target a processor, and print the results, a line each."""
    fields = json.loads(arguments[0])
    clauses = catalogue.select(catalogue.load(), fields["clauses"])
    targets: list[Target] = [parse_target(name) for name in fields["targets"]]
    targets += [CommandTarget.parse(command) for command in fields["commands"]]
    how = {name: fields[name] for name in ("shuffle", "bottom_fs", "top_fs")}
    judge = partial(_judge, clauses, how)
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for judged in pool.imap(judge, targets):
            for result in judged:
                print(json.dumps(asdict(result)))


def _judge(clauses: tuple[Clause, ...], how: dict[str, Any], target: Target) -> list[Result]:
    return runner.run(clauses, [target], **how)


if __name__ == "__main__":
    _main(sys.argv[1:])
