"""Compiled probes that are kept: used again, and only when nobody else can have made them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.bpf import objectcache
from overlay.bpf.objects import MapSpec, Object

MADE = Object(
    maps=(MapSpec("m", 1, 4, 8, 16, 0),),
    code={"on_x": bytes(range(16))},
    targets={"sys_exit": 7},
    module_from=9,
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_kept_and_found(place: Path) -> None:
    assert objectcache.find("x") is None
    objectcache.keep("x", MADE)
    assert objectcache.find("x") == MADE
    assert place.stat().st_mode & 0o777 == 0o700
    assert os.listdir(place) == ["x.json"]


def test_what_others_could_have_written_is_not_loaded(place: Path, root: None) -> None:
    objectcache.keep("x", MADE)
    for path, mode, owner in ((place, 0o777, 0), (place / "x.json", 0o620, 0), (place, 0o700, 1)):
        before = path.stat()
        os.chmod(path, mode)
        os.chown(path, owner, -1)
        assert objectcache.find("x") is None, (path, oct(mode), owner)
        os.chown(path, before.st_uid, -1)
        os.chmod(path, before.st_mode & 0o777)
    assert objectcache.find("x") == MADE
    os.rename(place / "x.json", place / "elsewhere")
    os.symlink("elsewhere", place / "x.json")
    assert objectcache.find("x") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"maps": 3}', b"\xff"])
def test_damage_is_no_error(place: Path, content: bytes) -> None:
    objectcache.keep("x", MADE)
    (place / "x.json").write_bytes(content)
    assert objectcache.find("x") is None
    objectcache.keep("x", MADE)
    assert objectcache.find("x") == MADE


def test_the_oldest_go(place: Path) -> None:
    for number in range(11):
        objectcache.keep(f"x{number}", MADE)
        os.utime(place / f"x{number}.json", (number, number))
    objectcache.keep("last", MADE)
    kept = {"last.json", *(f"x{number}.json" for number in range(4, 11))}
    assert set(os.listdir(place)) == kept


def test_no_place_is_no_error(place: Path) -> None:
    place.write_text("in the way")
    objectcache.keep("x", MADE)
    assert objectcache.find("x") is None


def test_a_second_session_does_not_compile(
    tracing: None, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works the same; and what is kept is what was compiled."""
    from tracer import program

    with_compiler = program.build("tracepoint", program.Filters())
    hooks = with_compiler.attached
    with_compiler.close()
    assert len([name for name in os.listdir(place) if name.startswith("tracepoint-")]) == 1
    monkeypatch.setattr(program, "compile_text", None)
    without = program.build("tracepoint", program.Filters())
    assert without.attached == hooks
    without.close()
