"""Steps and layers as shell commands: common tools, and Python for what no tool can do.

Paths are relative to the current directory; users are 0, 1000 and 1001.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from overlay import acl
from overlay.spec import shell
from overlay.spec.fuzz.layers import OLD, Plant
from overlay.spec.fuzz.steps import OPERATIONS, Step

__all__ = ["asking", "command", "functions", "planting", "quoted"]

_AS: Final = """\
as() { # USER COMMAND...
  who=$1; shift
  case $who in
    root) "$@" ;;
    alice) setpriv --reuid 1000 --regid 1000 --clear-groups -- "$@" ;;
    bob) setpriv --reuid 1001 --regid 1001 --groups 1000 -- "$@" ;;
  esac
}"""

#: The function ``call``, around those of :data:`_HELPERS` that are used.
_CALL: Final = """\
call() { # USER EXPRESSION: what a system call answers, or the name of its errno
  python3 -c '
import ctypes, errno, fcntl, hashlib, os, stat, struct, sys
%sdef shown(found):
    if found is None: return "succeeds"
    if isinstance(found, bytes):
        if len(found) <= 32: return repr(found)[1:] if found else "empty"
        return f"{len(found)} bytes, sha256 {hashlib.sha256(found).hexdigest()[:12]}"
    if isinstance(found, list): return " ".join(sorted(found)) or "nothing"
    return " ".join(map(str, found)) if isinstance(found, tuple) else found
who, groups = {"root": (0, []), "alice": (1000, []), "bob": (1001, [1000])}[sys.argv[1]]
os.umask(0o022); os.setgroups(groups); os.setegid(who); os.seteuid(who)
try: print(shown(eval(sys.argv[2])))
except OSError as error: print(errno.errorcode[error.errno])
' "$1" "$2"
}"""

_HELPERS: Final = {
    "opened(": """\
def opened(path, flags, mode, data):
    fd = os.open(path, flags | os.O_NONBLOCK, mode)
    st = os.fstat(fd)
    if flags & os.O_PATH or not stat.S_ISREG(st.st_mode): return stat.filemode(st.st_mode)[0]
    if flags & os.O_DIRECT: return "direct"
    if flags & 3 != os.O_RDONLY: os.write(fd, data)
    return None if flags & 3 == os.O_WRONLY else os.pread(fd, 1 << 20, 0)
""",
    "linked(": """\
def linked(old, new, follow):
    here = os.open(".", os.O_PATH)
    os.link(old, new, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=follow)
""",
    "renamed(": """\
def renamed(old, new, flags):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "")
""",
    "flagged(": """\
def ioctl(path, number, value):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    return struct.unpack("l", fcntl.ioctl(fd, number, struct.pack("l", value)))[0]
def flagged(path, flags):
    before = ioctl(path, 0x80086601, 0)
    ioctl(path, 0x40086602, before & ~0x30 | flags)
    return before, ioctl(path, 0x80086601, 0)
""",
    "looked(": """\
def looked(path, follow):
    st = os.stat(path, follow_symlinks=follow)
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    return stat.filemode(st.st_mode), f"{st.st_uid}:{st.st_gid}", size
""",
    "accessed(": """\
def accessed(path, mode):
    if not os.access(path, mode, effective_ids=True): os.stat(path); return "denied"
""",
}


def functions(lines: Sequence[str]) -> Iterator[str]:
    """The shell functions ``as`` and ``call``, as far as ``lines`` of a script use them."""
    if any(line.startswith("as ") for line in lines):
        yield _AS
    calls = [line for line in lines if "call " in line]
    if calls:
        used = (text for name, text in _HELPERS.items() if any(name in line for line in calls))
        yield _CALL % "".join(used)


def command(step: Step, *, exact: bool = False) -> str:
    """A step as one line: by a tool that does the same, or (or if ``exact``) by ``call``."""
    by_tool = None if exact else _by_tool(step)
    if by_tool is None:
        return f"{asking(step)} >/dev/null"
    return by_tool if step.user == "root" else f"as {step.user} {by_tool}"


def asking(step: Step) -> str:
    """The same as one line that prints the answer."""
    return f"call {step.user} {quoted(_expression(step))}"


def quoted(text: str) -> str:
    """In double quotes: Python's own are single ones."""
    return '"' + re.sub(r'([$"`\\])', r"\\\1", text) + '"'


def _by_tool(step: Step) -> str | None:
    make = _TOOLS.get(step.operation)
    return None if make is None else make(*step.arguments)


