"""``fallthru prime``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from overlay.cli.layers import (
    DIRECTORY,
    emit_json,
    json_option,
    progress_shown,
    required_bottoms_option,
)
from overlay.errors import UsageError
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.priming.prime import PrimeReport


@dataclass(frozen=True, slots=True)
class _Request:
    """The command line: which layers, what to do with them, and how to say so."""

    top: str | None
    work: str | None
    bottoms: tuple[str, ...]
    output: str | None
    paths: tuple[str, ...]
    recursive: bool
    exact_inodes: bool
    jobs: int | None
    as_json: bool


@click.command(short_help="Copy directories up ahead of time, as fallthrus.")
@json_option
@click.option("--top", type=DIRECTORY, metavar="DIR", help="The top; it must not be mounted.")
@required_bottoms_option
@click.option("--work", type=DIRECTORY, help="Scratch directory of the top.  [default: TOP.work]")
@click.option("-r", "--recursive", is_flag=True, help="And all directories below PATHS.")
@click.option("--undo", is_flag=True, help="Take it back; what was changed since stays.")
@click.option(
    "--exact-inodes",
    is_flag=True,
    help="Let readdir tell the same inode numbers as stat, and be much slower for it.",
)
@click.option("--shared", is_flag=True, help="Make fallthrus of whole bottoms, for many tops.")
@click.option(
    "-o", "--output", type=DIRECTORY, metavar="META", help="Where the shared fallthrus go."
)
@click.option("--update", is_flag=True, help="With --shared: refresh what changed below.")
@click.option("--verify", is_flag=True, help="With --shared: compare META with all of the bottoms.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Processes.  [default: all cores]")
@click.argument("paths", nargs=-1, type=DIRECTORY)
def prime(
    top: str | None,
    bottoms: tuple[str, ...],
    work: str | None,
    recursive: bool,
    undo: bool,
    exact_inodes: bool,
    shared: bool,
    output: str | None,
    update: bool,
    verify: bool,
    jobs: int | None,
    as_json: bool,
    paths: tuple[str, ...],
) -> None:
    """Make the directories PATHS of a union opaque, with a fallthru for all that bottoms have.

    Lookups of what does not exist, and repeated readdirs, then end in the top.  PATHS are
    paths in the union; none means all of it, with --recursive.  The top must then be mounted
    with --profile fallthru.

    With --shared the fallthrus of whole bottoms go into META, a directory or, if its name
    ends in .erofs, an image, for `fallthru mount --index META`; no top is needed.

    \b
    Examples:
      fallthru prime --recursive --top /srv/top --bottom /usr
      fallthru prime --top /srv/top --bottom /usr share/doc lib
      fallthru prime --undo --recursive --top /srv/top --bottom /usr
      fallthru prime --shared --bottom /usr -o /srv/usr.meta
    """
    request = _Request(top, work, bottoms, output, paths, recursive, exact_inodes, jobs, as_json)
    if shared:
        if top is not None or undo or paths or output is None:
            raise UsageError(
                "--shared needs -o META, and takes neither a top nor paths",
                hint="fallthru prime --shared --bottom DIR -o META",
            )
        if update and verify:
            raise UsageError("--update and --verify exclude each other")
        _shared(request, output, "update" if update else "verify" if verify else "build")
        return
    if output is not None or update or verify:
        raise UsageError("-o, --update and --verify belong to --shared")
    if top is None:
        raise UsageError("which top?", hint="fallthru prime --top DIR --bottom DIR PATHS")
    (_undo if undo else _prime)(request, top)


def _prime(request: _Request, top: str) -> None:
    from overlay.priming.prime import prime as copy_up

    began = time.monotonic()
    with progress_shown(request.as_json) as progress:
        report = copy_up(
            top,
            request.bottoms,
            request.paths,
            recursive=request.recursive,
            exact_inodes=request.exact_inodes,
            work=request.work,
            jobs=request.jobs,
            progress=progress,
        )
    seconds = time.monotonic() - began
    if request.as_json:
        emit_json(_primed(report, seconds))
        return
    click.echo(
        f"{report.directories} directories primed, {report.entries} fallthrus"
        f"{_speed(report.entries, seconds)}"
    )
    if report.already:
        click.echo(f"{report.already} were primed before")
    for left in report.left:
        click.echo(f"left merged: {printable(b'/' + left.path)}: {left.reason}")


def _primed(report: PrimeReport, seconds: float) -> dict[str, Any]:
    return {
        "directories": report.directories,
        "entries": report.entries,
        "already": report.already,
        "left": [{"path": printable(left.path), "reason": left.reason} for left in report.left],
        "seconds": round(seconds, 6),
    }


def _undo(request: _Request, top: str) -> None:
    from overlay.priming.unprime import undo as take_back

    began = time.monotonic()
    with progress_shown(request.as_json) as progress:
        report = take_back(
            top,
            request.bottoms,
            request.paths,
            recursive=request.recursive,
            work=request.work,
            progress=progress,
        )
    if request.as_json:
        emit_json(
            {
                "directories": report.directories,
                "entries": report.entries,
                "kept": report.kept,
                "seconds": round(time.monotonic() - began, 6),
            }
        )
        return
    click.echo(f"{report.directories} directories merged again, {report.entries} fallthrus removed")
    if report.kept:
        click.echo(f"{report.kept} kept, because they were changed")


def _shared(request: _Request, output: str, action: str) -> None:
    from overlay.priming import sharedindex

    began = time.monotonic()
    with progress_shown(request.as_json) as progress:
        if action == "verify":
            report = sharedindex.verify(output, request.bottoms)
        elif action == "update":
            report = sharedindex.update(output, request.bottoms, progress=progress)
        else:
            report = sharedindex.build(
                output, request.bottoms, jobs=request.jobs, progress=progress
            )
    seconds = time.monotonic() - began
    if request.as_json:
        emit_json(
            {
                "directories": report.directories,
                "entries": report.entries,
                "changed": report.changed,
                "fingerprint": report.fingerprint,
                "seconds": round(seconds, 6),
            }
        )
        return
    have = f"{report.directories} directories with {report.entries} entries"
    if action == "verify":
        click.echo(f"{printable(output)} fits its bottoms: {have}")
    elif action == "update" and not report.changed:
        click.echo(f"nothing has changed: {have}")
    else:
        made = f"{report.changed} refreshed of " if action == "update" else ""
        click.echo(f"{made}{have}{_speed(report.entries, seconds)}")
        bottoms = " ".join(f"--bottom {printable(path)}" for path in request.bottoms)
        click.echo(f"use it: fallthru mount --index {printable(output)} {bottoms} --top ...")


def _speed(entries: int, seconds: float) -> str:
    if not entries:
        return ""
    return f" in {seconds:.1f} s, {seconds / entries * 1e6:.0f} µs each"
