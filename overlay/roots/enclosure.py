"""A command in namespaces of its own, as if it had been started in the ordinary way.

Four processes: the caller; a doorkeeper, who stays outside and waits; the first process in
the namespaces, which prepares the place, starts the command and reaps orphans; and the
command.  When the doorkeeper dies the first process is killed, and the first process of a
PID namespace takes everything in it along; mounts and networks go with their last user.
When the caller dies, by whatever signal, the doorkeeper ends it all and tidies up.

The command keeps the terminal, its session and its process group, so that Ctrl-C, Ctrl-Z
and job control work as usual.  Signals sent to the caller are passed on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from overlay import syscalls
from overlay.channel import expect, guarded, received, say
from overlay.errors import EnvironmentLacks, FallthruError, NoPrivilege, OperationFailed
from overlay.lighttyping import TYPE_CHECKING, NamedTuple
from overlay.roots.supervising import ORPHANED, WATCHED, code_of, supervise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Final, NoReturn, TypeVar

    _Greeting = TypeVar("_Greeting")

__all__ = ["Command", "Enclosure", "Ending", "join", "run", "stand"]

CANNOT_EXECUTE: Final = 126  # as a shell and env(1) report it
NOT_FOUND: Final = 127


class Command(NamedTuple):
    """What to run: its words, environment and directory (inside; "/" where it is missing).

    ``become`` changes to another user, with the root in place, and adds to the environment.
    """

    words: Sequence[str]
    environment: Mapping[str, str] = os.environ
    directory: str = "/"
    become: Callable[[], Mapping[str, str]] | None = None


class Enclosure(NamedTuple):
    """Where to run it: CLONE_NEW* flags, and what makes the place ready.

    ``prepare`` runs as the first process in the namespaces; what it returns, plain data and
    descriptors, gets to the caller.  ``outside`` runs in the caller before it, with the first
    process's number.  ``cleanup`` undoes what stays outside if the caller is killed.

    With ``as_user`` a user namespace is made in which the caller's own ids are the only
    ones, as themselves or, with ``as_root``, as 0.
    """

    namespaces: int
    prepare: Callable[[], tuple[dict[str, Any], Sequence[int]]]
    as_user: bool = False
    as_root: bool = False
    outside: Callable[[int], None] | None = None
    cleanup: Callable[[int], None] | None = None


class Ending(NamedTuple):
    """How the command ended: ``code`` as a shell tells it (128 + N for signal N).

    ``report`` and ``fds`` are what the preparation returned; the descriptors are the caller's.
    """

    code: int
    report: dict[str, Any]
    fds: tuple[int, ...]


def run(command: Command, place: Enclosure) -> Ending:
    """Run ``command`` at ``place`` to its end.

    Errors of the preparation are raised here.  A command that cannot be executed is told on
    standard error, and its code is 126 or 127.
    """

    def greet(channel: socket.socket) -> tuple[dict[str, Any], tuple[int, ...]]:
        # From two processes, in any order.
        told = dict(received(channel)[:2] for _ in ("forked", "entered"))
        if place.outside is not None:
            place.outside(told["forked"]["pid"])
        channel.send(b"go")
        return expect(channel, "prepared")

    (report, fds), code = _supervised(
        lambda channel, mask: _doorkeeper(channel, command, place, mask), greet
    )
    return Ending(code, report, fds)


def join(command: Command, target: int, namespaces: int, enter: Callable[[], None]) -> int:
    """Run ``command`` in the namespaces of the process that the pidfd ``target`` means.

    ``enter`` runs in the process that will start it, still outside.  Returns its exit code,
    as in :class:`Ending`.
    """
    _, code = _supervised(
        lambda channel, mask: _visitor(channel, command, target, namespaces, enter, mask),
        lambda channel: expect(channel, "entered"),
    )
    return code


def _supervised(
    keeper_body: Callable[[socket.socket, Any], NoReturn],
    greet: Callable[[socket.socket], _Greeting],
) -> tuple[_Greeting, int]:
    """Fork a doorkeeper, hear what it says at the beginning, and wait for the command's end."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        keeper = os.fork()
        if keeper == 0:
            mine.close()
            guarded(theirs, lambda: keeper_body(theirs, before))
        theirs.close()
        try:
            greeting = greet(mine)
        except BaseException:
            mine.close()  # whoever waits for a word ends then
            os.waitpid(keeper, 0)
            raise
        supervise(keeper, stop_with=True)
        said, _ = expect(mine, "ended")
        return greeting, said["code"]
    finally:
        mine.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _visitor(
    channel: socket.socket,
    command: Command,
    target: int,
    namespaces: int,
    enter: Callable[[], None],
    mask: Any,
) -> NoReturn:
    caller = os.getppid()
    enter()
    syscalls.setns(target, syscalls.CLONE_NEWPID)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, ORPHANED)
    child = os.fork()
    if child == 0:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        channel.close()
        # All at once (since 5.8): the mount namespace last, and its root becomes ours.
        syscalls.setns(target, namespaces & ~syscalls.CLONE_NEWPID)
        _execute(command, mask)
    say(channel, "entered", {})
    status = supervise(child, orphaned=lambda: os.getppid() != caller)
    say(channel, "ended", {"code": code_of(status)})
    os._exit(0)


def _doorkeeper(channel: socket.socket, command: Command, place: Enclosure, mask: Any) -> NoReturn:
    caller = os.getppid()
    if place.as_user:
        uid, gid = os.geteuid(), os.getegid()
        _enter(syscalls.CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{0 if place.as_root else uid} {uid} 1")
        _write("/proc/self/gid_map", f"{0 if place.as_root else gid} {gid} 1")
    # Only children get into a new PID namespace; the others are left to them.
    _enter(place.namespaces & syscalls.CLONE_NEWPID)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, ORPHANED)
    inside = os.fork()
    if inside == 0:
        guarded(channel, lambda: _first(channel, command, place, mask))
    say(channel, "forked", {"pid": inside})
    channel.close()
    supervise(inside, orphaned=lambda: os.getppid() != caller)
    if os.getppid() != caller and place.cleanup is not None:
        place.cleanup(inside)
    os._exit(0)


