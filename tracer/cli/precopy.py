"""``fallthru precopy``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click

from overlay.cli.layers import (
    DIRECTORY,
    bottoms_option,
    emit_json,
    json_option,
    progress_shown,
    unmounted_top_option,
    work_option,
)
from overlay.errors import EXIT_ANSWER_IS_NO, UsageError
from overlay.profiles import PROFILES
from overlay.text import human_bytes, printable


@click.command(short_help="Copy known files up ahead of time.")
@json_option
@click.option("--mount", "mount_point", type=DIRECTORY, metavar="MOUNTPOINT", help="The overlay.")
@click.option("--from", "list_file", type=click.File("rb"), help="A list of paths; - for stdin.")
@click.option("--trace", type=DIRECTORY, metavar="DIR", help="The files a trace saw copied up.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    help="How many at a time.  [default: twice the processors]",
)
@unmounted_top_option
@bottoms_option
@work_option
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="document",
    show_default=True,
    help="The profile of a top that is not mounted.",
)
@click.argument("paths", nargs=-1, type=DIRECTORY)
@click.pass_context
def precopy(
    context: click.Context,
    mount_point: str | None,
    list_file: BinaryIO | None,
    trace: str | None,
    jobs: int | None,
    top: str | None,
    bottoms: tuple[str, ...],
    work: str | None,
    profile: str,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Copy files up before somebody has to wait for it: PATHS in the union, those of a list,
    or those that a trace saw.

    The overlay is that at --mount, or made of --top and --bottom for the time. What is no
    regular file is left, and told; then the exit code is 1.

    \b
    Examples:
      fallthru precopy --mount /mnt etc/passwd var/lib/dpkg/status
      fallthru precopy --mount /mnt --trace ./trace
      find . -name '*.db' -print0 | fallthru precopy --mount /mnt --from -
    """
    from overlay.precopy import listed
    from overlay.precopy import precopy as copy_up

    wanted = [os.fsencode(path) for path in paths]
    if list_file is not None:
        # What find prints begins with a dot.
        wanted += [path.removeprefix(b"./") for path in listed(list_file.read())]
    if trace is not None:
        wanted += _traced(trace)
    if not (paths or list_file or trace):
        raise UsageError("which files?", hint="name PATHS, --from FILE or --trace DIR")
    with (
        _overlay(mount_point, top, bottoms, work, profile) as fd,
        progress_shown(as_json) as progress,
    ):
        done = copy_up(fd, wanted, jobs=jobs or 2 * (os.cpu_count() or 1), progress=progress)
    if as_json:
        emit_json(
            {
                "files": done.files,
                "bytes": done.copied,
                "left": [{"path": printable(path), "reason": why} for path, why in done.left],
            }
        )
    else:
        click.echo(f"{done.files} files, {human_bytes(done.copied)} are on the top")
        for path, why in done.left:
            click.echo(f"left\t{printable(path)}\t{why}")
    sys.stdout.flush()
    if done.left:
        context.exit(EXIT_ANSWER_IS_NO)


@contextmanager
def _overlay(
    mount_point: str | None,
    top: str | None,
    bottoms: tuple[str, ...],
    work: str | None,
    profile: str,
) -> Iterator[int]:
    """A descriptor of an overlay's root, mounted or made for the time."""
    if (mount_point is None) == (top is None):
        raise UsageError(
            "which overlay?", hint="name it by --mount, or its layers by --top and --bottom"
        )
    if mount_point is not None:
        from overlay.mountinfo import overlay_at

        fd = os.open(overlay_at(mount_point).mount_point, os.O_RDONLY | os.O_DIRECTORY)
    else:
        from overlay import kernel

        assert top is not None
        fd = kernel.open_overlay(kernel.Overlay(bottoms, top, work, profile))
    try:
        yield fd
    finally:
        os.close(fd)


def _traced(directory: str) -> list[bytes]:
    """The paths of a trace's copyups, each once."""
    from tracer.reading import read

    table = read(directory).table.select(["kind", "path"])
    found = {
        path
        for kind, path in zip(table["kind"].to_pylist(), table["path"].to_pylist(), strict=True)
        if kind == "copyup" and path
    }
    return sorted(os.fsencode(path) for path in found)
