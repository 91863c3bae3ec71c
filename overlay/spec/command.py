"""The target that is a command: any program that can mount a union.

The command's words are split as a shell would and ``{bottom}``, ``{top}``, ``{work}`` and
``{mnt}`` replaced in each; no shell runs.  It may mount and exit, leave a daemon behind,
or stay in the foreground and serve: the mount counts from when the kernel shows it.
"""

from __future__ import annotations

import errno
import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field

from overlay import mountinfo, syscalls
from overlay.errors import EnvironmentLacks, OperationFailed, UsageError
from overlay.spec.calls import Calls, MountedCalls
from overlay.text import printable

__all__ = ["CommandTarget"]

_PLACES = ("{bottom}", "{top}", "{work}", "{mnt}")
_SOON = 1.0  # seconds for a command to exit once it has mounted
_PATIENCE = 10.0  # seconds for a mount to appear, or for a server to end after its unmount


@dataclass(slots=True)
class CommandTarget:
    """Mounts by running ``words``; ``name`` is ``title``, or ``command:`` and the program."""

    words: tuple[str, ...]
    title: str = ""
    #: By mount point, those of mounts that cover others last.
    _servers: dict[str, list[subprocess.Popen[bytes]]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, title: str = "") -> CommandTarget:
        """A command line as typed; UsageError when it cannot work."""
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"--mount-command cannot be split into words: {error}") from None
        missing = [place for place in ("{bottom}", "{top}", "{mnt}") if place not in text]
        if not words or missing:
            raise UsageError(
                f"--mount-command lacks {', '.join(missing) or 'a program'}",
                hint="for example 'fuse-overlayfs -o "
                "lowerdir={bottom},upperdir={top},workdir={work} {mnt}'",
            )
        return cls(words, title)

    @property
    def name(self) -> str:
        return self.title or f"command:{os.path.basename(self.words[0])}"

    def available(self) -> str | None:
        if shutil.which(self.words[0]) is None:
            return f"no program {printable(self.words[0])}"
        return None

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        words = [_filled(word, bottoms, top, work, mnt) for word in self.words]
        # A bottom may be covered in place: only a mount that was not there counts.
        before = _mounts_at(mnt)
        with open("/proc/self/mountinfo", "rb") as mounts:
            server = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            self._servers.setdefault(mnt, []).append(server)
            try:
                self._await_mount(server, mounts.fileno(), mnt, before)
            except BaseException:
                self._end(mnt, kill=True)
                raise

    def by_hand(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> tuple[str, str]:
        # A server may leave the directory that it was started in.
        below, *others = (f"$PWD/{name}" for name in (":$PWD/".join(bottoms), top, work, mnt))
        words = (_filled(word, (below,), *others) for word in self.words)
        said = (f'"{word}"' if "$PWD" in word else shlex.quote(word) for word in words)
        return " ".join(said), f"umount {mnt}"

    def _await_mount(
        self, server: subprocess.Popen[bytes], mounts: int, mnt: str, before: int
    ) -> None:
        """Sleep until the mount appears; the kernel wakes us (proc.rst 3.5: POLLPRI)."""
        deadline = time.monotonic() + _PATIENCE
        waiter = select.poll()
        waiter.register(mounts, select.POLLPRI)
        pidfd = os.pidfd_open(server.pid)
        try:
            waiter.register(pidfd, select.POLLIN)
            while True:
                ended = server.poll() is not None
                if _mounts_at(mnt) > before:
                    return
                if ended:
                    raise EnvironmentLacks(self._why(server))
                left = deadline - time.monotonic()
                if left <= 0 or not waiter.poll(left * 1000):
                    raise OperationFailed(f"{self.name} mounted nothing in {_PATIENCE:.0f} s")
        finally:
            os.close(pidfd)

    def _why(self, server: subprocess.Popen[bytes]) -> str:
        said = b""
        # A daemon it left behind may hold the pipe open: take only what is there now.
        if server.stderr is not None and select.select([server.stderr], [], [], 0)[0]:
            said = os.read(server.stderr.fileno(), 4096)
        line = printable(said.strip().splitlines()[-1]) if said.strip() else "no message"
        return f"{self.name} ended with status {server.returncode} and mounted nothing: {line}"

    def unmount(self, mnt: str) -> None:
        try:
            syscalls.umount2(mnt)
        except OSError as error:
            # A command that mounts and exits may not have let go of its mount yet.
            servers = self._servers.get(mnt)
            if error.errno != errno.EBUSY or not servers or not _ends(servers[-1]):
                raise
            syscalls.umount2(mnt)
        self._end(mnt, kill=False)
        # Process 1 of a namespace, as the runner's worker is, adopts the daemons: they hold
        # their layers until they end.
        if os.getpid() == 1 and not self._servers:
            _await_children()

    def _end(self, mnt: str, *, kill: bool) -> None:
        servers = self._servers.get(mnt)
        if not servers:
            return
        server = servers.pop()
        if not servers:
            del self._servers[mnt]
        if server.stderr is not None:
            server.stderr.close()
        if kill:
            server.kill()
        try:
            server.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    def calls(self, mnt: str) -> Calls:
        return MountedCalls(mnt)

    def features(self, mnt: str) -> frozenset[str]:
        from overlay.spec.targets import overlayfs_features

        entries = [entry for entry in mountinfo.read() if entry.mount_point == mnt]
        if entries and entries[-1].fstype == "overlay":
            return overlayfs_features(mnt)
        return frozenset({entries[-1].fstype} if entries else ())


def _filled(word: str, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> str:
    for place, value in zip(_PLACES, (":".join(bottoms), top, work, mnt), strict=True):
        word = word.replace(place, value)
    return word


def _ends(server: subprocess.Popen[bytes]) -> bool:
    """Whether a command ends by itself, and soon."""
    try:
        server.wait(_SOON)
    except subprocess.TimeoutExpired:
        return False
    return True


def _await_children() -> None:
    """Reap every child; those that do not end in time are left alone."""
    deadline = time.monotonic() + _PATIENCE
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        while True:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
            left = deadline - time.monotonic()
            if left <= 0 or signal.sigtimedwait({signal.SIGCHLD}, left) is None:
                return
    except ChildProcessError:
        return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mounts_at(mnt: str) -> int:
    return sum(entry.mount_point == mnt for entry in mountinfo.read())
