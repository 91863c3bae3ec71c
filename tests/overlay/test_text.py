"""Names become one line of valid text, and different names stay different."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.text import all_printable, file_of, human_bytes, printable


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"/usr/share", "/usr/share"),
        ("/tmp/größe".encode(), "/tmp/größe"),
        (b"a b\\c", "a b\\c"),
        (b"new\nline", "new\\x0aline"),
        (b"back\\slash\n", "back\\\\slash\\x0a"),
        (b"\xff", "\\xff"),
        (b"\x1b[31m", "\\x1b[31m"),
        ("\u2028".encode(), "\\xe2\\x80\\xa8"),
    ],
)
def test_known_names(raw: bytes, shown: str) -> None:
    assert printable(raw) == shown
    assert printable(os.fsdecode(raw)) == shown


@given(st.binary())
def test_any_bytes_become_one_line_that_json_and_terminals_take(raw: bytes) -> None:
    text = printable(raw)
    assert text.isprintable()
    text.encode("utf-8")


@given(st.binary(), st.binary())
def test_escaped_names_are_told_apart(left: bytes, right: bytes) -> None:
    # A name that needed no escape may look like the escaped form of another; two that
    # needed one never look alike.
    def needed(raw: bytes) -> bool:
        return not raw.decode("utf-8", "surrogateescape").isprintable()

    if left != right and needed(left) and needed(right):
        assert printable(left) != printable(right)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 40, "3.0 TiB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert human_bytes(count) == shown


def test_the_file_of_an_error(tmp_path: Path) -> None:
    """Calls on a descriptor put its number where a name would be."""
    name = tmp_path / "no\ndirectory"
    name.touch()
    fd = os.open(name, os.O_RDONLY)
    try:
        with pytest.raises(NotADirectoryError) as by_number:
            os.listdir(fd)
    finally:
        os.close(fd)
    with pytest.raises(NotADirectoryError) as by_name:
        os.listdir(name)
    with pytest.raises(OSError) as without:  # noqa: PT011
        os.close(fd)
    assert by_number.value.filename == fd
    assert file_of(by_number.value) is None
    assert file_of(without.value) is None
    assert file_of(by_name.value) == printable(name)


@pytest.mark.parametrize(
    "paths",
    [
        [],
        [b"plain", "grün".encode(), b"a b"],
        [b"plain", b"tab\t", b"back\\slash"],
        # Halves of one character, which are none together.
        [b"\xc3", b"\xa9"],
    ],
)
def test_many_paths_are_shown_as_one_is(paths: list[bytes]) -> None:
    assert all_printable(paths) == [printable(path) for path in paths]
