"""Files, descriptors and mappings of a union that a check holds while other things happen.

In the script of the steps the shell holds the descriptor, under a number of its own.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable
from typing import TypeVar

from overlay.closing import Closing
from overlay.spec import shell
from overlay.spec.steps import Steps

__all__ = ["Descriptor", "HeldFile", "Mapping"]

T = TypeVar("T")


class Descriptor(Closing):
    """An open descriptor, ``fd``; closed at the end of a with block."""

    def __init__(self, fd: int, number: int, steps: Steps) -> None:
        self.fd = fd
        self._number = number
        self._steps = steps
        self._moved = False

    def close(self) -> None:
        os.close(self.fd)
        if self._number:
            self._steps.release(self._number)
            self._steps.do(f"exec {self._number}>&-")

    def _do(self, command: str, call: Callable[[], T]) -> T:
        return self._steps.attempt(command, call)

    def read(self) -> bytes:
        """Up to 100 bytes from the beginning."""
        content = os.pread(self.fd, 100, 0)
        code = f"os.write(1, os.pread({self._number}, 100, 0))"
        self._steps.look(*shell.showing(shell.calling(code), content))
        return content

    def write(self, content: bytes) -> None:
        """At the beginning."""
        code = f"os.pwrite({self._number}, {_literal(content)}, 0)"
        self._do(shell.calling(code), lambda: os.pwrite(self.fd, content, 0))

    def truncate(self, size: int) -> None:
        code = f"os.ftruncate({self._number}, {size})"
        self._do(shell.calling(code), lambda: os.ftruncate(self.fd, size))

    def chmod(self, mode: int) -> None:
        code = f"os.fchmod({self._number}, {oct(mode)})"
        self._do(shell.calling(code), lambda: os.fchmod(self.fd, mode))

    def chown(self, uid: int, gid: int) -> None:
        code = f"os.fchown({self._number}, {uid}, {gid})"
        self._do(shell.calling(code), lambda: os.fchown(self.fd, uid, gid))

    def utime(self, ns: tuple[int, int]) -> None:
        code = f"os.utime({self._number}, ns={ns})"
        self._do(shell.calling(code), lambda: os.utime(self.fd, ns=ns))

    def stat(self) -> os.stat_result:
        status = os.fstat(self.fd)
        form, values = shell.stat_words(status)
        self._steps.look(f"stat -c '{form}' - <&{self._number}", values)
        return status

    def map(self, size: int) -> Mapping:
        """Its first ``size`` bytes, shared and to be read only."""
        return Mapping(self.fd, self._number, size, self._steps)


class Mapping:
    """A mapping, which outlives the descriptor; ``read`` ends it."""

    def __init__(self, fd: int, number: int, size: int, steps: Steps) -> None:
        self._mapped = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        self._steps = steps
        # In a process of its own: it says through a pipe when it has the mapping, and waits
        # at the other for a word to look.
        code = (
            f"import mmap; m = mmap.mmap({number}, {size}, prot=mmap.PROT_READ); "
            'open("mapped", "w").close(); open("look").close(); '
            'open("seen", "wb").write(m[:])'
        )
        steps.do("mkfifo mapped look")
        steps.do(f"{shell.calling(code)} &")
        steps.do("cat mapped")

    def read(self) -> bytes:
        """All of it, now."""
        content = bytes(self._mapped)
        self._mapped.close()
        self._steps.do(": >look; wait $!")
        self._steps.look(*shell.showing("cat seen", content))
        return content


def _literal(content: bytes) -> str:
    """As Python has it, in double quotes."""
    return 'b"' + repr(content)[2:-1].replace('"', '\\"') + '"'


class HeldFile(io.FileIO):
    """An unbuffered file of the union, whose writes and seeks are noted."""

    def __init__(self, fd: int, mode: str, number: int, steps: Steps) -> None:
        super().__init__(fd, mode)
        self._number = number
        self._steps = steps

    def write(self, content: bytes) -> int:  # type: ignore[override]
        command = f"{shell.printing(content)} >&{self._number}"
        return self._steps.attempt(command, lambda: super(HeldFile, self).write(content))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        code = f"os.lseek({self._number}, {offset}, {whence})"
        return self._steps.attempt(
            shell.calling(code), lambda: super(HeldFile, self).seek(offset, whence)
        )

    def close(self) -> None:
        if not self.closed:
            self._steps.release(self._number)
            self._steps.do(f"exec {self._number}>&-")
        super().close()
