"""A root of its own over bottoms: what it consists of, and how it is put together.

The mounts are made in a mount namespace of its own, and pivot_root() makes the union its
root, "the recommended way to get to a root file system with a writable overlay" (L246).
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from overlay import conflicts, kernel, syscalls
from overlay.errors import OperationFailed, UsageError
from overlay.newmount import new_mount
from overlay.profiles import DEFAULT
from overlay.roots import mounts as rootmounts
from overlay.roots import net
from overlay.text import printable

__all__ = ["NAMESPACES", "Bind", "Builder", "Root", "open_union"]

NAMESPACES: Final = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
)
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
_SAFE: Final = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


@dataclass(frozen=True, slots=True)
class Bind:
    """A path of this system, ``source``, seen at ``place`` in a root."""

    source: str
    place: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Root:
    """What a root consists of.  Without ``top`` its changes are in memory, and lost.

    ``persist`` are paths in it that write through to the uppermost bottom.
    """

    name: str
    bottoms: tuple[str, ...]
    top: str | None = None
    work: str | None = None
    profile: str = DEFAULT
    binds: tuple[Bind, ...] = ()
    persist: tuple[str, ...] = ()
    network: net.Wish = field(default_factory=lambda: net.Wish("none"))
    allow_submounts: bool = False

    @property
    def namespaces(self) -> int:
        return NAMESPACES | (syscalls.CLONE_NEWNET if self.network.own_namespace else 0)


def open_union(root: Root) -> int:
    """The union of a root, detached; checked as ``fallthru mount`` does.

    One in memory is made in a mount namespace that is the caller's alone.
    """
    if root.top is None:
        return _in_memory(root)
    overlay = kernel.Overlay(root.bottoms, root.top, root.work, root.profile)
    return conflicts.open_overlay(overlay, allow_submounts=root.allow_submounts)


def _in_memory(root: Root) -> int:
    from overlay import images
    from overlay.assembly import assemble
    from overlay.privilege import in_user_namespace

    conflicts.check(root.bottoms, "", allow_submounts=root.allow_submounts)
    with ExitStack() as opened:

        def held(fd: int) -> int:
            opened.callback(os.close, fd)
            return fd

        def covering(tree: int) -> None:
            # Before 6.15 ("fs: allow detached mounts in clone_private_mount()") layers have to
            # be in the namespace: for a moment it covers the root.
            rootmounts.step_over(tree)
            opened.callback(syscalls.umount2, "/", syscalls.MNT_DETACH)

        bottoms = []
        for path in root.bottoms:
            if images.is_image(path):
                bottoms.append(held(images.open_image(path).fd))
                covering(bottoms[-1])
                continue
            try:
                bottoms.append(held(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
            except OSError as error:
                raise UsageError(
                    f"the bottom {printable(path)} cannot be opened", errno=error.errno or 0
                ) from None
        store = held(rootmounts.tmpfs())
        covering(store)
        made = []
        for name in ("top", "work"):
            os.mkdir(name, 0o755, dir_fd=store)
            made.append(held(os.open(name, os.O_PATH | os.O_DIRECTORY, dir_fd=store)))
        family = "user" if in_user_namespace() else "trusted"
        profile = "throwaway" if root.profile == DEFAULT else root.profile
        try:
            return assemble(bottoms, *made, profile=profile, family=family)
        except OSError as error:
            raise OperationFailed(
                f"the kernel refused the overlay: {error.strerror}", errno=error.errno or 0
            ) from None


class Builder:
    """Puts a root together as a process in its namespaces, and makes it their root.

    ``union`` is what :func:`open_union` gave, None to make it here: in memory, or where the
    caller has privilege only in the namespaces.  ``link`` is told by whoever connected its network.
    """

    def __init__(self, root: Root, union: int | None, terminal: str | None = None) -> None:
        self._root = root
        self._union = union
        self._terminal = terminal

    def build(self) -> tuple[dict[str, Any], Sequence[int]]:
        rootmounts.own_mounts()
        sources = [(bind, self._source(bind)) for bind in self._binds()]
        hosts = self._hosts_source()
        terminal = None
        if self._terminal is not None:
            terminal = rootmounts.clone(self._terminal, recursive=False)
        tree = open_union(self._root) if self._union is None else self._union
        devices = self._device_sources()
        system = self._kernel_mounts()
        rootmounts.step_over(tree)
        for path, mount in system:
            self._attach(tree, path, mount)
        self._fill_dev(tree, devices, terminal)
        self._name_resolution(tree, hosts)
        for bind, source in sources:
            self._attach(tree, bind.place, source)
        if self._root.network.own_namespace:
            net.loopback_up()
        socket.sethostname(self._root.name)
        rootmounts.step_into(tree)
        os.close(tree)
        return {}, []

    # ----------------------------------------------------------------- what is mounted

    def _binds(self) -> list[Bind]:
        through = []
        for path in self._root.persist:
            holder = next(
                (each for each in self._root.bottoms if os.path.lexists(_below(each, path))), None
            )
            if holder is None:
                raise UsageError(
                    f"no bottom has {printable(path)}, so nothing can be written through to it",
                    hint="make it on a bottom that is a directory",
                )
            through.append(Bind(_below(holder, path), path))
        return [*through, *self._root.binds]

    @staticmethod
    def _source(bind: Bind) -> int:
        try:
            tree = rootmounts.clone(bind.source, recursive=True)
            if bind.read_only:
                syscalls.mount_setattr(
                    tree,
                    "",
                    syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE,
                    attr_set=syscalls.MOUNT_ATTR_RDONLY,
                )
        except OSError as error:
            raise UsageError(
                f"{printable(bind.source)} cannot be bound", errno=error.errno or 0
            ) from None
        return tree

    def _hosts_source(self) -> int | None:
        if not self._root.network.bridge:
            return None
        return rootmounts.clone(net.hosts_file(self._root.network.bridge), recursive=False)

    @staticmethod
    def _device_sources() -> list[tuple[str, int]]:
        return [
            (name, rootmounts.clone(f"/dev/{name}", recursive=False))
            for name in _DEVICES
            if os.path.exists(f"/dev/{name}")
        ]

    def _kernel_mounts(self) -> list[tuple[str, int]]:
        noexec = _SAFE | syscalls.MOUNT_ATTR_NOEXEC
        mounts = [("/proc", new_mount("proc", attributes=noexec))]
        try:
            sys_tree = new_mount("sysfs", attributes=noexec | syscalls.MOUNT_ATTR_RDONLY)
        except OSError:
            # sysfs belongs to the network namespace: where that is another's, it is shown.
            sys_tree = rootmounts.clone("/sys", recursive=True)
        mounts.append(("/sys", sys_tree))
        nosuid = syscalls.MOUNT_ATTR_NOSUID
        mounts.append(("/dev", rootmounts.tmpfs(mode=0o755, attributes=nosuid)))
        mounts.append(("/run", rootmounts.tmpfs(mode=0o755, attributes=_SAFE)))
        return mounts

    @staticmethod
    def _fill_dev(tree: int, devices: list[tuple[str, int]], terminal: int | None) -> None:
        for name, source in devices:
            Builder._attach(tree, f"/dev/{name}", source)
        shm = rootmounts.tmpfs(mode=0o1777, attributes=_SAFE)
        Builder._attach(tree, "/dev/shm", shm)
        options = {"ptmxmode": "0666", "mode": "0620"}
        nosuid = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
        Builder._attach(tree, "/dev/pts", new_mount("devpts", None, options.items(), nosuid))
        with _opened(tree, "dev") as dev:
            for name, target in _LINKS:
                os.symlink(target, name, dir_fd=dev)
        if terminal is not None:
            # A terminal of another devpts has a name in here only if it gets one.
            Builder._attach(tree, "/dev/console", terminal)

    def _name_resolution(self, tree: int, hosts: int | None) -> None:
        kind = self._root.network.kind
        if kind == "none":
            return
        run = "/run/fallthru"
        rootmounts.make_place(tree, run, directory=True)
        servers = _name_servers(keep_local=kind == "host")
        with _opened(tree, run.strip("/")) as directory:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open("resolv.conf", flags, 0o644, dir_fd=directory), "w") as file:
                file.write(servers)
        source = syscalls.open_tree(tree, "run/fallthru/resolv.conf", syscalls.OPEN_TREE_CLONE)
        self._attach_file(tree, "/etc/resolv.conf", source)
        if hosts is not None:
            self._attach_file(tree, "/etc/hosts", hosts)

    @staticmethod
    def _attach_file(tree: int, path: str, source: int) -> None:
        """Attach where a path leads to, which may be a link to what /run does not have yet."""
        for _ in range(8):
            with _opened(tree, os.path.dirname(path).strip("/")) as directory:
                try:
                    target = os.readlink(os.path.basename(path), dir_fd=directory)
                except OSError:
                    break
            path = os.path.normpath(os.path.join(os.path.dirname(path), target))
            with suppress(OSError):
                rootmounts.make_place(tree, os.path.dirname(path), directory=True)
        Builder._attach(tree, path, source)

    @staticmethod
    def _attach(tree: int, path: str, mount: int) -> None:
        try:
            directory = stat.S_ISDIR(os.fstat(mount).st_mode)
            rootmounts.make_place(tree, path, directory=directory)
            rootmounts.attach(tree, path, mount)
        except OSError as error:
            raise OperationFailed(
                f"nothing can be mounted at {printable(path)} of the root",
                hint="the root has something else there",
                errno=error.errno or 0,
            ) from None
        finally:
            os.close(mount)


def _below(directory: str, path: str) -> str:
    return os.path.join(directory, path.strip("/"))


@contextmanager
def _opened(tree: int, path: str) -> Iterator[int]:
    """A directory of the new root, open for the length of a with block."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    fd = syscalls.openat2(tree, path or ".", flags, resolve=resolve)
    try:
        yield fd
    finally:
        os.close(fd)


def _name_servers(*, keep_local: bool) -> str:
    """This machine's resolv.conf; without servers that only this machine can reach."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except OSError:
        return ""
    return "".join(line for line in lines if keep_local or not _is_local(line))


def _is_local(line: str) -> bool:
    words = line.split()
    return len(words) > 1 and words[0] == "nameserver" and words[1].startswith(("127.", "::1"))
