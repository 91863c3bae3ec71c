"""What a call answers: its result in a comparable form, or the name of its errno."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, Final

from overlay.credentials import Credentials
from overlay.spec.calls import Calls, as_user
from overlay.spec.fuzz.steps import OPERATIONS, USERS, Step
from overlay.spec.observe import errno_name, shown

__all__ = ["Answer", "answer", "failed", "told"]

#: None, or a result; a failure is the errno's name.
Answer = Any

_PROTECTING: Final = 0x30
_READ_AT_MOST: Final = 1 << 20


def failed(found: Answer) -> bool:
    """Whether an answer is a failure."""
    return isinstance(found, str) and found in errno.errorcode.values()


def told(found: Answer) -> str:
    """An answer in words."""
    if found is None:
        return "succeeds"
    if isinstance(found, bytes):
        return shown(found)
    if isinstance(found, list):
        names = sorted(os.fsdecode(name) for name in found)
        return " ".join(names) or "nothing"
    if isinstance(found, tuple):
        return " ".join(str(part) for part in found)
    return str(found)


def answer(calls: Calls, step: Step, *, engine: bool) -> Answer:
    """Let the step's user make the call; an engine leaves descriptors to be used as him."""
    who = USERS[step.user]
    try:
        with calls.acting_as(who):
            return _call(calls, step, who if engine else None)
    except OSError as error:
        return errno_name(error)


def _call(side: Any, step: Step, who: Credentials | None) -> Answer:
    arguments, follows = list(step.arguments), OPERATIONS[step.operation][-1:] == ("follow",)
    keywords = {"follow": arguments.pop()} if follows else {}
    match step.operation:
        case "open":
            path, flags, mode, data = arguments
            # A fifo would wait for somebody to open its other end.
            return _use(side.open(path, flags | os.O_NONBLOCK, mode), flags, data, who)
        case "write":
            path, data = arguments
            return _use(side.open(path, os.O_WRONLY | os.O_NONBLOCK, 0), os.O_WRONLY, data, who)
        case "mknod":
            path, (kind, device), mode = arguments
            return side.mknod(path, kind | mode & 0o777, device)
        case "setxattr":
            path, (name, value), flags = arguments
            return side.setxattr(path, name, value, flags, **keywords)
        case "setacl":
            path, which, value = arguments
            return side.setxattr(path, which, value, 0, follow=True)
        case "removeacl":
            return side.removexattr(*arguments, follow=True)
    return _in_comparable_form(step.operation, side, arguments, keywords)


def _in_comparable_form(
    operation: str, side: Any, arguments: list[Any], keywords: dict[str, bool]
) -> Answer:
    match operation:
        case "access":
            try:
                return side.access(*arguments)
            except PermissionError:
                return "denied"  # os.access() does not tell why
        case "chattr":
            path, flags = arguments  # the rest stays, as chattr(1) does it
            before = side.get_flags(path)
            side.set_flags(path, before & ~_PROTECTING | flags)
            return before, side.get_flags(path)
        case "listxattr":
            return sorted(side.listxattr(*arguments, **keywords))
        case "readdir":
            return sorted(entry.name for entry in side.readdir(*arguments))
        case "stat":
            st = side.stat(*arguments, **keywords)
            # The rest of it is compared with the trees.
            size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
            return stat.filemode(st.st_mode), f"{st.st_uid}:{st.st_gid}", size
    return getattr(side, operation)(*arguments, **keywords)


def _use(fd: int, flags: int, data: bytes, who: Credentials | None) -> Answer:
    """Write to and read from a new descriptor, then close it."""
    try:
        if who is not None:
            with as_user(who):
                return _transfer(fd, flags, data)
        return _transfer(fd, flags, data)
    finally:
        os.close(fd)


def _transfer(fd: int, flags: int, data: bytes) -> Answer:
    st = os.fstat(fd)
    if flags & os.O_PATH or not stat.S_ISREG(st.st_mode):
        return stat.filemode(st.st_mode)[0]
    if flags & os.O_DIRECT:
        return "direct"
    if flags & os.O_ACCMODE != os.O_RDONLY:
        os.write(fd, data)
    if flags & os.O_ACCMODE != os.O_WRONLY:
        return os.pread(fd, _READ_AT_MOST, 0)
    return None
