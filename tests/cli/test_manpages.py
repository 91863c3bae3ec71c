"""The manual: it names every command, option and mark of this version, and can be shown."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from overlay.cli.group import SUBCOMMANDS, command
from overlay.cli.manpages import pages
from overlay.marks import MARKS
from overlay.mountoptions import parse
from overlay.profiles import PROFILES
from tests.running import fallthru

PAGES = {("fallthru", 1), ("mount.fallthru", 8), ("fallthru-layer", 5)}


def plain(name: str, section: int) -> str:
    return pages()[name, section].replace("\\-", "-").replace("\\e", "\\").replace("\\&", "")


def test_every_page_is_written_where_man_looks(tmp_path: Path) -> None:
    done = fallthru("manpages", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*") if path.is_file()}
    assert written == {Path(f"man{section}/{name}.{section}") for name, section in PAGES}
    for name, section in PAGES:
        assert (tmp_path / f"man{section}/{name}.{section}").read_text() == pages()[name, section]


def test_every_command_and_option_is_in_the_manual() -> None:
    text = plain("fallthru", 1)
    context = click.Context(command)
    for name in SUBCOMMANDS:
        assert f"fallthru {name} " in text, name
        found = command.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            continue
        for parameter in found.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else ():
                assert option in text, (name, option)


def test_every_mount_option_is_in_the_manual() -> None:
    text = plain("mount.fallthru", 8)
    for name in PROFILES:
        assert f"\\fB{name}\\fR" in text
    known = ["bottom=/a", "lowerdir=/a", "top=/b", "upperdir=/b", "work=/c", "workdir=/c",
             "profile=document", "union", "shared-index=/d", "require-read-only", "nohold",
             "allow-submounts", "ro", "nosuid", "nodev", "noexec", "remount"]  # fmt: skip
    for option in known:
        parse(option)  # it is one
        assert option.partition("/")[0].partition("=d")[0] in text


def test_every_mark_is_in_the_manual() -> None:
    text = plain("fallthru-layer", 5)
    for mark in MARKS:
        assert mark in text


@pytest.mark.parametrize(("name", "section"), sorted(PAGES))
def test_it_can_be_shown_without_complaint(name: str, section: int) -> None:
    program = shutil.which("mandoc") or shutil.which("groff")
    if program is None:
        pytest.skip("needs: mandoc or groff")
    how = ["-Tlint", "-Werror"] if program.endswith("mandoc") else ["-man", "-ww", "-Tutf8", "-z"]
    done = subprocess.run(
        [program, *how], input=pages()[name, section], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
