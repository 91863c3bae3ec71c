"""What forked processes say to the one that started them: messages, descriptors, errors.

Over a socket pair of type SOCK_SEQPACKET.  A message is a word and plain data, as marshal has
them: both ends are the same interpreter, and json would take 4 ms of their start.
"""

from __future__ import annotations

import marshal
import os
import socket
from contextlib import suppress

from overlay import errors
from overlay.errors import FallthruError, OperationFailed
from overlay.lighttyping import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, NoReturn

__all__ = ["expect", "guarded", "received", "say"]

_MESSAGE: Final = 1 << 20


def guarded(channel: socket.socket, body: Callable[[], NoReturn]) -> NoReturn:
    """Run the body of a forked process; what it raises is raised in the caller."""
    try:
        body()
    except BaseException as error:
        known = error if isinstance(error, FallthruError) else None
        with suppress(OSError):
            say(
                channel,
                "failed",
                {
                    "class": type(known).__name__ if known else "OperationFailed",
                    "message": known.message if known else f"{type(error).__name__}: {error}",
                    "hint": known.hint if known else None,
                    "errno": known.errno if known else 0,
                },
            )
    os._exit(1)


def say(channel: socket.socket, what: str, said: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send the message ``what``, with plain data and descriptors."""
    socket.send_fds(channel, [marshal.dumps((what, said))], list(fds))


def expect(channel: socket.socket, what: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The data and descriptors of the next message, which is ``what``; as :func:`received`."""
    said, values, fds = received(channel)
    assert said == what, said
    return values, fds


def received(channel: socket.socket) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """The next message: its word, data and descriptors.

    Raises what :func:`guarded` caught over there, and OperationFailed when nobody is there.
    """
    message, fds, _, _ = socket.recv_fds(channel, _MESSAGE, 16)
    for fd in fds:
        os.set_inheritable(fd, False)
    if not message:
        raise OperationFailed(
            "what the command was to run in ended unexpectedly",
            hint="it may have been killed: dmesg | tail tells of the OOM killer",
        )
    said, values = marshal.loads(message)
    if said == "failed":
        kind = getattr(errors, values["class"])
        raise kind(values["message"], hint=values["hint"], errno=values["errno"])
    return said, values, tuple(fds)
