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
from tests.fsimages import needs_filesystem
from tests.processes import orphans_reaped

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


def run(number: str, **environment: str) -> str:
    """What the cells of one notebook print, from top to bottom."""
    (notebook,) = [path for path in NOTEBOOKS if path.name.startswith(number)]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input="\0".join(source(cell) for cell in cells(notebook, "code")),
        capture_output=True,
        text=True,
        check=False,
        cwd=notebook.parents[1],
        env={**os.environ, "PYTHONPATH": str(notebook.parents[1]), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs_tracer() -> None:
    doctor = pytest.importorskip("tracer.doctor")
    lacking = [one.name for one in doctor.checks() if one.required and not one.ok]
    if lacking:
        pytest.skip(f"needs: {', '.join(lacking)}")


def test_copyup_cost_runs(root: None, left_over: None) -> None:
    needs_tracer()
    said = run("01_")
    assert "1,009 files" in said
    assert "fixed cost" in said
    assert said.count(Picture.__name__) == 3
    # 1,009 files and 10 directories: the chown copies each file up, in either profile.
    assert "('document', 1019, '0 events lost')" in said


@pytest.mark.timeout(900)
@pytest.mark.parametrize("measured", [True, False], ids=["measured", "from the committed traces"])
def test_what_fallthru_saves_runs(root: None, left_over: None, measured: bool) -> None:
    """250 files and 8 directories.  Without the tools that make file systems, as without root."""
    if measured:
        needs_tracer()
        needs_filesystem("ext4")
        needs_filesystem("xfs")
        said = run("02_")
    else:
        said = run("02_", PATH="/nowhere")
    assert ("measured here" if measured else "from the committed traces") in said
    for name in ("document", "fallthru", "throwaway", "reflink"):
        assert f"('{name}', 258, '0 events lost')" in said
    for advice in ("metacopy", "throwaway", "reflink", "ahead"):
        assert f"\n{advice} " in said
    assert said.count(Picture.__name__) == 2


def test_semantics_runs() -> None:
    said = run("03_")
    assert " clauses, " in said
    assert "kernel:document" in said
    assert said.count(Picture.__name__) == 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize("measured", [True, False], ids=["measured", "from the committed figures"])
def test_claims_of_2010_runs(root: None, left_over: None, measured: bool) -> None:
    if measured:
        for kind in ("ext4", "xfs", "btrfs"):
            needs_filesystem(kind)
        said = run("04_")
    else:
        said = run("04_", PATH="/nowhere")
    assert ("measured here" if measured else "from the committed figures") in said
    (whole, more) = (
        [float(word) for word in line.split()[-3:]]
        for line in said.splitlines()
        if line.startswith("full copy on ext4")
    )
    # An overlay is there sooner than a full copy, and holds less: lines 44-47.
    assert whole[2] > 0
    assert more[0] > 1
    assert more[2] > 1
    assert "after directory copyup" in said


def test_fleet_runs(left_over: None) -> None:
    with orphans_reaped():
        said = run("05_")
    assert "'spans': 80020" in said  # 20 hosts
    # Put in: one host half as slow again, ten with metadata-only copyup, nine left alone.
    assert "{'faster': 10, 'same': 9, 'slower': 1}" in said
    assert "typical time of web13: 1.5" in said
    assert "the same: True" in said
    assert "run=tuesday" in said
    assert said.count(Picture.__name__) == 2
