"""Positions in a listing (L597–L600, L675–L680): valid again, in this mount and the next."""

from __future__ import annotations

import os

from overlay.spec import shell
from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check
from overlay.spec.observe import Lacks

#: More than two getdents() return (32 KiB each, by the C library), so that a position in the
#: middle can be had; long names, so that few files do.
_FORMAT = f"%03d-{'x' * 240}"
_COUNT = 299
_NAMES = [_FORMAT % number for number in range(_COUNT)]

_OPENED = "os.open('mnt/dir', os.O_RDONLY | os.O_DIRECTORY)"


def _filled(b: Bench) -> None:
    b.needs_mount("a position in an open directory")
    b.files(f"dir/{_FORMAT}", range(0, _COUNT, 2))
    b.files(f"dir/{_FORMAT}", range(1, _COUNT, 2), on=b.top)
    b.mount()


def _listed_from_the_middle(b: Bench) -> tuple[int, list[str]]:
    """The position after the first piece of the listing, and the names that follow it."""
    fd = os.open(b.mnt / "dir", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as entries:
            next(entries)
            # One piece has been read, and its descriptor (a copy shares the position) is there.
            cookie = os.lseek(fd, 0, os.SEEK_CUR)
        b.steps.look(
            shell.calling(
                f"fd = {_OPENED}; pieces = os.scandir(fd); next(pieces); "
                "print(os.lseek(fd, 0, os.SEEK_CUR))"
            ),
            str(cookie),
        )
        return cookie, _from(b, cookie)
    finally:
        os.close(fd)


def _from(b: Bench, cookie: int) -> list[str]:
    fd = os.open(b.mnt / "dir", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.lseek(fd, cookie, os.SEEK_SET)
        rest = os.listdir(fd)
        code = f"fd = {_OPENED}; os.lseek(fd, {cookie}, os.SEEK_SET); print(len(os.listdir(fd)))"
        b.steps.look(shell.calling(code), str(len(rest)))
        return rest
    finally:
        os.close(fd)


def _told(rest: list[str], listing: list[str]) -> str:
    return "the same rest" if rest == listing[len(listing) - len(rest) :] else "something else"


@check("readdir.cookies")
def cookies(b: Bench) -> Observations:
    _filled(b)
    cookie, rest = _listed_from_the_middle(b)
    if not rest:
        raise Lacks("listings that come in more than one piece")
    listing = b.names("dir")
    yield b.lists("dir", _NAMES)
    yield b.same("view", "what follows a position", "the same rest", _told(rest, listing))
    yield b.same("view", "names before it", True, 0 < len(rest) < len(_NAMES))
    b.open_and_close("dir/new", os.O_CREAT | os.O_WRONLY)
    b.union.unlink("dir/new")
    after = _told(_from(b, cookie), listing)
    yield b.same("view", "the same position after a change", "the same rest", after)


@check("readdir.cookies-next-mount")
def cookies_next_mount(b: Bench) -> Observations:
    _filled(b)
    cookie, rest = _listed_from_the_middle(b)
    if not rest:
        raise Lacks("listings that come in more than one piece")
    yield b.lists("dir", _NAMES)
    again = b.mounts(b.remount)
    yield again
    if again.ok:
        told = "the same rest" if _from(b, cookie) == rest else "something else"
        yield b.same("view", "what follows the position", "the same rest", told)


@check("readdir.same-order-next-mount")
def same_order_next_mount(b: Bench) -> Observations:
    b.files("dir/file%d", range(0, 61, 3))
    for first in (2, 1):
        b.files("dir/file%d", range(first, 61, 3), on=b.top)
    b.mount()
    before = b.order("dir")
    yield b.lists("dir", [f"file{number}" for number in range(61)])
    again = b.mounts(b.remount)
    yield again
    if again.ok:
        told = "as before" if b.order("dir") == before else "another"
        yield b.same("view", "order of the listing", "as before", told)
