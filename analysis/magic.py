"""A cell magic that traces the cell and shows what copyup cost: ``%load_ext analysis.magic``.

::

    %%copyup --mount /mnt
    subprocess.run(["chown", "-R", "www-data", "/mnt/srv"])
"""

from __future__ import annotations

import argparse
import ast
import os
import shlex
from typing import Any, NoReturn

import pandas as pd
from IPython.core.error import UsageError
from IPython.display import display

from analysis import plots, stats
from analysis.findings import findings
from analysis.style import show
from overlay.text import human_bytes, human_time
from tracer import Selection, Session

__all__ = ["load_ipython_extension"]

_PICTURES = {
    "latency": plots.latency,
    "phases": plots.phase_bars,
    "timeline": plots.timeline,
    "distribution": plots.distribution,
    "groups": plots.top_groups,
    "files": plots.top_files,
}


class _Arguments(argparse.ArgumentParser):
    """The magic's own line; a mistake in it is told without a traceback."""

    def __init__(self) -> None:
        super().__init__(
            prog="%%copyup",
            description="Trace the copyups that the cell causes, itself and by its children.",
        )
        add = self.add_argument
        add("--mount", action="append", default=[], metavar="M", help="only this union")
        add("--path", metavar="P", help="only this path in the union, and those below it")
        add("--all", action="store_true", help="everybody's copyups, not the cell's alone")
        add("--name", default="copyups", help="the variable that gets the frame (copyups)")
        add(
            "--picture",
            action="append",
            choices=sorted(_PICTURES),
            help="latency, or another; may be repeated",
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage()}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise UsageError(message or "")  # -h: the help is printed, the cell is not run


def load_ipython_extension(shell: Any) -> None:
    """Called by ``%load_ext`` with the shell (an ``InteractiveShell``)."""

    def copyup(line: str, cell: str) -> None:
        """Trace the copyups that the cell causes; ``%%copyup -h`` tells the options."""
        wanted = _Arguments().parse_args(shlex.split(line))
        session = Session(
            wanted.mount,
            () if wanted.all else [os.getpid()],
            selection=Selection(kinds=("copyup",), under=wanted.path),
        )
        session.start()
        try:
            _run(shell, cell)
        finally:
            session.stop()
            frame = session.frame()
            name = f"cell {shell.execution_count}"
            frame.insert(0, "run", pd.Series(name, index=frame.index, dtype="category"))
            shell.user_ns[wanted.name] = frame
            _tell(frame, session.lost, wanted.picture or ["latency"], name)

    shell.register_magic_function(copyup, "cell", "copyup")


def _run(shell: Any, cell: str) -> None:
    """The cell as it would run by itself: what it raises comes through, its last value shows."""
    source = shell.transform_cell(cell)
    name = shell.compile.cache(source)
    tree: ast.Module = shell.compile.ast_parse(source, filename=name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), shell.user_ns)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), name, "eval"), shell.user_ns)
        if value is not None:
            display(value)  # type: ignore[no-untyped-call]


def _tell(frame: pd.DataFrame, lost: int, pictures: list[str], name: str) -> None:
    whole: dict[str, Any] = stats.overview(frame)
    print(
        f"{whole['spans']:,} copyups of {whole['files']:,} files:"
        f" {human_time(whole['time'].value)}, {human_bytes(int(whole['bytes']))} copied"
    )
    if lost:
        print(f"incomplete: {lost:,} records were lost")
    if frame.empty:
        return
    for found in findings(frame):
        print(f"• {found.what}")
    for picture in pictures:
        title = f"Copyups of {name}: {picture}"
        display(show(_PICTURES[picture](frame), title))  # type: ignore[no-untyped-call]
