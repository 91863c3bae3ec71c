"""The notebooks: stripped of outputs, and every cell runs from top to bottom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.style import Picture

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

#: Runs the cells as Jupyter would, but in a bare interpreter: the notebook extras are not needed.
RUNNER = """
import ast, sys
namespace = {}
for cell in sys.stdin.read().split("\\0"):
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), namespace)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
        print(type(value).__name__, getattr(value, "_repr_svg_", lambda: value)())
"""


def cells(notebook: Path, kind: str) -> list[dict[str, object]]:
    data = json.loads(notebook.read_text())
    assert (data["nbformat"], data["nbformat_minor"]) == (4, 5)
    return [cell for cell in data["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, object]) -> str:
    lines = cell["source"]
    assert isinstance(lines, list)
    return "".join(lines)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_stripped(notebook: Path) -> None:
    for cell in cells(notebook, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.fixture
def left_over() -> Iterator[None]:
    """Fail when a notebook leaves its scratch directory behind."""
    before = set(Path("/var/tmp").glob("fallthru-notebook-*"))
    yield
    assert set(Path("/var/tmp").glob("fallthru-notebook-*")) == before


def test_copyup_cost_runs(root: None, left_over: None) -> None:
    doctor = pytest.importorskip("tracer.doctor")
    lacking = [one.name for one in doctor.checks() if one.required and not one.ok]
    if lacking:
        pytest.skip(f"needs: {', '.join(lacking)}")
    (notebook,) = [path for path in NOTEBOOKS if path.name.startswith("01_")]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input="\0".join(source(cell) for cell in cells(notebook, "code")),
        capture_output=True,
        text=True,
        check=False,
        cwd=notebook.parents[1],
        env={**os.environ, "PYTHONPATH": str(notebook.parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert "1,009 files" in done.stdout
    assert "fixed cost" in done.stdout
    assert done.stdout.count(Picture.__name__) == 3
    # 1,009 files and 10 directories: the chown copies each file up, in either profile.
    assert "('document', 1019, '0 events lost')" in done.stdout
