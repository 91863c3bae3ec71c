"""Damage to plant in a top, one kind at a time, and what a repair must make of it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from overlay import kernel, workdir
from overlay.kernel import Overlay
from tests.conftest import Layers

__all__ = ["MANY", "PLANTS", "Planted", "Seen", "look", "populate", "visible", "whiteout", "xattr"]

#: What a union shows of a path: a kind and, for files, the content, or the error's number.
Seen = dict[str, tuple[object, ...]]

BIG = "0123456789"


def xattr(path: Path, mark: str, value: bytes = b"y", family: str = "trusted") -> None:
    os.setxattr(path, f"{family}.overlay.{mark}", value, follow_symlinks=False)


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def stub(path: Path, size: int, redirect: bytes | None = None, value: bytes = b"") -> None:
    with path.open("wb") as file:
        file.truncate(size)
    xattr(path, "metacopy", value)
    if redirect is not None:
        xattr(path, "redirect", redirect)


def populate(layers: Layers) -> None:
    """A small healthy union: merged, moved, new and hidden things."""
    for name in ("dir", "keep", "other"):
        (layers.bottom / name).mkdir()
        (layers.bottom / name / "a").write_text(f"{name}/a")
        (layers.bottom / name / "b").write_text(f"{name}/b")
    (layers.bottom / "file").write_text(BIG)
    (layers.bottom / "gone").write_text("deleted")
    (layers.top / "dir").mkdir()
    (layers.top / "dir" / "mine").write_text("user data")
    (layers.top / "mine").write_text("user data")
    whiteout(layers.top / "gone")


def look(directory: Path) -> Seen:
    """Everything that readdir shows below ``directory``, with what reading it gives."""
    seen: Seen = {}
    pending = [directory]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            name = str(path.relative_to(directory))
            try:
                mode = path.lstat().st_mode
                if stat.S_ISDIR(mode):
                    list(path.iterdir())
                    seen[name] = ("dir",)
                    pending.append(path)
                elif stat.S_ISREG(mode):
                    seen[name] = ("file", path.read_bytes())
                else:
                    seen[name] = ("other", stat.S_IFMT(mode))
            except OSError as error:
                seen[name] = ("error", error.errno)
    return seen


def visible(layers: Layers) -> Seen:
    """What a kernel mount shows."""
    overlay = Overlay((str(layers.bottom),), str(layers.top), profile="fallthru")
    with kernel.mounted(overlay, str(layers.mnt)):
        return look(layers.mnt)


@dataclass
class Planted:
    """What was planted: the one finding expected, as (layer, path), and what changes of the
    visible tree when it is repaired (None: not there any more).  ``hurts_mount``: before the
    repair the kernel refuses the top, or cleans up by itself, so nothing is compared."""

    path: str
    changes: dict[str, tuple[object, ...] | None] = field(default_factory=dict)
    layer: str = "top"
    notes: bool = False
    hurts_mount: bool = False


PLANTS: dict[str, tuple[str, Callable[[Layers], Planted]]] = {}


def plants(code: str) -> Callable[[Callable[[Layers], Planted]], Callable[[Layers], Planted]]:
    def register(plant: Callable[[Layers], Planted]) -> Callable[[Layers], Planted]:
        PLANTS[plant.__name__] = (code, plant)
        return plant

    return register


@plants("whiteout-nothing")
def whiteout_over_nothing(layers: Layers) -> Planted:
    whiteout(layers.top / "dir" / "none")
    return Planted("dir/none")


@plants("whiteout-nothing")
def whiteout_in_a_new_directory(layers: Layers) -> Planted:
    (layers.top / "new").mkdir()
    whiteout(layers.top / "new" / "none")
    return Planted("new/none", {"new/none": None})


@plants("whiteout-nothing")
def xattr_whiteout_over_nothing(layers: Layers) -> Planted:
    xattr(layers.top / "dir", "opaque", b"x")
    (layers.top / "dir" / "none").touch()
    xattr(layers.top / "dir" / "none", "whiteout")
    return Planted("dir/none", {"dir/none": None})


@plants("whiteout-opaque")
def whiteout_in_an_opaque_directory(layers: Layers) -> Planted:
    (layers.top / "keep").mkdir()
    xattr(layers.top / "keep", "opaque")
    whiteout(layers.top / "keep" / "a")
    return Planted("keep/a", {"keep/a": None})


@plants("xattr-whiteout-outside")
def xattr_whiteout_in_an_unmarked_directory(layers: Layers) -> Planted:
    (layers.top / "dir" / "a").touch()
    xattr(layers.top / "dir" / "a", "whiteout")
    return Planted("dir/a")


@plants("mark-misplaced")
def opaque_file(layers: Layers) -> Planted:
    xattr(layers.top / "mine", "opaque")
    return Planted("mine")


@plants("mark-misplaced")
def metacopy_directory(layers: Layers) -> Planted:
    xattr(layers.top / "dir", "metacopy", b"")
    return Planted("dir")


@plants("mark-misplaced")
def redirected_symlink(layers: Layers) -> Planted:
    (layers.top / "link").symlink_to("dir")
    xattr(layers.top / "link", "redirect", b"/keep")
    return Planted("link")


@plants("mark-misplaced")
def whiteout_with_data(layers: Layers) -> Planted:
    xattr(layers.top / "mine", "whiteout")
    return Planted("mine")


@plants("mark-misplaced")
def opaque_root(layers: Layers) -> Planted:
    xattr(layers.top, "opaque")
    return Planted("")


@plants("mark-value")
def opaque_maybe(layers: Layers) -> Planted:
    xattr(layers.top / "dir", "opaque", b"yes")
    return Planted("dir")


@plants("wrong-family")
def opaque_of_the_other_family(layers: Layers) -> Planted:
    (layers.top / "other").mkdir()
    (layers.top / "other" / "mine").write_text("user data")
    xattr(layers.top / "other", "opaque", family="user")
    return Planted("other", {"other/a": None, "other/b": None})


def _redirect(layers: Layers, name: str, to: bytes) -> Path:
    (layers.top / name).mkdir()
    (layers.top / name / "own").write_text("user data")
    xattr(layers.top / name, "redirect", to)
    return layers.top / name


@plants("redirect-invalid")
def redirect_with_two_relative_names(layers: Layers) -> Planted:
    _redirect(layers, "moved", b"keep/sub")
    return Planted("moved", {"moved": ("dir",), "moved/own": ("file", b"user data")})


@plants("redirect-leaves")
def redirect_out_of_the_layer(layers: Layers) -> Planted:
    _redirect(layers, "moved", b"/../keep")
    return Planted("moved", {"moved": ("dir",), "moved/own": ("file", b"user data")})


@plants("redirect-gone")
def redirect_to_nothing(layers: Layers) -> Planted:
    # What has its name below must not come to light when the redirect goes.
    _redirect(layers, "keep", b"/nowhere")
    return Planted("keep")


@plants("redirect-type")
def redirect_to_a_file(layers: Layers) -> Planted:
    _redirect(layers, "moved", b"/file")
    whiteout(layers.top / "file")
    return Planted("moved")


@plants("redirect-duplicate")
def two_redirects_to_one_directory(layers: Layers) -> Planted:
    _redirect(layers, "moved1", b"/keep")
    _redirect(layers, "moved2", b"/keep")
    whiteout(layers.top / "keep")
    own = {f"{name}/own": ("file", b"user data") for name in ("moved1", "moved2")}
    shown = {f"moved1/{name}": ("file", f"keep/{name}".encode()) for name in "ab"}
    hidden = {"moved2/a": None, "moved2/b": None}
    return Planted("moved2", {"moved1": ("dir",), "moved2": ("dir",), **own, **shown, **hidden})


@plants("redirect-duplicate")
def redirect_to_a_directory_that_is_shown(layers: Layers) -> Planted:
    _redirect(layers, "moved", b"/keep")
    shown = {f"keep/{name}": ("file", f"keep/{name}".encode()) for name in "ab"}
    own = {"moved/own": ("file", b"user data"), "moved/a": None, "moved/b": None}
    return Planted("moved", {"keep": ("dir",), **shown, "moved": ("dir",), **own})


@plants("redirect-duplicate")
def redirect_into_a_moved_directory(layers: Layers) -> Planted:
    (layers.bottom / "keep" / "sub").mkdir()
    _redirect(layers, "moved", b"/keep")
    whiteout(layers.top / "keep")
    _redirect(layers, "part", b"/keep/sub")
    return Planted(
        "part",
        {
            "moved/sub": ("dir",),
            "part": ("dir",),
            "part/own": ("file", b"user data"),
        },
    )


@plants("redirect-loop")
def redirect_to_what_holds_it(layers: Layers) -> Planted:
    (layers.top / "keep").mkdir()
    _redirect(layers, "keep/inner", b"/keep")
    shown = {f"keep/{name}": ("file", f"keep/{name}".encode()) for name in "ab"}
    inner = {"keep/inner/own": ("file", b"user data"), "keep/inner/a": None, "keep/inner/b": None}
    return Planted("keep/inner", {**shown, "keep/inner": ("dir",), **inner})


@plants("redirect-duplicate")
def two_stubs_of_one_file(layers: Layers) -> Planted:
    stub(layers.top / "copy", len(BIG), b"/file")
    return Planted("copy", {"copy": None, "file": ("file", BIG.encode())})


@plants("metacopy-invalid")
def metacopy_of_nonsense(layers: Layers) -> Planted:
    stub(layers.top / "file", len(BIG), value=b"\1\2")
    return Planted("file", {"file": ("file", BIG.encode())})


@plants("stub-gone")
def fallthru_to_nothing(layers: Layers) -> Planted:
    (layers.top / "keep").mkdir()
    xattr(layers.top / "keep", "opaque")
    stub(layers.top / "keep" / "a", 6, b"/keep/vanished")
    return Planted("keep/a", {"keep/a": None})


@plants("stub-gone")
def metacopy_without_data_below(layers: Layers) -> Planted:
    stub(layers.top / "lost", 6)
    return Planted("lost", {"lost": None})


@plants("stub-type")
def fallthru_to_a_directory(layers: Layers) -> Planted:
    stub(layers.top / "keep", 6)
    shown = {f"keep/{name}": ("file", f"keep/{name}".encode()) for name in "ab"}
    return Planted("keep", {"keep": ("dir",), **shown})


@plants("stub-size")
def fallthru_of_another_size(layers: Layers) -> Planted:
    stub(layers.top / "file", 4)
    return Planted("file", {"file": ("file", BIG.encode())})


@plants("leftover")
def temporary_name_in_the_top(layers: Layers) -> Planted:
    (layers.top / "dir" / ".fallthru-12-3").write_text("user data")
    return Planted("dir/.fallthru-12-3", {"dir/.fallthru-12-3": None})


@plants("opaque-needless")
def opaque_where_nothing_is_below(layers: Layers) -> Planted:
    (layers.top / "new" / "sub").mkdir(parents=True)
    xattr(layers.top / "new" / "sub", "opaque")
    return Planted("new/sub", notes=True)


@plants("x-needless")
def marked_for_whiteouts_without_any(layers: Layers) -> Planted:
    xattr(layers.top / "dir", "opaque", b"x")
    return Planted("dir", notes=True)


@plants("impure-missing")
def copied_up_file_in_a_pure_directory(layers: Layers) -> Planted:
    (layers.top / "new").mkdir()
    (layers.top / "new" / "f").write_text("user data")
    xattr(layers.top / "new" / "f", "origin", b"")
    return Planted("new", notes=True)


@plants("redirect-stale")
def redirect_left_by_a_copyup(layers: Layers) -> Planted:
    xattr(layers.top / "mine", "redirect", b"/file")
    return Planted("mine", notes=True)


@plants("root-origin")
def top_of_another_bottom(layers: Layers) -> Planted:
    elsewhere = layers.base / "elsewhere"
    shutil.copytree(layers.bottom, elsewhere)
    overlay = Overlay((str(elsewhere),), str(layers.top), profile="fallthru")
    with kernel.mounted(overlay, str(layers.mnt)):
        pass
    return Planted("", hurts_mount=True)


@plants("index-top")
def index_of_another_top(layers: Layers) -> Planted:
    visible(layers)
    layers.top.rename(layers.base / "first")
    subprocess.run(["cp", "-a", str(layers.base / "first"), str(layers.top)], check=True)
    return Planted("index", layer="work", hurts_mount=True)


@plants("index-invalid")
def index_entry_of_no_handle(layers: Layers) -> Planted:
    (layers.work / "index").mkdir()
    (layers.work / "index" / "garbage").write_text("user data")
    return Planted("index/garbage", layer="work", hurts_mount=True)


@plants("index-leftover")
def index_entry_half_made(layers: Layers) -> Planted:
    visible(layers)
    (layers.work / "index" / "#1f").touch()
    return Planted("index/#1f", layer="work", hurts_mount=True)


def _indexed(layers: Layers) -> Path:
    """The index entry that the kernel makes for a hard link of the bottom."""
    (layers.bottom / "link1").write_text("linked")
    (layers.bottom / "link2").hardlink_to(layers.bottom / "link1")
    overlay = Overlay((str(layers.bottom),), str(layers.top), profile="fallthru")
    with kernel.mounted(overlay, str(layers.mnt)):
        (layers.mnt / "link1").write_text("user data")
    (entry,) = (layers.work / "index").iterdir()
    return entry


@plants("index-dangling")
def index_entry_of_another_file(layers: Layers) -> Planted:
    entry = _indexed(layers)
    xattr(entry, "origin", b"")
    return Planted(f"index/{entry.name}", layer="work", hurts_mount=True)


@plants("index-orphan")
def index_entry_without_names(layers: Layers) -> Planted:
    entry = _indexed(layers)
    (layers.top / "link1").unlink()
    whiteout(layers.top / "link1")
    whiteout(layers.top / "link2")
    entry.write_text("deleted by its user")
    xattr(entry, "nlink", b"U-1")
    return Planted(f"index/{entry.name}", layer="work", hurts_mount=True)


@plants("work-leftover")
def deep_leftovers_of_a_crash(layers: Layers) -> Planted:
    (layers.work / "work" / "#2a" / "b" / "c" / "d").mkdir(parents=True)
    (layers.work / "work" / "#2a" / "b" / "c" / "f").write_text("half made")
    return Planted("work/#2a", layer="work", hurts_mount=True)


@plants("work-leftover")
def leftover_of_our_own(layers: Layers) -> Planted:
    (layers.work / ".fallthru-12-3").write_text("half made")
    return Planted(".fallthru-12-3", layer="work")


@plants("volatile")
def volatile_mount(layers: Layers) -> Planted:
    overlay = Overlay((str(layers.bottom),), str(layers.top), profile="throwaway")
    with kernel.mounted(overlay, str(layers.mnt)):
        pass
    return Planted("work/incompat/volatile", layer="work", hurts_mount=True)


@plants("stubs-flag")
def work_directory_that_denies_the_stubs(layers: Layers) -> Planted:
    stub(layers.top / "file", len(BIG))
    fd = os.open(layers.work, os.O_RDONLY)
    try:
        workdir.remember(fd, "trusted", b"no")
    finally:
        os.close(fd)
    return Planted("", layer="work")


#: Plants that do not get in each other's way, for tests of much damage at once.
MANY = [
    "whiteout_over_nothing",
    "opaque_file",
    "redirected_symlink",
    "redirect_to_what_holds_it",
    "fallthru_of_another_size",
    "metacopy_without_data_below",
    "temporary_name_in_the_top",
    "whiteout_in_a_new_directory",
    "xattr_whiteout_in_an_unmarked_directory",
    "index_entry_of_no_handle",
    "deep_leftovers_of_a_crash",
    "leftover_of_our_own",
    "opaque_of_the_other_family",
]