def _mkdir(path: str, mode: int) -> str | None:
    return None if mode & 0o7000 else f"mkdir -m {mode & ~0o022:04o} {_q(path)}"


def _chown(path: str, uid: int, gid: int, follow: bool) -> str | None:
    owner, group = ("" if number < 0 else str(number) for number in (uid, gid))
    whose = f"{owner}:{group}" if group else owner
    return f"chown {_h(follow)}{whose} {_q(path)}" if whose else None


def _mknod(path: str, kind: tuple[int, int], mode: int) -> str | None:
    form, device = kind
    numbers = f"c {os.major(device)} {os.minor(device)}" if form == stat.S_IFCHR else "p"
    known = form in (stat.S_IFCHR, stat.S_IFIFO)
    return f"mknod -m {mode & 0o755:04o} {_q(path)} {numbers}" if known else None


def _setxattr(path: str, pair: tuple[str, bytes], flags: int, follow: bool) -> str | None:
    name, value = pair
    return None if flags else f"setfattr {_h(follow)}-n {name} -v {shell.value(value)} {_q(path)}"


def _h(follow: bool) -> str:
    return "" if follow else "-h "


_q = shlex.quote

#: By operation, what makes the line of a tool, or None where no tool does that.
_TOOLS: Final[dict[str, Callable[..., str | None]]] = {
    "unlink": lambda path: f"unlink {_q(path)}",
    "rmdir": lambda path: f"rmdir {_q(path)}",
    "mkdir": _mkdir,
    "symlink": lambda to, path: f"ln -sT {_q(to)} {_q(path)}",
    "link": lambda old, new, follow: None if follow else f"link {_q(old)} {_q(new)}",
    # Five digits: with fewer chmod(1) lets a directory keep its set-id bits.
    "chmod": lambda path, mode: f"chmod 0{mode:04o} {_q(path)}",
    "chown": _chown,
    "utime": lambda path, ns, follow: None if ns else f"touch -c {_h(follow)}{_q(path)}",
    "truncate": lambda path, size: None if size < 0 else f"truncate -c -s {size} {_q(path)}",
    "setxattr": _setxattr,
    "removexattr": lambda path, name, follow: f"setfattr {_h(follow)}-x {name} {_q(path)}",
    "setacl": lambda path, which, value: f"{_setfacl(which, value)} {_q(path)}",
    "removeacl": lambda path, which: f"setfattr -x {which} {_q(path)}",
    "readdir": lambda path: f"ls -A {_q(path)} >/dev/null",
    "mknod": _mknod,
}


def _expression(step: Step) -> str:
    """The step as the Python expression that ``call`` takes."""
    make = _EXPRESSIONS.get(step.operation)
    if make is not None:
        return make(*step.arguments)
    arguments, follow = list(step.arguments), ""
    if OPERATIONS[step.operation][-1] == "follow":
        follow = f", follow_symlinks={arguments.pop()}"
    told = (
        f"{value:#o}" if kind == "mode" else repr(value)
        for kind, value in zip(OPERATIONS[step.operation], arguments, strict=False)
    )
    return f"os.{step.operation}({', '.join(told)}{follow})"


def _setting(path: str, pair: tuple[str, bytes], flags: int, follow: bool) -> str:
    given = f"{path!r}, {pair[0]!r}, {pair[1]!r}, {flags}"
    return f"os.setxattr({given}, follow_symlinks={follow})"


def _touching(path: str, ns: tuple[int, int] | None, follow: bool) -> str:
    return f"os.utime({path!r}{f', ns={ns!r}' if ns else ''}, follow_symlinks={follow})"


#: By operation, what makes the expression where it is no plain call of ``os``.
_EXPRESSIONS: Final[dict[str, Callable[..., str]]] = {
    "open": lambda path, flags, mode, data: f"opened({path!r}, {flags:#o}, {mode:#o}, {data!r})",
    "write": lambda path, data: f"opened({path!r}, os.O_WRONLY, 0, {data!r})",
    "link": lambda old, new, follow: f"linked({old!r}, {new!r}, {follow})",
    "rename": lambda old, new, flags: (
        f"renamed({old!r}, {new!r}, {flags})" if flags else f"os.rename({old!r}, {new!r})"
    ),
    "mknod": lambda path, kind, mode: f"os.mknod({path!r}, {kind[0] | mode & 0o777:#o}, {kind[1]})",
    "setxattr": _setting,
    "setacl": lambda path, which, value: f"os.setxattr({path!r}, {which!r}, {value!r})",
    "removeacl": lambda path, which: f"os.removexattr({path!r}, {which!r})",
    "utime": _touching,
    "chattr": lambda path, flags: f"flagged({path!r}, {flags:#x})",
    "stat": lambda path, follow: f"looked({path!r}, {follow})",
    "access": lambda path, mode: f"accessed({path!r}, {mode})",
    "readdir": lambda path: f"os.listdir({path!r})",
    "readlink": lambda path: f"os.fsencode(os.readlink({path!r}))",
}


