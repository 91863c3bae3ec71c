"""What a check sees: answers of calls, the tree that results, the marks on the top."""

from __future__ import annotations

import os
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

from overlay.spec import shell
from overlay.spec.filling import Filling
from overlay.spec.observe import (
    Observation,
    attempt,
    errno_name,
    shown,
    shown_names,
    top_entry,
)
from overlay.spec.recording import RecordedCalls

__all__ = ["Looking"]

#: The marks whose values say something to a person, as a pattern for getfattr -m.
_MARKS = r"overlay[a-z]*\.(opaque|redirect|metacopy|whiteout)$"


class Looking(Filling, ABC):
    """The half of a bench that looks; each look is noted in the steps."""

    mnt: Path

    @property
    @abstractmethod
    def union(self) -> RecordedCalls:
        """The calls on the union."""

    def names(self, directory: str) -> list[str]:
        """What listing a directory of the union gives, in its order."""
        return [os.fsdecode(entry.name) for entry in self.union.readdir(directory or ".")]

    def order(self, directory: str) -> list[str]:
        """The same, where the order is what matters."""
        with self.steps.quiet():
            names = self.names(directory)
        listing = "".join(f"{name}\n" for name in names)
        command = f"ls -AU {self.steps.path(self.mnt / directory)}"
        self.steps.look(*shell.showing(command, listing.encode()))
        return names

    def access_time(self, path: Path) -> int:
        """The access time of a file of a layer, in ns."""
        self.steps.do(f"stat -c %x {self.steps.path(path)}")
        return path.lstat().st_atime_ns

    def result(
        self, what: str, call: Callable[[], object], expected: str = "succeeds"
    ) -> Observation:
        """Do ``call``, which should succeed or fail with the errno named."""
        return Observation("result", what, expected, attempt(call))

    def reads(self, name: str, content: bytes) -> Observation:
        """What a fresh open of ``name`` in the union reads."""
        try:
            observed = shown(self.union.read(name))
        except OSError as error:
            observed = errno_name(error)
        return Observation("view", f"reading {name} in the union", shown(content), observed)

    def lists(self, name: str, entries: Iterable[str]) -> Observation:
        """The names that listing the directory ``name`` in the union gives, each once."""
        try:
            observed = shown_names(self.names(name))
        except OSError as error:
            observed = errno_name(error)
        expected = shown_names(entries)
        return Observation("view", f"listing {name} in the union", expected, observed)

    def absent(self, name: str) -> Observation:
        """``name`` can neither be looked up nor found in a listing of its directory."""
        found = attempt(lambda: self.union.lstat(name))
        parent, base = os.path.split(name)
        try:
            listed = base in self.names(parent)
        except (FileNotFoundError, NotADirectoryError):
            listed = False
        observed = "absent" if found in {"ENOENT", "ENOTDIR"} and not listed else "present"
        return Observation("view", f"{name} in the union", "absent", observed)

    def on_top(self, name: str, kind: str) -> Observation:
        """What the top layer itself holds at ``name`` (see :func:`observe.top_entry`)."""
        return Observation("marks", f"{name} on the top", kind, self._top_entry(name))

    def _top_entry(self, name: str) -> str:
        found = top_entry(str(self.top), name)
        path = self.top / name
        said = self.steps.path(path)
        try:
            form, values = shell.stat_words(path.lstat())
        except OSError as error:
            self.steps.do(f"stat {said}", errno_name(error))
            if found == "whiteout":
                self.steps.do(f"find {self.steps.path(self.top)} -name '.wh.*' -o -name '*HIDDEN~'")
            return found
        self.steps.look(f"stat -c '{form}' {said}", values)
        if found not in {"symlink", "fifo", "socket", "block device", "character device"}:
            self._look_at_marks(path, said)
        return found

    def _look_at_marks(self, path: Path, said: str) -> None:
        marks = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in sorted(os.listxattr(path, follow_symlinks=False))
            if re.search(_MARKS, name)
        }
        if marks:
            lines = [f'{name}="{_octal(value)}"' for name, value in marks.items()]
            command = f"getfattr -h -d -m '{_MARKS}' -e text {said}"
            self.steps.look(command, "\n".join([f"# file: {shlex.split(said)[0]}", *lines]))

    def copied_up(self, name: str, content: bytes) -> Observation:
        """The top has its own regular file ``name`` with exactly ``content``."""
        observed = self._top_entry(name)
        if observed == "file":
            held = (self.top / name).read_bytes()
            self.steps.look(*shell.showing(f"cat {self.steps.path(self.top / name)}", held))
            observed = f"file: {shown(held)}"
        return Observation("marks", f"{name} on the top", f"file: {shown(content)}", observed)

    def top_holds(self, *names: str) -> Observation:
        """The top has exactly these entries that are not plain directories: no copyup besides."""
        held, plain = [], []
        for directory, subdirectories, files in os.walk(self.top):
            for name in subdirectories + files:
                relative = os.path.relpath(os.path.join(directory, name), self.top)
                if top_entry(str(self.top), relative) != "directory":
                    held.append(relative)
                    if not os.path.isdir(os.path.join(directory, name)):
                        plain.append(f"./{relative}")
        self.steps.look(
            f"(cd {self.steps.path(self.top)} && find . ! -type d | sort)", "\n".join(sorted(plain))
        )
        return Observation(
            "marks",
            "entries on the top besides directories",
            " ".join(sorted(names)) or "none",
            " ".join(sorted(held)) or "none",
        )

    def files_with_data(self) -> str:
        """The regular files on the top that carry their own data, or ``none``."""
        held = []
        for directory, _, files in os.walk(self.top):
            for name in files:
                relative = os.path.relpath(os.path.join(directory, name), self.top)
                if top_entry(str(self.top), relative) == "file":
                    held.append(relative)
        self.steps.do(f"find {self.steps.path(self.top)} -type f")
        return " ".join(sorted(held)) or "none"

    def same(self, aspect: str, subject: str, expected: object, observed: object) -> Observation:
        """Any two values, compared by how they print."""
        return Observation(aspect, subject, str(expected), str(observed))


def _octal(value: bytes) -> str:
    """As getfattr -e text has it."""
    text = "".join(chr(b) if 32 <= b < 127 else f"\\{b:03o}" for b in value)
    return text.replace('"', '\\"')
