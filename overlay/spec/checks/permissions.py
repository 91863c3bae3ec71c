"""Permission checks (L361–L380): made before any copying, and as if the bottom were writable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check

_USER = 65534


@contextmanager
def _as_user(user: int) -> Iterator[None]:
    """Act as an ordinary user: the effective ids decide, and capabilities go with them."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@check("permission.before-copyup")
def before_copyup(b: Bench) -> Observations:
    b.file("file", b"not yours\n", mode=0o644)
    b.mount()
    # By descriptor: the user need not be able to walk to the mount point.
    root = os.open(b.mnt, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    calls: dict[str, tuple[str, Callable[[], object]]] = {
        "open(O_WRONLY)": ("EACCES", lambda: os.open("file", os.O_WRONLY, dir_fd=root)),
        "open(O_TRUNC)": ("EACCES", lambda: os.open("file", os.O_TRUNC, dir_fd=root)),
        "chmod": ("EPERM", lambda: os.chmod("file", 0o777, dir_fd=root)),
        "chown": ("EPERM", lambda: os.chown("file", _USER, _USER, dir_fd=root)),
        "utimensat": ("EPERM", lambda: os.utime("file", ns=(1, 1), dir_fd=root)),
        "unlink": ("EACCES", lambda: os.unlink("file", dir_fd=root)),
    }
    try:
        with _as_user(_USER):
            seen = [b.result(name, call, errno) for name, (errno, call) in calls.items()]
    finally:
        os.close(root)
    yield from seen
    yield b.reads("file", b"not yours\n")
    yield b.top_holds()


@check("permission.owner")
def owner(b: Bench) -> Observations:
    b.file("file", b"mine\n", mode=0o600, owner=(_USER, _USER))
    b.mount()
    root = os.open(b.mnt, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _as_user(_USER):
            seen = b.result("the owner writes", lambda: _append("file", root, b"still mine\n"))
    finally:
        os.close(root)
    yield seen
    yield b.reads("file", b"mine\nstill mine\n")
    yield b.copied_up("file", b"mine\nstill mine\n")
    on_top = b.top / "file"
    observed = on_top.lstat().st_uid if on_top.exists() else "nothing"
    yield b.same("attributes", "owner on the top", _USER, observed)


def _append(name: str, root: int, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_APPEND, dir_fd=root)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


@check("permission.no-erofs")
def no_erofs(b: Bench) -> Observations:
    b.file("file", b"bottom\n")
    b.file("dir/file", b"bottom\n")
    b.cover(b.bottom, read_only=True)
    b.mount()
    yield b.result("write", lambda: (b.mnt / "file").write_bytes(b"changed\n"))
    yield b.result("chmod", lambda: (b.mnt / "dir/file").chmod(0o600))
    yield b.result("unlink", (b.mnt / "dir/file").unlink)
    yield b.reads("file", b"changed\n")
    yield b.same("view", "access(W_OK) to dir", True, os.access(b.mnt / "dir", os.W_OK))
