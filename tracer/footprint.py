"""Keeping a recorder small, however long it runs.

bcc compiles the probes with LLVM inside this process, which maps some 90 MB of it.  A
recorder that runs for weeks keeps none of that: pages of the libraries' files are dropped
(the kernel reads them again should anybody call them), and so is the heap that became free.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress

from overlay import syscalls

__all__ = ["drop_compiler", "keep_nothing", "stay_small"]

_LIBRARY = re.compile(r"[^/]*\.so")
_COMPILER = re.compile(r"lib(LLVM|clang|bcc)[^/]*\.so")
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ +(/.*)")


class _NoPandas:
    """Finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("a recorder has no use for pandas", name=name)


def stay_small() -> None:
    """For a process that only records, before it imports pyarrow: do without pandas (40 MB),
    which pyarrow imports whenever it makes an array, if it can, and return memory at once.

    glibc keeps what was freed for later, in an arena for each thread, and keeps larger and
    larger pieces the larger they were.
    """
    sys.meta_path.insert(0, _NoPandas)
    syscalls.mallopt(syscalls.M_ARENA_MAX, 1)
    syscalls.mallopt(syscalls.M_MMAP_THRESHOLD, 128 << 10)


def keep_nothing() -> None:
    """Have pyarrow return what it frees, and use no threads with buffers of their own."""
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet

    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    # Most of what was touched when the libraries were loaded is never touched again.
    _drop(_LIBRARY)


def drop_compiler() -> None:
    """Let go of the compiler's memory.  It stays usable."""
    _drop(_COMPILER)
    syscalls.malloc_trim()


def _drop(libraries: re.Pattern[str]) -> None:
    for start, end in _unchanged(libraries):
        with suppress(OSError):
            syscalls.madvise(start, end - start, syscalls.MADV_DONTNEED)


def _unchanged(libraries: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """The mappings of ``libraries`` that hold what is in the file, to the last byte.

    What was written to (relocations, above all) would be lost, not read again: only
    mappings without a single page of their own count.
    """
    mapping: re.Match[str] | None = None
    with open("/proc/self/smaps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line[0] in "0123456789abcdef":
                mapping = _MAPPING.match(line)
                if mapping and (
                    "w" in mapping[3] or not libraries.match(os.path.basename(mapping[4]))
                ):
                    mapping = None
            elif mapping and line.split() == ["Anonymous:", "0", "kB"]:
                yield int(mapping[1], 16), int(mapping[2], 16)