def _first(channel: socket.socket, command: Command, place: Enclosure, mask: Any) -> NoReturn:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    _enter(place.namespaces & ~syscalls.CLONE_NEWPID)
    say(channel, "entered", {})
    if channel.recv(16) != b"go":
        os._exit(0)
    report, fds = place.prepare()
    say(channel, "prepared", report, fds)
    for fd in fds:
        os.close(fd)
    child = os.fork()
    if child == 0:
        channel.close()
        _execute(command, mask)
    status = supervise(child, reap_all=True)
    say(channel, "ended", {"code": code_of(status)})
    os._exit(0)


def stand(place: Enclosure) -> int:
    """Make ``place`` and leave it, with nothing in it but a first process; its number.

    That process is cat(1), which reads a pipe that nobody else has.  It costs next to nothing
    and, with SIGCHLD ignored, lets the kernel reap orphans.  It is started before the place
    gets its own root, where there may be no such program, and has said once that it runs and
    needs no more files: pivot_root() then takes it along.  Killing it ends the place.
    """
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    maker = os.fork()
    if maker == 0:
        mine.close()
        guarded(theirs, lambda: _maker(theirs, place))
    theirs.close()
    pid = 0
    try:
        told = dict(received(mine)[:2] for _ in ("forked", "entered"))
        pid = int(told["forked"]["pid"])
        if place.outside is not None:
            place.outside(pid)
        mine.send(b"go")
        expect(mine, "prepared")
    except BaseException:
        if pid:
            os.kill(pid, signal.SIGKILL)
        raise
    finally:
        mine.close()
        os.waitpid(maker, 0)
    return pid


def _maker(channel: socket.socket, place: Enclosure) -> NoReturn:
    os.setsid()
    _silence()
    _enter(place.namespaces & syscalls.CLONE_NEWPID)
    to, answer = os.pipe(), os.pipe()
    first = os.fork()
    if first == 0:
        guarded(channel, lambda: _reader(channel, place, to, answer))
    os.close(answer[1])
    say(channel, "forked", {"pid": first})
    if channel.recv(16) != b"go":
        # The caller was killed, and nobody else knows of it.
        os.kill(first, signal.SIGKILL)
        os._exit(0)
    os.write(to[1], b"?")
    if os.read(answer[0], 1) != b"?":
        raise EnvironmentLacks("cat(1), a root's first process, cannot be run", hint="coreutils")
    target = os.pidfd_open(first)
    builder = os.fork()
    if builder == 0:
        guarded(channel, lambda: _builder(channel, place, target))
    code = code_of(os.waitpid(builder, 0)[1])
    if code > 128:
        raise OperationFailed(f"the root could not be put together: killed by signal {code - 128}")
    os._exit(0)


def _reader(
    channel: socket.socket, place: Enclosure, to: tuple[int, int], answer: tuple[int, int]
) -> NoReturn:
    _enter(place.namespaces & ~syscalls.CLONE_NEWPID)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.dup2(to[0], 0)
    os.dup2(answer[1], 1)
    # The other ends stay with it, so that neither ever breaks.
    os.set_inheritable(to[1], True)
    os.set_inheritable(answer[0], True)
    say(channel, "entered", {})
    os.execvp("cat", ["cat"])


def _builder(channel: socket.socket, place: Enclosure, target: int) -> NoReturn:
    syscalls.setns(target, place.namespaces & ~syscalls.CLONE_NEWPID)
    report, _ = place.prepare()
    say(channel, "prepared", report)
    os._exit(0)


def _silence() -> None:
    """Have nothing to do with the caller's terminal or pipes any more."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _enter(namespaces: int) -> None:
    try:
        syscalls.unshare(namespaces)
    except OSError as error:
        raise NoPrivilege(
            "namespaces of its own are not allowed here",
            hint="an ordinary user needs user namespaces: sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns",
            errno=error.errno or 0,
        ) from None


def _execute(command: Command, mask: Any) -> NoReturn:
    """Become the command; what Python changed for itself is put back."""
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        environment = dict(command.environment)
        if command.become is not None:
            environment.update(command.become())
        try:
            os.chdir(command.directory)
        except OSError:
            os.chdir("/")
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _become(list(command.words), environment)
    except FileNotFoundError:
        _complain(f"fallthru: there is no command {command.words[0]!r}\n", NOT_FOUND)
    except OSError as error:
        _complain(f"fallthru: {command.words[0]}: {error.strerror}\n", CANNOT_EXECUTE)
    except FallthruError as error:
        hint = f"  → {error.hint}\n" if error.hint else ""
        _complain(f"fallthru: {error}\n{hint}", error.exit_code)


def _become(words: list[str], environment: Mapping[str, str]) -> NoReturn:
    """os.execvpe(), which would import warnings first: that takes longer than true(1)."""
    failure: OSError = FileNotFoundError()
    search = environment.get("PATH", os.defpath)
    for directory in [""] if "/" in words[0] else search.split(os.pathsep):
        try:
            os.execve(os.path.join(directory, words[0]), words, environment)
        except OSError as error:
            # What was found and cannot be run is told, wherever else it is looked for.
            if isinstance(failure, FileNotFoundError | NotADirectoryError):
                failure = error
    raise failure


def _complain(text: str, code: int) -> NoReturn:
    os.write(2, text.encode(errors="surrogateescape"))
    os._exit(code)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
