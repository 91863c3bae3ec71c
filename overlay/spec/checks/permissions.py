"""Permission checks (L361–L380): made before any copying, and as if the bottom were writable."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from overlay.spec.bench import Bench
from overlay.spec.calls import Credentials
from overlay.spec.checks import Observations, check
from overlay.spec.observe import attempt

_USER = Credentials.user(65534, 65534)


@check("permission.before-copyup")
def before_copyup(b: Bench) -> Observations:
    b.file("file", b"not yours\n", mode=0o644)
    b.mount()
    calls: dict[str, tuple[str, Callable[[], object]]] = {
        "open(O_WRONLY)": ("EACCES", lambda: b.union.open("file", os.O_WRONLY)),
        "open(O_TRUNC)": ("EACCES", lambda: b.union.open("file", os.O_TRUNC)),
        "chmod": ("EPERM", lambda: b.union.chmod("file", 0o777)),
        "chown": ("EPERM", lambda: b.union.chown("file", _USER.uid, _USER.gid)),
        "utimensat": ("EPERM", lambda: b.union.utime("file", (1, 1))),
        "unlink": ("EACCES", lambda: b.union.unlink("file")),
    }
    with b.union.acting_as(_USER):
        seen = [b.result(name, call, errno) for name, (errno, call) in calls.items()]
    yield from seen
    yield b.reads("file", b"not yours\n")
    yield b.top_holds()


@check("permission.owner")
def owner(b: Bench) -> Observations:
    b.file("file", b"mine\n", mode=0o600, owner=(_USER.uid, _USER.gid))
    b.mount()
    with b.union.acting_as(_USER):
        seen = b.result("the owner writes", lambda: b.append("file", b"still mine\n"))
    yield seen
    yield b.reads("file", b"mine\nstill mine\n")
    yield b.copied_up("file", b"mine\nstill mine\n")
    on_top = (b.top / "file").exists()
    observed = b.calls(b.top).lstat("file").st_uid if on_top else "nothing"
    yield b.same("attributes", "owner on the top", _USER.uid, observed)


@check("permission.no-erofs")
def no_erofs(b: Bench) -> Observations:
    b.file("file", b"bottom\n")
    b.file("dir/file", b"bottom\n")
    b.cover(b.bottom, read_only=True)
    b.mount()
    yield b.result("write", lambda: b.write("file", b"changed\n"))
    yield b.result("chmod", lambda: b.union.chmod("dir/file", 0o600))
    yield b.result("unlink", partial(b.union.unlink, "dir/file"))
    yield b.reads("file", b"changed\n")
    yield b.result("access(W_OK) to dir", lambda: b.union.access("dir", os.W_OK))


@check("permission.create-refused")
def create_refused(b: Bench) -> Observations:
    b.file("dir/file", b"bottom\n")
    b.mount()
    calls: dict[str, Callable[[], object]] = {
        "creat": lambda: b.open_and_close("dir/new", os.O_CREAT | os.O_WRONLY),
        "mkdir": lambda: b.union.mkdir("dir/new"),
        "symlink": lambda: b.union.symlink("file", "dir/new"),
        "link": lambda: b.union.link("dir/file", "dir/new"),
        "rename": lambda: b.union.rename("dir/file", "dir/new"),
        "rmdir": lambda: b.union.rmdir("dir"),
    }
    with b.union.acting_as(_USER):
        seen = [b.result(name, call, "EACCES") for name, call in calls.items() if name != "link"]
        # fs.protected_hardlinks answers EPERM before the directory is asked.
        linked = attempt(calls["link"])
    yield from seen
    refused = "refused" if linked in {"EACCES", "EPERM"} else linked
    yield b.same("result", "link", "refused", refused)
    yield b.reads("dir/file", b"bottom\n")
    yield b.top_holds()
