"""The same clauses on another kernel: judged in a guest, the results handed back.

The guests are built and run by ``scripts/vm`` of a checkout (docs/other-kernels.md); what
runs in them is guest.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from overlay.errors import EnvironmentLacks, FallthruError, OperationFailed, UsageError
from overlay.spec import catalogue
from overlay.spec.command import CommandTarget
from overlay.spec.nfs import is_about_nfs
from overlay.spec.runner import Result

__all__ = ["HOST", "KERNELS", "Request", "command", "results", "run", "shares"]

HOST: Final = "host"
#: The kernels that scripts/vm knows, besides the running one.
KERNELS: Final = (HOST, "uml", "debian-6.1", "debian-6.12", "debian-7")

_VM = Path(__file__).resolve().parents[2] / "scripts" / "vm"
_GUEST: Final = "overlay.spec.guest"
_BOOTED: Final = "boot.root"
_PATIENCE = 600  # seconds for a whole run; a clause that hangs is ended long before


@dataclass(frozen=True, slots=True)
class Request:
    """What to judge: clause ids, target names, mount commands; the rest as in runner.run.

    ``steps``: whether the results are to have their scripts.
    """

    clauses: tuple[str, ...]
    targets: tuple[str, ...]
    commands: tuple[str, ...] = ()
    shuffle: int | None = None
    bottom_fs: str | None = None
    top_fs: str | None = None
    steps: bool = False

    @property
    def names(self) -> list[str]:
        """What results call the targets and commands, in their order."""
        return [*self.targets, *(CommandTarget.parse(command).name for command in self.commands)]


def run(kernel: str, request: Request) -> list[Result]:
    """Judge what ``request`` says in guests with ``kernel``; results as runner.run gives.

    A guest that dies loses only what it had not handed over: those clauses fail, and say so.
    UsageError for an unknown kernel, EnvironmentLacks when its guest is not built or this
    is no checkout, OperationFailed when there is no result at all.
    """
    if not _VM.is_file():
        raise EnvironmentLacks(
            "other kernels are run by scripts/vm, which comes with the sources only",
            hint="run fallthru from a checkout: scripts/setup",
        )
    # User-mode Linux has one processor, which a process can make up for: one guest for each
    # of the machine's.
    parts = shares(request, (os.cpu_count() or 1) if kernel == "uml" else 1)
    with ThreadPoolExecutor(len(parts)) as pool:
        outcomes = list(pool.map(partial(_run, kernel), parts))
    judged = {(result.target, result.id): result for found, _ in outcomes for result in found}
    for part, (_, why) in zip(parts, outcomes, strict=True):
        if why is not None:
            if not judged or isinstance(why, UsageError | EnvironmentLacks):
                raise why
            judged = _lost(part, why, next(iter(judged.values())).kernel) | judged
    ids = [clause.id for clause in catalogue.select(catalogue.load(), request.clauses)]
    return [judged[name, id] for name in request.names for id in ids]


def shares(request: Request, most: int) -> list[Request]:
    """The request's clauses dealt out to at most ``most`` requests, each for all targets."""
    ids = [clause.id for clause in catalogue.select(catalogue.load(), request.clauses)]
    # One server for all clauses about NFS.
    about_nfs = [id for id in ids if is_about_nfs(id)]
    others = [id for id in ids if not is_about_nfs(id)]
    dealt = [others[n::most] for n in range(most)]
    dealt[0] += about_nfs
    return [replace(request, clauses=tuple(part)) for part in dealt if part]


def _run(kernel: str, request: Request) -> tuple[list[Result], FallthruError | None]:
    """What a guest handed over, and why it is not all."""
    # It can be booted on a union, for the clause that is about that.
    options = ("--union-root",) if kernel == "uml" and _BOOTED in request.clauses else ()
    run = (_VM, "run", "--timeout", str(_PATIENCE), *options, kernel, "--", *command(request))
    done = subprocess.run(
        ("setpriv", "--pdeathsig", "TERM", *run),  # however we end, the guest ends with us
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    found = results(kernel, done.stdout)
    return found, _why(kernel, done.returncode, done.stderr) if done.returncode != 0 else None


def _lost(request: Request, why: FallthruError, kernel: str) -> dict[tuple[str, str], Result]:
    """A failure for each clause that a guest was to judge."""
    return {
        (name, clause.id): Result(
            *(clause.id, name, kernel, "failed", "the guest lives until the clause is judged"),
            *(str(why), clause.lines),
        )
        for name in request.names
        for clause in catalogue.select(catalogue.load(), request.clauses)
    }


def command(request: Request) -> tuple[str, ...]:
    """What to run in a guest, in this checkout, to have ``request`` judged."""
    return ("python", "-m", _GUEST, json.dumps(asdict(request)))


def results(kernel: str, printed: str) -> list[Result]:
    """The results that :func:`command` printed in the guest called ``kernel``."""
    # The last line of a guest that died may be cut.
    whole = printed[: printed.rfind("\n") + 1]
    return [_labelled(_parse(line), kernel) for line in whole.splitlines()]


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
