"""Known work for the tracer to see, and noise that it must not see.

Run as a program, in processes of its own::

    workload.py copyup PLAN     does what the lines of PLAN say ("OP PATH") once its stdin says go
    workload.py KIND DIR        makes noise in DIR until its stdin is closed
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Iterator

#: Each makes overlayfs copy up the file that it gets: operation → system calls, by the
#: name that strace gives them on the machines we test on.
OPERATIONS: dict[str, Callable[[str], object]] = {
    "openat": lambda path: os.close(os.open(path, os.O_WRONLY)),
    "chmod": lambda path: os.chmod(path, 0o600),
    "truncate": lambda path: os.truncate(path, os.stat(path).st_size),
    "rename": lambda path: os.rename(path, path + ".new"),
    "lchown": lambda path: os.lchown(path, 1234, 1234),
    "utimensat": lambda path: os.utime(path, (1, 1)),
    "link": lambda path: os.link(path, path + ".link"),
    "setxattr": lambda path: os.setxattr(path, "trusted.test", b"1"),
}


def copyup(plan: str) -> None:
    with open(plan, "rb") as file:
        steps = [line.rstrip(b"\n").split(b" ", 1) for line in file]
    work = [(OPERATIONS[op.decode()], os.fsdecode(path)) for op, path in steps]
    sys.stdin.read(1)
    for operation, path in work:
        operation(path)


def _until_closed() -> Iterator[int]:
    """0, 1, 2 … until standard input is closed; says "going" once it is well under way."""
    number = 0
    while not select.select([0], [], [], 0)[0]:
        if number == 3:
            print("going", flush=True)
        yield number
        number += 1


def tmpfiles(directory: str) -> int:
    """What looks most like a copyup: O_TMPFILE, data, metadata, linkat into place."""
    done = 0
    for done in _until_closed():
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR)
        os.write(fd, b"x" * 8192)
        os.setxattr(fd, "trusted.overlay.origin", b"x")
        os.fchmod(fd, 0o640)
        os.utime(fd, (1, 1))
        os.fsync(fd)
        name = os.path.join(directory, f"tmp{done % 64}")
        if os.path.lexists(name):
            os.unlink(name)
        # A directory descriptor makes Python call linkat, which can follow.
        os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, follow_symlinks=True)
        os.close(fd)
    return done


def writers(directory: str) -> int:
    """Ordinary life: make, write, rename, link, remove files and directories."""
    done = 0
    for done in _until_closed():
        base = os.path.join(directory, f"dir{done % 16}")
        os.makedirs(base, exist_ok=True)
        path = os.path.join(base, "file")
        with open(path, "wb") as file:
            file.write(b"y" * 20000)
        os.chmod(path, 0o600)
        os.symlink("nowhere", path + ".s")
        os.mkfifo(path + ".p")
        os.rename(path, path + ".new")
        os.link(path + ".new", path + ".link")
        for suffix in (".s", ".p", ".new", ".link"):
            os.unlink(path + suffix)
        if done % 2:
            os.rmdir(base)
    return done


def unlinked(directory: str) -> int:
    """Writing to files that have no name any more: link count 0, in the top itself."""
    done = 0
    for done in _until_closed():  # noqa: B007  (its last value is the result)
        path = os.path.join(directory, "gone")
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.unlink(path)
        os.write(fd, b"z" * 30000)
        os.fchmod(fd, 0o644)
        os.utime(fd, (1, 1))
        os.ftruncate(fd, 10)
        os.close(fd)
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR)
        os.write(fd, b"z" * 30000)
        os.fchmod(fd, 0o644)
        os.utime(fd, (1, 1))
        os.close(fd)
    return done


def topped(directory: str) -> int:
    """Writing to a file that is on the top already, and replacing whole directories."""
    done = 0
    path = os.path.join(directory, "mine")
    for done in _until_closed():
        with open(path, "ab") as file:
            file.write(b"w" * 10000)
        os.chmod(path, 0o600 + done % 8)
        os.truncate(path, 0)
        os.utime(path, (done, done))
        os.setxattr(path, "trusted.test", b"%d" % done)
        # Makes a whiteout's opaque successor in the work directory.
        victim = os.path.join(directory, "again")
        os.mkdir(victim)
        open(os.path.join(victim, "x"), "wb").close()
        os.unlink(os.path.join(victim, "x"))
        os.rmdir(victim)
    return done


NOISE = {
    "tmpfiles": tmpfiles,
    "writers": writers,
    "unlinked": unlinked,
    "topped": topped,
}


def main() -> None:
    kind, argument = sys.argv[1:]
    if kind == "copyup":
        copyup(argument)
    else:
        print(json.dumps(NOISE[kind](argument)))


if __name__ == "__main__":
    main()
