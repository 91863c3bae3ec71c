"""Patterns that choose paths, against what git and the shell mean by them."""

from __future__ import annotations

import pytest

from overlay.errors import UsageError
from overlay.selection import select


@pytest.mark.parametrize(
    ("pattern", "taken", "left"),
    [
        ("*.pyc", ["a.pyc", "d/e/a.pyc", "d/a.pyc/in"], ["a.py", "a.pyc2"]),
        ("etc", ["etc", "etc/passwd", "usr/etc/x"], ["etcetera", "netc"]),
        ("/etc", ["etc", "etc/passwd"], ["usr/etc"]),
        ("etc/*.conf", ["etc/a.conf", "etc/.conf"], ["etc/d/a.conf", "usr/etc/a.conf"]),
        ("etc/**", ["etc/a", "etc/d/a"], ["etc", "usr/etc/a"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b/c"], ["ab", "a/xb", "x/a/b"]),
        ("f[0-9]?", ["f1x", "d/f22"], ["fxx", "f1", "f1/"]),
        ("[!a]b", ["xb"], ["ab", "x/ab"]),
        ("a.b", ["a.b"], ["axb"]),
        ("odd\n[", ["odd\n["], ["odd"]),
        ("dir/", ["dir", "x/dir/y"], ["dirx"]),
    ],
)
def test_patterns(pattern: str, taken: list[str], left: list[str]) -> None:
    selection = select([pattern])
    assert [path for path in taken if not selection.takes(path.encode())] == []
    assert [path for path in left if selection.takes(path.encode())] == []
    without = select(without=[pattern])
    assert not any(without.takes(path.encode()) for path in taken)


def test_only_and_without_together() -> None:
    selection = select(["etc", "usr/*"], ["*.bak", "usr/share"])
    assert selection.takes(b"etc/x")
    assert not selection.takes(b"etc/x.bak")
    assert not selection.takes(b"usr/share/y")
    assert not selection.takes(b"var")
    assert not selection.everything
    assert select().everything


def test_bytes_that_are_no_text() -> None:
    assert select([b"\xff*"]).takes(b"d/\xff\xfe\n")


def test_a_pattern_that_names_nothing() -> None:
    with pytest.raises(UsageError):
        select(["/"])
