"""``fsck.overlay``: the check, called as fsck(8) and existing test suites call a checker.

    fsck.overlay [-p|-a|-y|-n] [-f] [-v] [-V] -o lowerdir=B[:B…],upperdir=T,workdir=W

-p or -a repairs what is safe, -y everything, -n nothing; without one it asks.  Mount
options other than the layers are accepted and ignored, except for ``userxattr``.  Exit
codes are fsck(8)'s, and are added up: 0 nothing wrong, 1 corrected, 4 left uncorrected,
8 operational error, 16 usage, 32 cancelled.
"""

from __future__ import annotations

import enum
import getopt
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overlay import __version__
from overlay.errors import FallthruError, UsageError
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.checking.check import Suspect
    from overlay.checking.rules import Finding

__all__ = ["ExitCode", "main", "parse", "run"]

_USAGE = (
    "usage: fsck.overlay [-p|-a|-y|-n] [-f] [-v] [-V] "
    "-o lowerdir=DIR[:DIR...],upperdir=DIR,workdir=DIR"
)


class ExitCode(enum.IntFlag):
    """fsck(8)'s exit codes."""

    CLEAN = 0
    CORRECTED = 1
    LEFT = 4
    OPERATIONAL = 8
    USAGE = 16
    CANCELLED = 32


class _BadUsage(Exception):
    """The command line is wrong."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for.  ``answer``: yes, no, safe (no questions), or ask."""

    suspect: Suspect
    answer: str
    verbose: bool


def _split(text: str, separator: str) -> list[str]:
    """``text`` at each ``separator`` without a backslash before it; other escapes are kept."""
    parts, escaped = [""], False
    for char in text:
        if escaped:
            parts[-1] += char if char == separator else "\\" + char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == separator:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _unescape(text: str) -> str:
    return text.replace("\\:", ":").replace("\\\\", "\\")


def parse(arguments: list[str]) -> Request | None:
    """The request that ``arguments`` make; None for -V.  Raises :class:`_BadUsage`."""
    from overlay.checking.check import Suspect

    try:
        options, rest = getopt.gnu_getopt(arguments, "o:paynfvVh", ["help", "version"])
    except getopt.GetoptError as error:
        raise _BadUsage(str(error)) from None
    answers: set[str] = set()
    mount_options: dict[str, str] = {}
    verbose = False
    for flag, value in options:
        if flag in ("-V", "--version"):
            return None
        if flag in ("-h", "--help"):
            raise _BadUsage("")
        if flag == "-o":
            for option in _split(value, ","):
                key, _, text = option.partition("=")
                mount_options[key] = text
        elif flag in ("-p", "-a", "-y", "-n"):
            answers.add({"-y": "yes", "-n": "no"}.get(flag, "safe"))
        verbose = verbose or flag == "-v"
    if rest:
        raise _BadUsage(f"what is {printable(rest[0])}? Layers are named with -o")
    if len(answers) > 1:
        raise _BadUsage("only one of -p/-a, -y and -n")
    top, lower = mount_options.get("upperdir"), mount_options.get("lowerdir")
    if not top or not lower:
        raise _BadUsage("-o lowerdir= and upperdir= are needed")
    merged, _, data = lower.partition("::")
    family = "user" if "userxattr" in mount_options else "trusted"
    suspect = Suspect(
        _unescape(top),
        tuple(_unescape(path) for path in _split(merged, ":")),
        _unescape(mount_options["workdir"]) if mount_options.get("workdir") else None,
        tuple(_unescape(path) for path in _split(data, ":")) if data else (),
        family,
    )
    return Request(suspect, answers.pop() if answers else "ask", verbose)


def run(request: Request) -> ExitCode:
    """Check, repair as asked, and tell on standard output what was found."""
    from overlay.checking.check import check
    from overlay.checking.repair import repair

    if request.answer == "no":
        report = check(request.suspect, notes=False)
        for each in report.findings:
            print(_line(each))
        if report.live:
            print("fsck.overlay: the top is mounted; this may be out of date", file=sys.stderr)
        found = any(each.damage for each in report.findings)
        _summary(request, report.entries, len(report.findings))
        return ExitCode.LEFT if found else ExitCode.CLEAN
    outcome = repair(request.suspect, lambda each: _agree(each, request.answer))
    code = ExitCode.CLEAN
    for each in outcome.repaired:
        print(f"{_line(each)}: corrected")
        code |= ExitCode.CORRECTED
    for each in outcome.left.findings:
        print(f"{_line(each)}: left as it is")
        code |= ExitCode.LEFT
    _summary(request, outcome.left.entries, len(outcome.left.findings))
    return code


def _summary(request: Request, entries: int, findings: int) -> None:
    if request.verbose:
        print(f"{printable(request.suspect.top)}: {entries} entries, {findings} findings")


def _agree(finding: Finding, answer: str) -> bool:
    from overlay.checking.rules import RULES

    if answer != "ask":
        return answer == "yes"
    try:
        given = input(f"{_line(finding)}\n  {RULES[finding.code].remedy} (y/n)? ")
    except EOFError:
        return False
    return given.strip().lower() in ("y", "yes")


def _line(finding: Finding) -> str:
    where = printable(finding.path) or "."
    return f"{finding.layer}:{where}: {finding.code}: {finding.message}"


def main() -> None:
    """The ``fsck.overlay`` command."""
    sys.exit(int(_main(sys.argv[1:])))


def _main(arguments: list[str]) -> ExitCode:
    try:
        request = parse(arguments)
        if request is None:
            print(f"fsck.overlay (fallthru) {__version__}")
            return ExitCode.CLEAN
        return run(request)
    except _BadUsage as error:
        print(f"fsck.overlay: {error}\n{_USAGE}" if str(error) else _USAGE, file=sys.stderr)
        return ExitCode.USAGE
    except FallthruError as error:
        print(f"fsck.overlay: {error}", file=sys.stderr)
        if error.hint:
            print(f"  → {error.hint}", file=sys.stderr)
        usage = isinstance(error, UsageError) and not error.errno
        return ExitCode.USAGE if usage else ExitCode.OPERATIONAL
    except KeyboardInterrupt:
        return ExitCode.CANCELLED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OPERATIONAL
