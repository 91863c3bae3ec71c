"""A finding as a shell script that anyone can paste: layers, mount, steps, what differs.

The script says ``expected:`` and ``seen:`` and exits with 1 if the two differ, 0 if not.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
from collections.abc import Iterator

from overlay.spec.fuzz.hunt import Finding
from overlay.spec.fuzz.layers import Plant
from overlay.spec.fuzz.session import Found
from overlay.spec.fuzz.shellcalls import asking, command, functions, planting
from overlay.spec.fuzz.steps import REMOUNT, SWAP, Step
from overlay.spec.fuzz.trees import Seen, Tree
from overlay.spec.targets import CommandTarget, Target
from overlay.text import printable

__all__ = ["as_script", "can_mount", "mounting"]


def as_script(finding: Finding, target: Target, *, exact: bool = False) -> str:
    """The whole script.  It makes everything in a tmpfs, and is meant for a mount namespace.

    ``exact``: it makes the very calls that fuzzing made, and looks at the whole tree after
    each step: what is cached may matter.
    """
    case, found = finding.case, finding.found
    probe, expected = _probe(found, case.steps)
    taken = case.steps[:-1] if found.what in ("answer", "hang", "crash") else case.steps
    steps = list(_stepping(taken, finding, exact=exact))
    lines = [
        "#!/bin/sh",
        f"# {target.name}: {printable(str(found))}",
        f"# Found by: fallthru spec fuzz {_naming(target)} --seed {finding.seed}"
        f"   (case {finding.number}, step {finding.steps})",
        "# As root, in a mount namespace: unshare --mount sh THIS-FILE",
        "export LC_ALL=C",
        "umask 022",
        "base=$(mktemp -d) && mount -t tmpfs fuzz $base && chmod 755 $base && cd $base || exit 3",
        "trap 'cd /; umount -R $base; rmdir $base' EXIT",
        "mkdir top top.work mnt",
        "chmod 777 top",
        "",
        "# the bottom",
    ]
    for number, bottom in enumerate(case.bottoms):
        lines += planting("bottom" if number == 0 else f"bottom{number}", bottom)
    lines += ["", *mounting(target, len(case.bottoms))]
    lines += functions([*steps, probe])
    lines += [_LOOK_AROUND] if exact else []
    lines += [_LOOK, "look >$base/before"] if found.what == "bottom" else []
    lines += ["", "# the steps", "start=$(date +%s)", "mounts || exit 3", "cd mnt", *steps]
    lines += [
        "",
        "# what differs",
        f"expected={shlex.quote(expected)}",
        f"seen=$({probe})",
        'printf \'expected: %s\\nseen:     %s\\n\' "$expected" "$seen"',
        '[ "$seen" = "$expected" ]',
    ]
    return "\n".join(lines) + "\n"


_LOOK_AROUND = """\
look_around() {
  find . -type f -exec cat {} + -o -exec ls -la {} + >/dev/null 2>&1
  getfattr -R -h -d -m - . >/dev/null 2>&1
}"""

_LOOK = """\
look() { # everything about the bottom
  (cd $base/bottom; find . -printf '%p %M %U:%G %n %T@ %l\\n' | sort
   find . -type f -exec sha256sum {} + | sort; getfattr -R -h -d -m - -e hex .) 2>&1
}"""


def _naming(target: Target) -> str:
    if isinstance(target, CommandTarget) and not target.title:
        return f"--mount-command {shlex.quote(printable(shlex.join(target.words)))}"
    return f"--target {target.name}"


def _stepping(steps: tuple[Step, ...], finding: Finding, *, exact: bool) -> Iterator[str]:
    swapped = iter(finding.swapped)
    if exact:
        yield "look_around"
    for step in steps:
        if step == SWAP:
            yield from _swapping(next(swapped, ()))
        elif step == REMOUNT:
            yield "mounts_anew"
        else:
            yield command(step, exact=exact)
        if exact:
            yield "look_around"


def can_mount(target: Target) -> bool:
    """Whether a command of a script can mount the target."""
    return target.by_hand(("bottom",), "top", "top.work", "mnt")[0] != ""


def mounting(target: Target, bottoms: int) -> list[str]:
    """Shell functions ``mounts`` and ``mounts_anew`` for a target and so many bottoms."""
    names = ("bottom", *(f"bottom{number}" for number in range(1, bottoms)))
    mount, unmount = target.by_hand(names, "top", "top.work", "mnt")
    mount = mount or f"echo 'mount {target.name} here' >&2; false"
    lines = [f"  cd $base; {mount} >/dev/null"]
    if isinstance(target, CommandTarget):
        # It may stay and serve: mounted is what the kernel says is mounted.
        waits = "for _ in $(seq 100); do mountpoint -q mnt && return; sleep 0.1; done; false"
        lines = [f"  cd $base; {mount} >/dev/null 2>&1 &", f"  {waits}"]
    return [
        "mounts() {",
        *lines,
        "}",
        "mounts_anew() {",
        f"  cd $base; {unmount or 'umount mnt'}; mounts && cd mnt",
        "}",
    ]


def _swapping(top: tuple[Plant, ...]) -> Iterator[str]:
    """The target goes on with another top, as another driver has written it."""
    yield "cd $base; umount mnt; rm -rf top top.work; mkdir top.work"
    yield from planting("top", top)
    yield "mounts && cd mnt"


# ----------------------------------------------------------------- what a tool says of it


def _probe(found: Found, steps: tuple[Step, ...]) -> tuple[str, str]:
    """(a command that prints what is seen, what it should print)."""
    difference = found.difference
    match found.what:
        case "answer":
            step = steps[-1]
            return asking(step), difference.expected
        case "hang" | "crash":
            last = steps[-1] if steps else REMOUNT
            call = "mounts_anew" if last == REMOUNT else asking(last)
            waits = "sleep 5; kill $! 2>/dev/null && echo hangs || echo answers"
            return f"{call} >/dev/null & {waits}", "answers"
        case "bottom":
            return "look | diff $base/before - && echo untouched", "untouched"
        case "mount":
            return "mounts_anew 2>&1 && echo succeeds", "succeeds"
    assert found.expected is not None
    return _tree_probe(found.difference.path, difference.subject, found.expected)


_FORMATS = {"mode": "%A", "owner": "%u:%g", "size": "%s", "links": "%h", "device": "%t:%T"}


def _tree_probe(path: bytes, subject: str, expected: Tree) -> tuple[str, str]:
    name = shlex.quote(os.fsdecode(path.removeprefix(b"./")))
    wanted = expected.get(path)
    if subject == "entry":
        directory, names = os.path.split(path)[0] or b".", set()
        for other in expected:
            if other != b"." and os.path.split(other)[0] == directory:
                names.add(os.fsdecode(os.path.basename(other)))
        where = shlex.quote(os.fsdecode(directory.removeprefix(b"./")))
        return f"ls -A {where} 2>&1 | sort | xargs", " ".join(sorted(names))
    assert isinstance(wanted, Seen)
    aspect = subject.split(" ")[1]
    if aspect in _FORMATS:
        return f"stat -c {_FORMATS[aspect]} {name}", _in_format(aspect, wanted)
    if aspect == "time":
        now = f"if [ $(stat -c %Y {name}) -ge $start ]; then echo now; else "
        told = f"{wanted.time // 10**9}.{wanted.time % 10**9:09}"
        return f"{now}stat -c %.9Y {name}; fi", "now" if wanted.time < 0 else told
    if aspect == "content":
        return _content_probe(name, wanted)
    listed = f"getfattr -h -d -m - -e hex {name} 2>&1 | grep = | sort | xargs"
    return listed, _attributes(wanted.xattrs)


def _in_format(aspect: str, wanted: Seen) -> str:
    if aspect == "mode":
        return stat.filemode(wanted.mode)
    if aspect == "owner":
        return f"{wanted.owner[0]}:{wanted.owner[1]}"
    if aspect == "device":
        return f"{os.major(wanted.device):x}:{os.minor(wanted.device):x}"
    return str(getattr(wanted, aspect))


def _content_probe(name: str, wanted: Seen) -> tuple[str, str]:
    content = wanted.content
    if isinstance(content, str) or content is None:
        return f"cat {name} >/dev/null 2>&1 && echo readable", str(content)
    if wanted.mode & 0o170000 == 0o120000:
        return f"readlink {name}", os.fsdecode(content)
    if re.fullmatch(rb"[ -~]{1,64}", content):
        return f"cat {name} 2>&1 | head -c 200 | tr -d '\\0'", content.decode()
    return f"sha256sum <{name} 2>&1", hashlib.sha256(content).hexdigest() + "  -"


def _attributes(xattrs: dict[str, bytes] | str) -> str:
    if isinstance(xattrs, str):
        return ""
    quoted = (f"{name}=0x{value.hex()}" if value else f"{name}=" for name, value in xattrs.items())
    return " ".join(sorted(quoted))
