"""A throw-away writable view of the whole system, and what a command changed in it.

The tops are on a tmpfs that only descriptors hold: they are gone with the process, however
it ends.  Or they are in a directory, to be kept or because they would not fit.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

from overlay import syscalls
from overlay.assembly import assemble
from overlay.errors import EnvironmentLacks, OperationFailed
from overlay.lighttyping import TYPE_CHECKING, NamedTuple
from overlay.newmount import new_mount
from overlay.roots import enclosure
from overlay.roots import mounts as rootmounts
from overlay.text import printable
from overlay.trials import plan as trialplan
from overlay.trials.plan import Piece, Plan, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Final

__all__ = ["Trial", "memory_size", "run", "writes_of"]

_NAMESPACES: Final = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Trial(NamedTuple):
    """A trial that ended: the command's exit ``code``, and where its changes are.

    ``store`` is a descriptor of the directory with the tops, the caller's to close;
    ``pieces`` are the overlays that were made; ``shown`` is what was meant not to be
    overlaid, ``failed`` what could not.
    """

    code: int
    store: int
    pieces: tuple[Piece, ...]
    shown: tuple[Shown, ...]
    failed: tuple[Shown, ...]
    family: str


def writes_of(environment: dict[str, str]) -> list[str]:
    """The directories that an ordinary user's programs write to."""
    named = [os.path.expanduser("~"), environment.get("TMPDIR", ""), os.getcwd()]
    usual = ["/tmp", "/var/tmp", environment.get("XDG_RUNTIME_DIR", "")]
    return [path for path in (*named, *usual) if path]


def run(
    command: enclosure.Command,
    *,
    directory: str | None = None,
    size: int | None = None,
    shared: Sequence[str] = (),
    as_user: bool = False,
    names: Mapping[str, str] | None = None,
    cleanup: Callable[[], None] | None = None,
) -> Trial:
    """Run ``command`` on a view of the system, and keep what it changed.

    The tops are in ``directory``, or on a tmpfs of ``size`` bytes (default: half of the
    memory).  ``shared`` paths are the real ones.  ``as_user``: in a user namespace.
    ``names`` are those of the tops that are in ``directory`` already, by their places.
    ``cleanup`` is for the case that this process is killed.
    """
    writes = writes_of(dict(command.environment)) if as_user else ()
    plan = trialplan.make(in_pieces=as_user, writes=writes, names=names)
    family = "user" if as_user else "trusted"
    builder = _Builder(plan, family, directory, size, tuple(shared))
    tidy = None if cleanup is None else lambda _pid: cleanup()
    place = enclosure.Enclosure(_NAMESPACES, builder.build, as_user, cleanup=tidy)
    ending = enclosure.run(command, place)
    made = set(ending.report["pieces"])
    failed = tuple(Shown(path, why, read_only=True) for path, why in ending.report["failed"])
    return Trial(
        ending.code,
        ending.fds[0],
        tuple(piece for piece in plan.pieces if piece.name in made),
        tuple(plan.shown),
        failed,
        family,
    )


def memory_size() -> int:
    """Half of the memory that is free: what a trial in memory may take by itself."""
    with open("/proc/meminfo", "rb") as file:
        for line in file:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) * 1024 // 2
    return 1 << 30


