"""Copying a top whole: marks, attributes, holes, and the hard links to its index.

cp(1) does all of this, and shares the blocks where the file system can (reflink).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from overlay.errors import OperationFailed
from overlay.text import printable

__all__ = ["copy_tops"]


def copy_tops(sources: Sequence[str], directory: str, indexes: Sequence[str]) -> None:
    """Copy directory trees, as one set of hard links, into ``directory``.

    ``indexes`` are the work directories' indexes among the copies.
    """
    command = ["cp", "-dR", "--preserve=all", "--sparse=always", "--reflink=auto"]
    done = subprocess.run(
        [*command, "--", *sources, directory], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OperationFailed(
            f"{printable(sources[0])} cannot be copied to {printable(directory)}: "
            + done.stderr.strip().rpartition("\n")[2]
        )
    for index in indexes:
        # It says whose index this is by a file handle; the next mount writes the new one.
        with suppress(OSError):
            os.removexattr(index, "trusted.overlay.upper")
