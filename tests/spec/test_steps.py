"""The steps of a clause, pasted into a shell: they do and show what the check did and saw."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from overlay.spec import catalogue, runner, shell
from overlay.spec.targets import KernelTarget, OverlayfsTarget, Target
from tests.running import fallthru
from tests.spec import scripts

pytestmark = pytest.mark.usefixtures("root")

CLAUSES = catalogue.load()
#: One of each kind of step: images and loop devices, refusals, descriptors, mappings, users.
ON_PROFILE = (
    "copyup.setfacl",
    "descriptor.mapping-keeps-old-content",
    "fallthru.copyup",
    "mount.over-writable-submount",
    "mount.pivot-root",
    "permission.before-copyup",
    "readonly.counts-users",
    "readonly.released",
)


@pytest.fixture(autouse=True)
def command_in_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts call fallthru, and its Python."""
    import sys

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def repeated(
    results: list[runner.Result], directory: Path, at_once: int | None = 1
) -> dict[str, list[str]]:
    """What went otherwise than the steps say, by clause.  ``at_once``: None for all cores."""

    def wrong(result: runner.Result) -> list[str]:
        place = directory / result.id
        place.mkdir()
        return scripts.run(result.steps, place)

    with ThreadPoolExecutor(at_once or os.cpu_count()) as pool:
        found = zip(results, pool.map(wrong, results), strict=True)
        return {result.id: lines for result, lines in found if lines}


def test_every_clause_can_be_repeated_by_hand_on_overlayfs(tmp_path: Path) -> None:
    chosen = [c for c in CLAUSES if not c.id.startswith("supported.")]
    results = [r for r in runner.run(chosen, [OverlayfsTarget()]) if r.status != "not-run"]
    assert len(results) > 130
    assert repeated(results, tmp_path, at_once=None) == {}


@pytest.mark.parametrize("target", [KernelTarget("document"), KernelTarget("fallthru")])
def test_steps_of_every_kind_can_be_repeated_on_a_profile(target: Target, tmp_path: Path) -> None:
    chosen = [clause for clause in CLAUSES if clause.id in ON_PROFILE]
    results = runner.run(chosen, [target])
    assert {result.status for result in results} <= {"kept", "departed"}
    assert repeated(results, tmp_path) == {}


def test_a_script_that_says_something_else_is_told(tmp_path: Path) -> None:
    """The comparison above can fail: a wrong output, a wrong error, a lost command."""
    (result,) = runner.run(
        [c for c in CLAUSES if c.id == "example.rename.directory"], [OverlayfsTarget()]
    )
    assert "#! EXDEV" in result.steps
    lies = result.steps.replace("#> inside", "#> outside").replace("#! EXDEV\n", "")
    wrong = scripts.run(lies, tmp_path)
    assert len(wrong) == 2
    assert "prints ['inside'], not ['outside']" in wrong[1]
    assert "fails, not so" in wrong[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"it's 100% \\ plain\n\ttext\n",
        bytes(range(256)),
        b"x" * 100_000,
        b"\0" * 5000,
        b"one line\n" * 500,
        b"".join(b"line %d\n" % number for number in range(300)),
        os.urandom(1000),
    ],
    ids=["empty", "text", "bytes", "one letter", "zeros", "one line", "numbers", "random"],
)
def test_printing_gives_the_content(content: bytes) -> None:
    import subprocess

    done = subprocess.run(["sh", "-c", shell.printing(content)], capture_output=True, check=True)
    assert done.stdout == content


def test_show_prints_the_facts_and_a_script() -> None:
    done = fallthru("spec", "show", "example.unlink.whiteout", "--target", "overlayfs")
    assert done.returncode == 0, done.stderr
    assert "example.unlink.whiteout on overlayfs: kept" in done.stdout
    assert "\nunlink mnt/oldfile\n" in done.stdout
    script = fallthru("spec", "show", "--sh", "example.unlink.whiteout", "--target", "overlayfs")
    assert done.stdout.endswith(script.stdout)
    assert len(scripts.parse(script.stdout)) > 10


def test_show_of_what_makes_no_mount_is_lacking() -> None:
    done = fallthru("spec", "show", "--sh", "example.unlink.whiteout", "--target", "engine")
    assert done.returncode == 3
    assert "engine makes no mount" in done.stderr
    assert fallthru("spec", "show", "no.clause").returncode == 2


def test_steps_go_into_json_when_asked_for() -> None:
    words = ("spec", "run", "--json", "--target", "overlayfs", "--clause", "link.top-only")
    (plain,) = json.loads(fallthru(*words).stdout)
    assert "steps" not in plain
    (with_steps,) = json.loads(fallthru(*words, "--steps").stdout)
    assert with_steps["steps"].count("link mnt/dir/one mnt/dir/two") == 1
