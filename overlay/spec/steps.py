"""The steps of one clause as they were made, written down as a shell script to repeat them.

A check acts and looks through its bench, which notes here what a person would type for
each call, what it printed or how it failed, and what was concluded.  So the script is what
happened, not a second description of it; a test runs the scripts and compares.

A script works in an empty directory with the layers beside each other.  Each command is
one line; below it, ``#>`` what it prints, ``#!`` the error with which it fails.  ``# ok``
and ``# differs`` are the observations.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from overlay.spec.observe import Observation, errno_name
from overlay.text import printable

__all__ = ["Steps"]

T = TypeVar("T")

_PREAMBLE: Final = """\
# As root, in a namespace of mounts that ends with the shell:  unshare -m sh
cd "$(mktemp -d)" && mount -t tmpfs tmpfs . && cd "$PWD"
umask 022; export LC_ALL=C
# All that a layer holds, names, attributes and content, without access times.
state() { tar --format=posix --pax-option=delete=atime,delete=ctime --sort=name --xattrs \
--xattrs-include='*' --atime-preserve=system -C "$1" -cf - . | sha256sum; }
mkdir bottom top top.work mnt
"""


class Steps:
    """The script of one clause, a line after another."""

    def __init__(self, *homes: Path) -> None:
        self._homes = tuple(map(os.fspath, homes))
        self._lines: list[str] = []
        self._user = ""
        self._held: set[int] = set()
        self._quiet = 0

    def add_home(self, home: Path) -> None:
        """What is in ``home``, too, stands beside the layers in the script."""
        self._homes += (os.fspath(home),)

    @property
    def text(self) -> str:
        """The whole script."""
        return _PREAMBLE + "\n".join(self._lines) + "\n"

    def path(self, path: Path | str) -> str:
        """A file of a layer or a mount as the script calls it, quoted."""
        # By strings, not pathlib: it is asked thousands of times, and guests are slow.
        text = os.path.normpath(path)
        for home in self._homes:
            if text == home:
                return "."
            if text.startswith(f"{home}/"):
                return shlex.quote(printable(text[len(home) + 1 :]))
        return shlex.quote(os.fspath(path))

    # -------------------------------------------------------------------- noting

    def do(self, command: str, error: str = "") -> None:
        """A command that was carried out, or failed with the errno of that name."""
        self._note(command)
        for home in self._homes:
            error = error.replace(f"{home}/", "")
        if error:
            self._comment("#!", error)

    def look(self, command: str, output: str) -> None:
        """A command whose output matters."""
        self._note(command)
        for line in output.splitlines():
            self._comment("#>", line)

    def say(self, text: str) -> None:
        self._comment("#", text)

    def saw(self, observation: Observation) -> None:
        """What was concluded from what was done last."""
        expected, observed = printable(observation.expected), printable(observation.observed)
        if observation.ok:
            self._comment("# ok:", f"{observation.subject}: {observed}")
        else:
            self._comment(
                "# differs:", f"{observation.subject}: {observed}; the document wants {expected}"
            )

    def attempt(self, command: str, call: Callable[[], T]) -> T:
        """Note the command, with the error if ``call`` raises an OSError; its result."""
        try:
            result = call()
        except OSError as error:
            self.do(command, errno_name(error))
            raise
        self.do(command)
        return result

    def _note(self, command: str) -> None:
        if not self._quiet:
            self._lines.append(
                f"{self._user} sh -c {shlex.quote(command)}" if self._user else command
            )

    def _comment(self, sign: str, text: str) -> None:
        if not self._quiet:
            self._lines.append(f"{sign} {text}".rstrip())

    # ------------------------------------------------------------------ modes

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Note nothing: what is done is part of a command that is noted as a whole."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    @contextmanager
    def acting_as(self, uid: int, gid: int) -> Iterator[None]:
        """Commands are an ordinary user's."""
        self._user = f"setpriv --reuid {uid} --regid {gid} --clear-groups"
        try:
            yield
        finally:
            self._user = ""

    def hold(self) -> int:
        """A number for a descriptor that the shell holds open."""
        number = min(set(range(3, 10)) - self._held)
        self._held.add(number)
        return number

    def release(self, number: int) -> None:
        self._held.discard(number)
