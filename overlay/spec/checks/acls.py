"""Access control lists: attributes like any other (L105, L122), and permissions (L364–L366)."""

from __future__ import annotations

import os
from pathlib import Path

from overlay.acl import ACCESS, DEFAULT, AclEntry, Tag, encode
from overlay.spec.bench import Bench
from overlay.spec.calls import Credentials
from overlay.spec.checks import Observations, check
from overlay.spec.observe import Lacks, errno_name

_ID_NONE = 0xFFFFFFFF
_WHO = 54321


def _list(perm: int) -> bytes:
    """A list by which the user ``_WHO`` has the rwx bits ``perm`` and others have none."""
    return encode(
        (
            AclEntry(Tag.USER_OBJ, 6, _ID_NONE),
            AclEntry(Tag.USER, perm, _WHO),
            AclEntry(Tag.GROUP_OBJ, 4, _ID_NONE),
            AclEntry(Tag.MASK, 7, _ID_NONE),
            AclEntry(Tag.OTHER, 0, _ID_NONE),
        )
    )


def _set(b: Bench, path: Path, name: str, perm: int) -> None:
    try:
        b.xattr(path, name, _list(perm))
    except OSError as error:
        raise Lacks(f"access control lists on the layers ({error.strerror})") from None


def _got(b: Bench, name: str, attribute: str) -> str:
    """Who sees the list at ``name`` with the bits of ``_WHO``."""
    texts = []
    for where, calls in (("union", b.union), ("top", b.calls(b.top))):
        try:
            value = calls.getxattr(name, attribute)
        except OSError as error:
            texts.append(f"{where} {errno_name(error)}")
            continue
        found = [perm for perm in range(8) if _list(perm) == value]
        texts.append(f"{where} {found[0] if found else value.hex()}")
    return ", ".join(texts)


@check("copyup.setfacl")
def setfacl(b: Bench) -> Observations:
    _set(b, b.file("probe"), ACCESS, 6)
    b.file("file", b"content\n")
    b.mount()
    yield b.result("setting an access list", lambda: b.union.setxattr("file", ACCESS, _list(6)))
    yield b.same("attributes", "the list's bits", "union 6, top 6", _got(b, "file", ACCESS))
    yield b.copied_up("file", b"content\n")


@check("copyup.keeps-acl")
def keeps_acl(b: Bench) -> Observations:
    _set(b, b.file("file", b"content\n", mode=0o640), ACCESS, 5)
    b.mount()
    b.open_and_close("file", os.O_RDWR)
    yield b.copied_up("file", b"content\n")
    yield b.same("attributes", "the list's bits", "union 5, top 5", _got(b, "file", ACCESS))


@check("copyup.default-acl")
def default_acl(b: Bench) -> Observations:
    _set(b, b.directory("dir"), DEFAULT, 6)
    b.mount()
    b.write("dir/new", b"new\n")
    yield b.same(
        "attributes",
        "the bits in the directory's default list",
        "union 6, top 6",
        _got(b, "dir", DEFAULT),
    )
    yield b.same(
        "attributes", "the bits in the new file's list", True, _names_the_user(b, "dir/new")
    )


def _names_the_user(b: Bench, name: str) -> bool:
    who = _WHO.to_bytes(4, "little")
    try:
        return who in b.union.getxattr(name, ACCESS)
    except OSError:
        return False


@check("permission.acl")
def permission(b: Bench) -> Observations:
    _set(b, b.file("may-write", b"open\n", mode=0o640), ACCESS, 6)
    _set(b, b.file("may-read", b"closed\n", mode=0o640), ACCESS, 4)
    b.mount()
    with b.union.acting_as(Credentials.user(_WHO, _WHO)):
        seen = (
            b.result("appending where the list grants rw", lambda: b.append("may-write", b"+\n")),
            b.result("appending where it grants r", lambda: b.append("may-read", b"+\n"), "EACCES"),
            b.result("reading where it grants r", lambda: b.read("may-read")),
        )
    yield from seen
    yield b.copied_up("may-write", b"open\n+\n")
    yield b.on_top("may-read", "nothing")
