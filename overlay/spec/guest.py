"""The command that judges in a guest, for a run on another kernel (kernels.py).

It takes the request as JSON, and prints each result as a line of JSON, whole, with the
reasons that the contract of ``--json`` leaves out; as they come, so that a guest which
dies has handed over what it had.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

from overlay.spec import catalogue, nfs, runner
from overlay.spec.catalogue import Clause
from overlay.spec.checks import all_checks
from overlay.spec.command import CommandTarget
from overlay.spec.kept import keeping
from overlay.spec.runner import Result
from overlay.spec.targets import Target, parse_target

__all__ = ["main"]

#: How many clauses a processor takes at a time: few enough that all end together, and enough
#: to be worth a worker and a trial mount.
_PIECE: Final = 40

Piece = tuple[Target, list[Clause]]


def main(arguments: Sequence[str]) -> None:
    """Judge what the request in ``arguments`` says, and print the results."""
    request = json.loads(arguments[0])
    clauses = runner.in_order(
        catalogue.select(catalogue.load(), request["clauses"]), request["shuffle"]
    )
    targets: list[Target] = [parse_target(name) for name in request["targets"]]
    targets += [CommandTarget.parse(command) for command in request["commands"]]
    _import_all()
    processors = os.cpu_count() or 1
    size = len(clauses) if processors == 1 else _PIECE
    about_nfs = [clause for clause in clauses if nfs.is_about_nfs(clause.id)]
    others = [clause for clause in clauses if not nfs.is_about_nfs(clause.id)]
    pieces = [
        (target, others[at : at + size]) for target in targets for at in range(0, len(others), size)
    ]
    # Last, for the server has its clients wait at first.
    pieces += [(target, about_nfs) for target in targets if about_nfs]
    with keeping() as kept, nfs.served() if about_nfs else nullcontext() as nfs_dir:
        how = {name: request[name] for name in ("bottom_fs", "top_fs")}
        how |= {"kept": kept, "nfs_dir": nfs_dir}
        with _judged(pieces, how, processors) as judged:
            for results in judged:
                for result in results:
                    told = result if request["steps"] else replace(result, steps="")
                    print(json.dumps(asdict(told)))
                sys.stdout.flush()


def _import_all() -> None:
    """Once, before processes are forked: each would do it by itself."""
    from overlay import conflicts, kernel, union  # noqa: F401

    all_checks()


@contextmanager
def _judged(
    pieces: list[Piece], how: dict[str, Any], processors: int
) -> Iterator[Iterable[list[Result]]]:
    judge = partial(_judge, how)
    if processors == 1:
        yield map(judge, pieces)
        return
    import multiprocessing  # not for a machine that has no use for it: that, too, takes time

    with multiprocessing.get_context("fork").Pool(processors) as pool:
        yield pool.imap_unordered(judge, pieces)


def _judge(how: dict[str, Any], piece: Piece) -> list[Result]:
    target, clauses = piece
    return runner.run(clauses, [target], **how)


if __name__ == "__main__":
    main(sys.argv[1:])
