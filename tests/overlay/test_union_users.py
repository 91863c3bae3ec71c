"""Callers: what they may do, and what they make looks like (L361–L404)."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from overlay import acl
from overlay.acl import AclEntry, Tag
from overlay.credentials import Capability, Credentials
from overlay.union import Union
from tests.conftest import Layers
from tests.overlay.unions import fails
from tests.running import in_child

ALICE, BOB = Credentials.user(1000, 1000), Credentials.user(1001, 1001, 50)


def access(*named: tuple[Tag, int, int], group: int = 5, mask: int = 7) -> tuple[AclEntry, ...]:
    return (
        AclEntry(Tag.USER_OBJ, 7),
        *(AclEntry(*entry) for entry in named if entry[0] is Tag.USER),
        AclEntry(Tag.GROUP_OBJ, group),
        *(AclEntry(*entry) for entry in named if entry[0] is Tag.GROUP),
        AclEntry(Tag.MASK, mask),
        AclEntry(Tag.OTHER, 0),
    )


def test_the_caller_is_this_process() -> None:
    who = Credentials.caller()
    assert (who.uid, who.gid) == (os.geteuid(), os.getegid())
    assert who.groups == set(os.getgroups())
    umask = os.umask(0o031)
    try:
        assert Credentials.caller().umask == 0o031
    finally:
        os.umask(umask)


def test_capabilities_go_with_root(root: None) -> None:
    def action() -> object:
        os.seteuid(65534)
        return sorted(Credentials.caller().caps)

    assert Capability.DAC_OVERRIDE in Credentials.caller().caps
    assert in_child(action) == "[]"


@pytest.mark.parametrize(
    ("who", "want", "granted"),
    [
        (Credentials.user(1, 1), 7, True),  # the owner: the list does not matter
        (Credentials.user(1000, 9), 4, True),
        (Credentials.user(1000, 9), 2, False),  # named, but the mask is r-x
        (Credentials.user(9, 2), 4, True),  # the owning group
        (Credentials.user(9, 50), 4, False),  # a named group with no permission
        (Credentials.user(9, 2, 50), 4, True),  # one of two groups is enough
        (Credentials.user(9, 9), 1, False),
    ],
)
def test_access_lists_are_judged_as_acl_5_says(who: Credentials, want: int, granted: bool) -> None:
    entries = access((Tag.USER, 6, 1000), (Tag.GROUP, 0, 50), mask=5)
    assert acl.permits(entries, 1, 2, who.uid, who.gids, want) is granted


@pytest.mark.parametrize("value", [b"", b"\x02", b"\x02\0\0\0\x01", b"\x02\0\0\0" + b"\x03" * 8])
def test_what_is_no_access_list(value: bytes) -> None:
    fails(errno.EINVAL, lambda: acl.parse(value))


def test_access_lists_survive_a_round_trip() -> None:
    entries = access((Tag.USER, 6, 1000), (Tag.GROUP, 3, 50))
    assert acl.parse(acl.encode(entries)) == entries


def test_what_is_new_belongs_to_the_caller(layers: Layers) -> None:
    os.chmod(layers.bottom, 0o777)
    os.chmod(layers.top, 0o777)
    with Union(layers.top, [layers.bottom]) as union, union.acting_as(ALICE):
        os.close(union.creat("file", 0o666))
        union.mkdir("dir", 0o777)
        union.symlink("file", "link")
        shown = {name: union.lstat(name) for name in ("file", "dir", "link")}
    assert {(st.st_uid, st.st_gid) for st in shown.values()} == {(1000, 1000)}
    assert stat.S_IMODE(shown["file"].st_mode) == 0o644
    assert stat.S_IMODE(shown["dir"].st_mode) == 0o755


def test_a_directory_hands_on_its_group_and_lists(layers: Layers) -> None:
    (layers.bottom / "d").mkdir()
    os.chown(layers.bottom / "d", 1001, 50)
    default = access((Tag.USER, 7, 1000), group=7)
    os.setxattr(layers.bottom / "d", acl.DEFAULT, acl.encode(default))
    os.chmod(layers.bottom / "d", 0o2775)
    with Union(layers.top, [layers.bottom]) as union, union.acting_as(BOB):
        os.close(union.creat("d/file", 0o640))
        union.mkdir("d/sub", 0o770)
        file, sub = union.stat("d/file"), union.stat("d/sub")
        # The list takes the umask's place: mode 0640 masks it to r--.
        assert (file.st_gid, oct(file.st_mode)) == (50, "0o100640")
        given = acl.parse(union.getxattr("d/file", acl.ACCESS))
        assert next(entry.perm for entry in given if entry.tag is Tag.MASK) == 4
        assert (sub.st_gid, oct(sub.st_mode)) == (50, "0o42770")
        assert acl.parse(union.getxattr("d/sub", acl.DEFAULT)) == default


def test_sticky_directories_protect_their_files(layers: Layers) -> None:
    (layers.bottom / "tmp").mkdir()
    (layers.bottom / "tmp" / "alices").touch()
    os.chown(layers.bottom / "tmp" / "alices", 1000, 1000)
    os.chmod(layers.bottom / "tmp", 0o1777)
    with Union(layers.top, [layers.bottom]) as union:
        with union.acting_as(BOB):
            fails(errno.EPERM, lambda: union.unlink("tmp/alices"))
            fails(errno.EPERM, lambda: union.rename("tmp/alices", "tmp/bobs"))
        with union.acting_as(ALICE):
            union.unlink("tmp/alices")


def test_set_id_bits_go_with_a_change(layers: Layers) -> None:
    for name in ("written", "given"):
        (layers.bottom / name).write_bytes(b"#!")
        os.chown(layers.bottom / name, 1000, 1000)
        os.chmod(layers.bottom / name, 0o6755)
    with Union(layers.top, [layers.bottom]) as union:
        with union.acting_as(ALICE):
            union.truncate("written", 1)
        union.chown("given", 0, -1)
        assert oct(union.stat("written").st_mode) == "0o100755"
        assert oct(union.stat("given").st_mode) == "0o100755"