def _setfacl(which: str, value: bytes) -> str:
    letters = {acl.Tag.USER_OBJ: "u:", acl.Tag.USER: "u", acl.Tag.GROUP_OBJ: "g:"}
    letters |= {acl.Tag.GROUP: "g", acl.Tag.MASK: "m:", acl.Tag.OTHER: "o:"}
    try:
        entries = acl.parse(value)
    except OSError:
        return f"setfattr -n {which} -v 0x{value.hex()}"
    told = []
    for entry in entries:
        who = f":{entry.who}:" if entry.tag in (acl.Tag.USER, acl.Tag.GROUP) else ":"
        bits = "".join(c if entry.perm & bit else "-" for c, bit in (("r", 4), ("w", 2), ("x", 1)))
        told.append(letters[entry.tag] + who + bits)
    return f"setfacl {'-d ' if which == acl.DEFAULT else ''}--set {','.join(told)}"


# ------------------------------------------------------------------------------- layers


def planting(root: str, plants: Sequence[Plant]) -> Iterator[str]:
    """Commands that make a layer in the directory ``root``, which they make, too."""
    yield f"mkdir {root}"
    inherited = []  # access lists that what is made later would have from its directory
    for entry in plants:
        path = shlex.quote(os.path.normpath(os.path.join(root, entry.path)))
        if entry.path != ".":
            yield _making(root, path, entry)
        if entry.kind == "link":
            continue
        if entry.owner != (0, 0):
            yield f"chown -h {entry.owner[0]}:{entry.owner[1]} {path}"
        if entry.kind != "symlink" and entry.mode != (0o755 if entry.kind == "dir" else 0o644):
            yield f"chmod 0{entry.mode:04o} {path}"
        for name, value in entry.xattrs:
            if name == acl.DEFAULT:
                inherited.append(f"{_setfacl(name, value)} {path}")
            elif name == acl.ACCESS:
                yield f"{_setfacl(name, value)} {path}"
            else:
                yield f"setfattr -h -n {name} -v {shell.value(value)} {path}"
    yield from inherited
    for entry in reversed(plants):
        if entry.kind != "link" and entry.mtime_ns != OLD:
            path = shlex.quote(os.path.normpath(os.path.join(root, entry.path)))
            yield f"touch -h -d {shell.seconds(entry.mtime_ns)} {path}"
    if all(entry.mtime_ns == OLD for entry in plants):
        yield f"find {root} -depth -exec touch -h -d {shell.seconds(OLD)} {{}} +"


def _making(root: str, path: str, entry: Plant) -> str:
    match entry.kind:
        case "dir":
            return f"mkdir {path}"
        case "symlink":
            return f"ln -s {shlex.quote(os.fsdecode(entry.content))} {path}"
        case "link":
            first = os.path.normpath(os.path.join(root, os.fsdecode(entry.content)))
            return f"ln {shlex.quote(first)} {path}"
        case "fifo":
            return f"mkfifo {path}"
        case "device" | "block device":
            letter = "c" if entry.kind == "device" else "b"
            return f"mknod {path} {letter} {os.major(entry.device)} {os.minor(entry.device)}"
        case "socket":
            made = f"import os, stat; os.mknod({os.fsdecode(path)!r}, stat.S_IFSOCK | 0o644)"
            return f"python3 -c {shlex.quote(made)}"
    return _filling(path, entry.content)


def _filling(path: str, content: bytes) -> str:
    if content and not content.strip(b"\0"):
        return f"truncate -s {len(content)} {path}"
    unit = b"old content"
    if len(content) > len(unit) and content == unit * (len(content) // len(unit)):
        return f"printf '{unit.decode()}%.0s' $(seq {len(content) // len(unit)}) >{path}"
    return f"{shell.printing(content)} >{path}"
