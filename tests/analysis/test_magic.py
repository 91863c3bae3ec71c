"""``%%copyup`` in a notebook that Jupyter's own client runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Layers
from tests.rawoverlay import overlay
from tests.running import REPOSITORY
from tracer.doctor import checks

#: In a process of its own: the client's libraries warn about things that are not ours.
CLIENT = """
import json, sys
import nbformat
from nbclient import NotebookClient
cells = [nbformat.v4.new_code_cell(text) for text in json.load(sys.stdin)]
book = nbformat.v4.new_notebook(cells=cells)
NotebookClient(
    book, timeout=240, startup_timeout=240, kernel_name="python3", allow_errors=True
).execute()
print(json.dumps([cell["outputs"] for cell in book.cells]))
"""

FILES = 23


@pytest.fixture
def mnt(layers: Layers) -> Iterator[Path]:
    lacking = [one.name for one in checks() if one.required and not one.ok]
    if lacking:
        pytest.skip(f"needs: {', '.join(lacking)}")
    for number in range(FILES):
        (layers.bottom / f"f{number}").write_bytes(b"x" * number)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mount_point:
        yield mount_point


def outputs(*cells: str) -> list[list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    made: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return made


def text(of: list[dict[str, Any]]) -> str:
    return "".join(one.get("text", "") or one.get("data", {}).get("text/plain", "") for one in of)


def test_copyup_cell(mnt: Path) -> None:
    """The cell runs as it would alone; its copyups, also those of its children, are counted,
    pictured, and there as a frame; what it raises stops the notebook."""
    *_, traced, counted, failed, kept, wrong = outputs(
        "%load_ext analysis.magic",
        f"import os, subprocess\nmnt = {str(mnt)!r}",
        f"%%copyup --mount {mnt} --picture latency --picture phases\n"
        "for number in range(17):\n"
        "    os.chmod(f'{mnt}/f{number}', 0o600)\n"
        "subprocess.run(['chmod', '600', *[f'{mnt}/f{n}' for n in range(17, 22)]])\n"
        "made_in_cell = 41 + 1\n"
        "made_in_cell",
        "len(copyups), int(copyups['bytes'].sum()), made_in_cell",
        f"%%copyup --name broken\nos.chmod('{mnt}/f22', 0o600)\nraise KeyError('as asked')",
        "len(broken)",
        "%%copyup --frobnicate\n1",
    )
    assert "22 copyups of 22 files" in text(traced)
    assert traced[0]["data"]["text/plain"] == "42"
    pictures = [one["data"] for one in traced if "image/svg+xml" in one.get("data", {})]
    assert len(pictures) == 2
    assert all("<svg" in one["image/svg+xml"] for one in pictures)
    assert text(counted) == f"(22, {sum(range(22))}, 42)"
    errors = [one for one in failed if one["output_type"] == "error"]
    assert [(one["ename"], one["evalue"]) for one in errors] == [("KeyError", "'as asked'")]
    assert text(kept) == "1"
    assert "frobnicate" in json.dumps(wrong)
    print(
        json.dumps(
            [
                {
                    k: (v if k != "data" else {a: str(b)[:80] for a, b in v.items()})
                    for k, v in o.items()
                }
                for o in traced
            ]
        )
    )
