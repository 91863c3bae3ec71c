"""What a person types to have a system call made: each is one line of POSIX shell.

The tools are those of every Debian (coreutils, util-linux, attr, e2fsprogs).  Where a tool
would make other calls than the one that is meant (truncate(1) opens the file, mv(1) copies
after EXDEV), and where there is none, Python makes it.  Names are quoted by the caller.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import shlex
import stat
import time
import zlib
from typing import Final

__all__ = [
    "calling",
    "opening",
    "printing",
    "readable",
    "redirection",
    "seconds",
    "showing",
    "stat_words",
    "value",
]

_ACCESS: Final = os.O_ACCMODE
_DAY: Final = 86400

#: The flags that the shell's redirections open with.
_REDIRECTIONS: Final = {
    os.O_RDONLY: "<",
    os.O_RDWR: "<>",
    os.O_RDWR | os.O_CREAT: "<>",
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC: ">",
    os.O_WRONLY | os.O_CREAT | os.O_APPEND: ">>",
}
_NAMES: Final = ("CREAT", "EXCL", "TRUNC", "APPEND", "DIRECT", "PATH", "DIRECTORY", "NOFOLLOW")


def calling(code: str) -> str:
    """A call that Python makes; ``os`` is imported."""
    return f"python3 -c {shlex.quote('import os; ' + code)}"


def redirection(flags: int) -> str | None:
    """The shell's sign for opening so; None if it has none."""
    return _REDIRECTIONS.get(flags & ~os.O_CLOEXEC)


def opening(name: str, flags: int, mode: int = 0o666) -> str:
    """Open the file and close it again at once; ``name`` is quoted."""
    sign = redirection(flags)
    if sign is not None:
        # Not ":", whose failing redirection ends the whole shell.
        return f"true {sign}{name}"
    how = [("O_RDONLY", "O_WRONLY", "O_RDWR")[flags & _ACCESS]]
    how += [f"O_{word}" for word in _NAMES if _has(flags, getattr(os, f"O_{word}"))]
    words = [json.dumps(shlex.split(name)[0]), " | ".join(f"os.{word}" for word in how)]
    if flags & os.O_CREAT:
        words.append(oct(mode))
    return calling(f"os.close(os.open({', '.join(words)}))")


def _has(flags: int, flag: int) -> bool:
    return flags & flag == flag


def printing(content: bytes) -> str:
    """A command that prints ``content``."""
    if not content:
        return "printf ''"
    if len(content) <= 200:
        return f"printf {_format(content)}"
    if len(set(content)) == 1:
        return _repeated(content)
    lines = content.decode("latin-1").splitlines(keepends=True)
    if content.isascii() and len(set(lines)) == 1:
        return f"yes {shlex.quote(lines[0][:-1])} | head -n {len(lines)}"
    if lines == [f"line {number}\n" for number in range(len(lines))]:
        return f"printf 'line %d\\n' $(seq 0 {len(lines) - 1})"
    return _by_python(content)


@functools.lru_cache(maxsize=256)
def _format(content: bytes) -> str:
    """A quoted format of printf."""
    special = {ord("\n"): "\\n", ord("\\"): "\\\\", ord("%"): "%%", ord("'"): "'\\''"}
    text = "".join(
        special.get(byte, chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in content
    )
    return f"'{text}'"


def _repeated(content: bytes) -> str:
    zeros = f"head -c {len(content)} /dev/zero"
    if content[0] == 0:
        return zeros
    return f"{zeros} | tr '\\0' {shlex.quote(chr(content[0]))}"


def _by_python(content: bytes) -> str:
    packed = base64.b64encode(zlib.compress(content, 9)).decode()
    return calling(
        f'import base64, zlib; os.write(1, zlib.decompress(base64.b64decode("{packed}")))'
    )


def showing(command: str, content: bytes) -> tuple[str, str]:
    """What to type to see what ``command`` prints, which is ``content``; and what is seen."""
    if readable(content):
        return command, content.decode()
    return f"{command} | sha256sum", f"{hashlib.sha256(content).hexdigest()}  -"


def readable(content: bytes) -> bool:
    """Whether a terminal shows it as it is, in a few lines."""
    lines = content.splitlines()
    return len(lines) <= 8 and all(len(line) <= 80 and _printable(line) for line in lines)


def _printable(line: bytes) -> bool:
    return all(32 <= byte < 127 for byte in line)


def value(data: bytes) -> str:
    """An extended attribute's value, for setfattr -v."""
    plain = _printable(data) and not data.lower().startswith((b"0x", b"0s", b'"'))
    return shlex.quote(data.decode()) if data and plain else f"0x{data.hex()}" if data else "''"


def seconds(time_ns: int) -> str:
    """A time as touch -d takes it."""
    return f"@{time_ns // 10**9}.{time_ns % 10**9:09}"


def stat_words(status: os.stat_result) -> tuple[str, str]:
    """The format for stat -c, and what it prints for ``status``: what stays when repeated."""
    words = [("%A", stat.filemode(status.st_mode)), ("%h", str(status.st_nlink))]
    words.append(("%u:%g", f"{status.st_uid}:{status.st_gid}"))
    if stat.S_ISREG(status.st_mode):
        words.append(("%s", str(status.st_size)))
    if stat.S_ISCHR(status.st_mode):
        device = status.st_rdev
        words.append(("%t:%T", f"{os.major(device):x}:{os.minor(device):x}"))
    # A time of today is the time of the run.
    if abs(time.time() - status.st_mtime) > _DAY:
        words.append(("%.9Y", f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09}"))
    formats, values = zip(*words, strict=True)
    return " ".join(formats), " ".join(values)
