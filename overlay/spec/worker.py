"""A process that may mount what it likes: nothing it mounts or starts outlives it.

The worker is a forked child in a mount namespace and a process namespace of its own.
When it ends, by itself or killed, the kernel removes every mount it made and kills every
daemon that a mount command left behind; when the parent is killed, the worker is too.
That is why the parent doesn't enter a namespace itself: leaving one again needs the same
privilege once more and a single-threaded process, and a check that crashes or hangs would
take the caller along.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from overlay import syscalls

__all__ = ["Message", "Send", "WorkerSilent", "worker"]

_GRACE = 2.0  # seconds for a killed worker to be gone

Message = dict[str, Any]
Send = Callable[[Message], None]


class WorkerSilent(Exception):
    """The worker said nothing for too long."""


@contextmanager
def worker(body: Callable[[Send], None], *, patience: float) -> Iterator[Iterator[Message]]:
    """Run ``body`` in a fresh worker; yields what it sends, until it ends.

    A message is a JSON object.  Iterating raises WorkerSilent when ``patience`` seconds
    pass between two messages.  A worker that cannot have its namespaces sends
    ``{"unavailable": reason}``.  On leaving the block the worker is gone.
    """
    receiving, sending = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _keeper(parent, receiving, sending, body)
    os.close(sending)
    try:
        yield _messages(receiving, patience)
    finally:
        os.close(receiving)
        # The keeper takes SIGTERM as "kill the worker and reap it", which does nothing
        # to one that has ended already.
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _end(inner: int) -> None:
    """Kill a keeper's worker, and whatever it waits for."""
    os.kill(inner, signal.SIGKILL)
    ends = os.pidfd_open(inner)
    if not select.select([ends], [], [], _GRACE)[0]:
        # A call that a FUSE server has read and does not answer cannot be killed (fs/fuse/
        # dev.c: request_wait_answer()); the end of the server answers it.
        for pid in _inside():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    os.close(ends)


def _inside() -> list[int]:
    """The processes of the namespace that this keeper has made, by their numbers out here."""
    ours, inside = (os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "pid_for_children"))
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if inside != ours and os.readlink(f"/proc/{name}/ns/pid") == inside:
                found.append(int(name))
    return found


def _messages(receiving: int, patience: float) -> Iterator[Message]:
    pending = b""
    waiter = select.poll()
    waiter.register(receiving, select.POLLIN)
    while True:
        if not waiter.poll(patience * 1000):
            raise WorkerSilent
        chunk = os.read(receiving, 65536)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _keeper(parent: int, receiving: int, sending: int, body: Callable[[Send], None]) -> None:
    """The child: makes the namespaces, starts the worker proper as their process 1, waits.

    It takes two processes because a process namespace begins with the next child.
    Never returns.
    """
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
        os.close(receiving)
        send = _sender(sending)
        inner = 0

        def stop(_signal: int, _frame: FrameType | None) -> None:
            if inner:
                _end(inner)
            else:
                os._exit(1)

        signal.signal(signal.SIGTERM, stop)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
            syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
        except OSError as error:
            send({"unavailable": f"mounting needs root (CAP_SYS_ADMIN): {error.strerror}"})
            os._exit(0)
        keeper_alive, worker_side = os.pipe()
        # A worker with nothing to do may have said so before fork() returns here: to be told
        # to stop before its number is known would leave it behind unreaped.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        inner = os.fork()
        if inner == 0:
            _inner(keeper_alive, worker_side, send, body)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.close(sending)
        _, wait_status = os.waitpid(inner, 0)
        status = os.waitstatus_to_exitcode(wait_status)
    finally:
        os._exit(status & 0xFF)


def _inner(keeper_alive: int, worker_side: int, send: Send, body: Callable[[Send], None]) -> None:
    """Process 1 of the new namespace: its end is the end of all in it.  Never returns."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(worker_side)
        # The keeper may have died before the line above: its end of the pipe tells.
        if not select.select([keeper_alive], [], [], 0)[0]:
            body(send)
            status = 0
    except BaseException as error:
        send({"broken": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(status)


def _sender(sending: int) -> Send:
    def send(message: Message) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(sending, data) :]

    return send