class _Builder:
    """Makes the view, as the first process in its namespaces."""

    def __init__(
        self,
        plan: Plan,
        family: str,
        directory: str | None,
        size: int | None,
        shared: tuple[str, ...],
    ) -> None:
        self._plan = plan
        self._family = family
        self._directory = directory
        self._size = size
        self._shared = shared
        self._joints: dict[str, int] = {}
        self._failed: list[tuple[str, str]] = []

    def build(self) -> tuple[dict[str, Any], Sequence[int]]:
        rootmounts.own_mounts()
        store = self._store()
        trees = self._trees(store)
        if self._directory is None:
            syscalls.umount2("/", syscalls.MNT_DETACH)
        root = trees.pop("/")
        rootmounts.step_over(root)
        for path, tree in sorted(trees.items()):
            try:
                self._make_place(path, tree)
                rootmounts.attach(root, path, tree)
            except OSError as error:
                self._failed.append((path, f"left out: {error.strerror}"))
            os.close(tree)
        self._finish_joints()
        if self._directory is not None:
            self._hide(root, self._directory)
        rootmounts.step_into(root)
        os.close(root)
        made = [piece.name for piece in self._plan.pieces if piece.path not in dict(self._failed)]
        return {"pieces": made, "failed": self._failed}, [store]

    def _store(self) -> int:
        if self._directory is not None:
            store = os.open(self._directory, _DIRECTORY)
        else:
            tree = rootmounts.tmpfs(self._size)
            # Older kernels take only layers that are in the namespace: for a moment it covers
            # the root.
            rootmounts.step_over(tree)
            store = os.open(".", _DIRECTORY, dir_fd=tree)
            os.close(tree)
        try:
            os.setxattr(store, f"{self._family}.fallthru.trial", b"")
        except OSError as error:
            where = "memory" if self._directory is None else printable(self._directory)
            raise EnvironmentLacks(
                f"the changes cannot be kept in {where}: no {self._family}.* attributes there",
                hint="name a directory on ext4, xfs or btrfs with --disk",
                errno=error.errno or 0,
            ) from None
        return store

    def _trees(self, store: int) -> dict[str, int]:
        """All mounts of the view, detached, by their paths."""
        trees: dict[str, int] = {}
        for shown in self._plan.shown:
            self._show(trees, shown)
        for piece in self._plan.pieces:
            try:
                trees[piece.path] = self._overlay(store, piece)
            except OSError as error:
                if piece.path == "/":
                    raise OperationFailed(
                        f"the system cannot be overlaid: {error.strerror}",
                        hint="its root may be an overlay on overlays already",
                        errno=error.errno or 0,
                    ) from None
                self._failed.append((piece.path, f"cannot be overlaid: {error.strerror}"))
                self._show(trees, Shown(piece.path, "", read_only=True))
        for path, mode in self._plan.joints:
            if os.path.dirname(path) in self._joints and path != "/":
                name = os.path.basename(path)
                above = self._joints[os.path.dirname(path)]
                os.mkdir(name, mode, dir_fd=above)
                self._joints[path] = os.open(name, _DIRECTORY, dir_fd=above)
            else:
                trees[path] = rootmounts.tmpfs(mode=mode)
                self._joints[path] = os.open(".", _DIRECTORY, dir_fd=trees[path])
        for path, target in self._plan.links:
            os.symlink(target, os.path.basename(path), dir_fd=self._joints[os.path.dirname(path)])
        for path in self._shared:
            trees[os.path.realpath(path)] = rootmounts.clone(path, recursive=True)
        try:
            trees["/proc"] = new_mount("proc")
        except OSError:
            # A container that hides parts of /proc forbids a new one: processes then have
            # other numbers there than they know themselves.
            trees["/proc"] = rootmounts.clone("/proc", recursive=True)
        return trees

    def _show(self, trees: dict[str, int], shown: Shown) -> None:
        try:
            trees[shown.path] = rootmounts.clone(
                shown.path, recursive=shown.recursive, read_only=shown.read_only
            )
        except OSError as error:
            self._failed.append((shown.path, f"left out: {error.strerror}"))

    def _overlay(self, store: int, piece: Piece) -> int:
        with ExitStack() as opened:

            def path_fd(path: str, dir_fd: int | None = None) -> int:
                fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
                opened.callback(os.close, fd)
                return fd

            bottom = path_fd(piece.path)
            with suppress(FileExistsError):
                os.mkdir(piece.name, 0o755, dir_fd=store)
            for name in ("top", "work"):
                with suppress(FileExistsError):
                    os.mkdir(f"{piece.name}/{name}", 0o755, dir_fd=store)
            top = path_fd(f"{piece.name}/top", store)
            work = path_fd(f"{piece.name}/work", store)
            if piece.mode is None:
                _dress_like(top, bottom)
            else:
                os.chmod(syscalls.fd_path(top), piece.mode)
            for way, mode in piece.ways:
                with suppress(FileExistsError):
                    os.mkdir(way, dir_fd=top)
                os.chmod(syscalls.fd_path(top, os.fsencode(way)), mode)
            # In a user namespace overlayfs takes neither redirects nor metacopy.
            profile = "document" if self._family == "user" else "fallthru"
            return assemble([bottom], top, work, profile=profile, family=self._family)

    def _make_place(self, path: str, tree: int) -> None:
        above = self._joints.get(os.path.dirname(path))
        if above is not None and path not in self._joints:
            directory = os.path.isdir(f"/proc/self/fd/{tree}")
            rootmounts.make_place(above, os.path.basename(path), directory=directory)

    def _finish_joints(self) -> None:
        """What has no overlay is not written: a change there would be lost without a word."""
        for fd in self._joints.values():
            with suppress(OSError):  # only the root of a mount, and so of a tmpfs, can be set
                rootmounts.make_read_only(fd)
            os.close(fd)

    @staticmethod
    def _hide(root: int, directory: str) -> None:
        """Cover the tops themselves, where they are a part of what is overlaid."""
        cover = rootmounts.tmpfs(mode=0o000, attributes=syscalls.MOUNT_ATTR_RDONLY)
        with suppress(OSError):  # not to be seen from here anyway
            rootmounts.attach(root, os.path.realpath(directory), cover)
        os.close(cover)


def _dress_like(top: int, bottom: int) -> None:
    """Give a new top what its bottom has: the union's root shows the top's."""
    st, at = os.fstat(bottom), syscalls.fd_path(top)
    os.chown(at, st.st_uid, st.st_gid)
    os.chmod(at, st.st_mode & 0o7777)
    for name in syscalls.listxattr(bottom):
        with suppress(OSError):
            if not name.startswith(("trusted.overlay.", "user.overlay.")):
                os.setxattr(at, name, syscalls.getxattr(bottom, name))
