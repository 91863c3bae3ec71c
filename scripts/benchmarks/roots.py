"""Making and removing one overlay: fallthru in process, the raw system calls, mount(8).

Aims: at most 1.3 times the raw calls, and at least 5 times faster than the commands.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import emit, in_turn, median_seconds

from overlay import kernel, syscalls
from overlay.profiles import PROFILES


def raw_up(base: Path) -> None:
    """The fewest system calls that make the same mount."""
    fs = syscalls.fsopen("overlay")
    syscalls.fsconfig_string(fs, "source", "raw")
    syscalls.fsconfig_string(fs, "lowerdir+", base / "bottom")
    syscalls.fsconfig_string(fs, "upperdir", base / "top")
    syscalls.fsconfig_string(fs, "workdir", base / "top.work")
    for key, value, _ in PROFILES["document"].pinned:
        syscalls.fsconfig_string(fs, key, value)
    syscalls.fsconfig_create(fs)
    tree = syscalls.fsmount(fs, syscalls.MOUNT_ATTR_NOATIME)
    syscalls.move_mount(tree, "", syscalls.AT_FDCWD, base / "mnt", syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(tree)
    os.close(fs)


def contenders(base: Path) -> dict[str, Callable[[], None]]:
    mount_point = str(base / "mnt")
    overlay = kernel.Overlay((str(base / "bottom"),), str(base / "top"))
    options = (
        f"lowerdir={base}/bottom,upperdir={base}/top,workdir={base}/top.work,noatime,"
        + ",".join(f"{key}={value}" for key, value, _ in PROFILES["document"].pinned)
    )

    def commands() -> None:
        subprocess.run(
            ["mount", "-t", "overlay", "command", "-o", options, mount_point], check=True
        )
        subprocess.run(["umount", mount_point], check=True)

    def raw() -> None:
        raw_up(base)
        syscalls.umount2(mount_point)

    def ours() -> None:
        kernel.mount(overlay, mount_point)
        kernel.unmount(mount_point)

    return {"fallthru": ours, "raw": raw, "commands": commands}


def measure(where: str, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="fallthru-bench-", dir=where) as scratch:
        base = Path(scratch)
        for name in ("bottom", "top", "mnt"):
            (base / name).mkdir()
        # Before the first round, so that all contenders find the top as a used one.
        overlay = kernel.Overlay((str(base / "bottom"),), str(base / "top"))
        with kernel.mounted(overlay, str(base / "mnt")):
            pass
        racing = contenders(base)
        commands = racing.pop("commands")
        # Apart: after two fork()s and exec()s whoever comes next finds cold caches.
        medians = median_seconds(in_turn(racing, rounds=rounds))
        slow = median_seconds(in_turn({"commands": commands}, rounds=max(rounds // 10, 10)))
        return {**medians, **slow}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("where", nargs="*", default=["/dev/shm", "/var/tmp"])
    arguments = parser.parse_args(argv)
    results = {}
    lines = ["one overlay up and down, medians; ratios to fallthru's time:"]
    for where in arguments.where:
        medians = measure(where, arguments.rounds)
        ratio_raw = medians["fallthru"] / medians["raw"]
        ratio_commands = medians["commands"] / medians["fallthru"]
        lines.append(
            f"  {where}: {medians['fallthru'] * 1e3:.2f} ms = {ratio_raw:.2f} x the raw calls; "
            f"mount(8) and umount(8) take {ratio_commands:.1f} x as long"
        )
        results[where] = {
            "seconds": medians,
            "to_raw": ratio_raw,
            "commands_to_fallthru": ratio_commands,
        }
    emit("roots", lines, {"rounds": arguments.rounds, "results": results})


if __name__ == "__main__":
    main()
