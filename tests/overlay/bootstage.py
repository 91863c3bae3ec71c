"""The stage of a boot at which the root is mounted, without a machine that boots.

`mount-root` runs as in an initramfs, with nothing but the tools it brings along and the shell
that is told: in a mount namespace with an empty /run and the kernel's command line of choice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from overlay.booting import files as bootfiles
from tests.processes import PATIENCE

__all__ = ["SHELLS", "Stage"]

SHELLS = {"dash": ("dash",), "busybox": ("busybox", "sh")}

_PRIVATE = ("unshare", "--mount", "--propagation", "private")
_STAGE = """
mount -t tmpfs run /run
mount --bind "$1/cmdline" /proc/cmdline
shift
exec "$@"
"""


@dataclass(frozen=True)
class Stage:
    """Where `mount-root` is, ``place``, and the shell that runs it."""

    place: Path
    shell: tuple[str, ...]

    @classmethod
    def built(cls, place: Path, shell: str) -> Stage:
        """A stage in the empty directory ``place``, with the files that an initramfs gets."""
        if shutil.which(SHELLS[shell][0]) is None:
            pytest.skip(f"needs: {SHELLS[shell][0]}")
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        (place / "lib/bin").mkdir(parents=True)
        (place / "root").mkdir()
        for file in bootfiles.files(bootfiles.Maker.INITRAMFS_TOOLS)[:2]:
            (place / "lib" / Path(file.path).name).write_bytes(file.content)
        for tool in bootfiles.TOOLS:
            found = shutil.which(tool, path=path)
            if found is None:
                pytest.skip(f"needs: {tool}")
            (place / "lib/bin" / tool).symlink_to(found)
        return cls(place, SHELLS[shell])

    def run(
        self, word: str, *arguments: str, wrapped: str = '"$@"'
    ) -> subprocess.CompletedProcess[str]:
        """`mount-root` with ``arguments``, on a command line with ``word``.

        ``wrapped`` is a shell script that runs it, as ``"$@"``.
        """
        (self.place / "cmdline").write_text(f"BOOT_IMAGE=/vmlinuz ro {word} quiet\n")
        script = [*self.shell, str(self.place / "lib/mount-root"), *arguments]
        return subprocess.run(
            [
                *_PRIVATE,
                "sh",
                "-ec",
                _STAGE,
                "stage",
                self.place,
                "sh",
                "-ec",
                wrapped,
                "",
                *script,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def mount(self, word: str, then: str = "") -> subprocess.CompletedProcess[str]:
        """The root mounted, and ``then`` run in it."""
        root = self.place / "root"
        return self.run(word, "mount", str(root), wrapped=f'"$@"\ncd {root}\n{then}')
