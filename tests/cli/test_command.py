"""The command as a whole: help, start-up, errors, completion, doctor."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

from overlay.cli.group import SUBCOMMANDS
from tests.running import REPOSITORY, fallthru, in_child, need_readable_checkout
from tracer.cli import SUBCOMMANDS as TRACE_SUBCOMMANDS

#: What takes longest to import; only the subcommands that need one may.
HEAVY = {"pandas", "numpy", "matplotlib", "pyarrow", "bcc", "rich", "pyroute2"}


def imported_by(*arguments: str) -> set[str]:
    code = (
        "import sys; from overlay.cli.group import command\n"
        f"command.main({list(arguments)!r}, standalone_mode=False)\n"
        "print('\\n' + ' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["status"]], ids=" ".join)
def test_starting_the_command_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not imported_by(*arguments) & {"pathlib", *HEAVY}


START = "from overlay.cli import main; main()"


def imported_on_the_way(*arguments: str, code: str) -> set[str]:
    """What Python says that it imports until it ends, whatever process of its own it is for."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_a_trial_in_plain_words_imports_little(root: None) -> None:
    """None of what takes longer to import than all of the program's own that a trial needs."""
    trial = ("try", "--discard", "--", "true")
    imported = imported_on_the_way(*trial, code=START) - imported_on_the_way(code="pass")
    assert "overlay.trials.trial" in imported
    needless = {"click", "dataclasses", "inspect", "json", "re", "typing", "warnings"}
    assert not imported & {*needless, *HEAVY}


@pytest.mark.parametrize(
    ("package", "above"), [("overlay", {"tracer", "analysis"}), ("tracer", {"analysis"})]
)
def test_imports_point_one_way(package: str, above: set[str]) -> None:
    """analysis → tracer → overlay; the command's tables name what is above, and import it late."""
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong = above.intersection(name.partition(".")[0] for name in names)
            assert not wrong, f"{path} imports {wrong}"


EVERY = [*SUBCOMMANDS, *(f"trace {name}" for name in TRACE_SUBCOMMANDS)]


@pytest.mark.parametrize("name", EVERY)
def test_every_subcommand_has_help_with_an_example(name: str) -> None:
    done = fallthru(*name.split(), "-h")
    assert done.returncode == 0, done.stderr
    assert f"fallthru {name}" in done.stdout


@pytest.mark.parametrize("name", EVERY)
def test_help_of_a_subcommand_imports_nothing_heavy(name: str) -> None:
    code = (
        "import sys; from overlay.cli.group import command\n"
        "try: command.main([*sys.argv[1:], '--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *name.split()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(done.stdout.splitlines()[-1].split()) & HEAVY


def test_an_unknown_subcommand_is_usage() -> None:
    done = fallthru("frobnicate")
    assert done.returncode == 2
    assert "frobnicate" in done.stderr


def test_version_is_told_with_click_and_without() -> None:
    plain = fallthru("--version").stdout
    assert plain.startswith("fallthru, version ")
    assert fallthru("--version", "status").stdout == plain
    assert "click" not in imported_on_the_way("--version", code=START)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_command(shell: str) -> None:
    done = fallthru("completion", shell)
    assert done.returncode == 0
    assert "_FALLTHRU_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [("fallthru ", list(SUBCOMMANDS)), ("fallthru st", ["status", "start", "stop"])],
)
def test_completion_offers_subcommands_and_imports_none(words: str, offered: list[str]) -> None:
    asked = {"_FALLTHRU_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "overlay"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        env=asked,
    )
    assert done.stdout.split() == [f"plain,{name}" for name in offered]
    assert "overlay.cli.lazy" in done.stderr
    assert "overlay.cli.status" not in done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m overlay spec list --json | head -c 1",
        shell=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[", "")


def test_doctor_tells_what_works_here(root: None) -> None:
    done = fallthru("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert checks["overlayfs"]["ok"]
    assert checks["profile document on /dev/shm"]["ok"]
    for check in checks.values():
        assert check["ok"] or check["remedy"], f"{check['name']} fails without saying what to do"


def test_doctor_as_an_ordinary_user_says_what_is_required() -> None:
    need_readable_checkout()

    def doctor() -> str:
        import os

        os.setresuid(65534, 65534, 65534)
        done = fallthru("doctor")
        return f"{done.returncode} {done.stdout}"

    said = in_child(doctor)
    assert said.startswith("1 ")
    assert "FAIL  privilege: uid 65534" in said
