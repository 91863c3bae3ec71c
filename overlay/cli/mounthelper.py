"""``mount.fallthru``: what mount(8) runs for ``-t fallthru``, by util-linux's contract.

Exit codes are those of mount(8), not those of fallthru.
"""

from __future__ import annotations

import getopt
import os
import sys

from overlay.cli import report_error
from overlay.errors import FallthruError, NoPrivilege, UsageError
from overlay.text import printable

__all__ = ["main"]

_USAGE = "usage: mount.fallthru SPEC DIR [-sfnvrw] [-N NAMESPACE] [-o OPTIONS]"
_INCORRECT, _INTERRUPTED, _MOUNT_FAILURE = 1, 8, 32


def main(arguments: list[str] | None = None) -> None:
    """Run the helper; ends the process."""
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except (UsageError, NoPrivilege) as error:
        report_error(error, "mount.fallthru")
        # A layer that is missing is a failed mount, a wrong option an incorrect invocation.
        sys.exit(_MOUNT_FAILURE if error.errno and isinstance(error, UsageError) else _INCORRECT)
    except FallthruError as error:
        report_error(error, "mount.fallthru")
        sys.exit(_MOUNT_FAILURE)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _run(arguments: list[str]) -> None:
    try:
        flags, words = getopt.gnu_getopt(arguments, "sfnvrwhN:o:t:")
    except getopt.GetoptError as error:
        raise UsageError(str(error), hint=_USAGE) from None
    given = dict(flags)
    if "-h" in given:
        print(_USAGE)
        return
    if len(words) != 2:
        raise UsageError("a source and a mount point are needed", hint=_USAGE)
    from overlay import mounthelper, mountoptions

    # -r and -w are options like any other, and the last one counts.
    listed = [value for flag, value in flags if flag == "-o"]
    listed += [{"-r": "ro", "-w": "rw"}[flag] for flag, _ in flags if flag in ("-r", "-w")]
    request = mountoptions.parse(",".join(filter(None, listed)), sloppy="-s" in given)
    source, mount_point = words
    if "-N" in given:
        _enter(given["-N"])
    if request.remount:
        if "-f" not in given:
            mounthelper.remount(request, mount_point)
        return
    request = mounthelper.complete(request, source, mount_point)
    if mounthelper.is_mounted(request, mount_point):
        if "-v" in given:
            print(f"mount.fallthru: {printable(mount_point)} is mounted already")
        return
    if "-v" in given:
        print(f"mount.fallthru: {request.overlay.describe(mount_point)}")
    if "-f" in given:
        return
    covered = mounthelper.mount(request, mount_point)
    from overlay.cli.mount import tell_covered

    tell_covered(covered, "mount.fallthru")


def _enter(namespace: str) -> None:
    """Enter the mount namespace of a process, or the one that a file stands for (mount -N)."""
    from overlay import syscalls

    path = f"/proc/{namespace}/ns/mnt" if namespace.isdecimal() else namespace
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(fd, syscalls.CLONE_NEWNS)
        finally:
            os.close(fd)
    except OSError as error:
        raise UsageError(
            f"the mount namespace {namespace} cannot be entered", errno=error.errno or 0
        ) from None
