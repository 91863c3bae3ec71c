"""Does the script show it?  Each is run once, where nobody else sees its mounts."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from overlay.spec.fuzz.hunt import Finding
from overlay.spec.fuzz.script import as_script, can_mount
from overlay.spec.targets import Target
from overlay.spec.worker import Send, WorkerSilent, worker

__all__ = ["script_of", "shows"]

_PATIENCE: Final = 60.0


def script_of(finding: Finding, target: Target) -> tuple[str, bool | None]:
    """(the script, whether it shows the finding); None if it was not run.

    A hang is not tried a second time, and some targets no command can mount.
    """
    plain = as_script(finding, target)
    if finding.found.what in ("hang", "crash", "top") or not can_mount(target):
        return plain, None
    if shows(plain):
        return plain, True
    exact = as_script(finding, target, exact=True)
    return exact, shows(exact)


def shows(script: str) -> bool:
    """Whether a script exits with 1, having seen what is not expected."""

    def body(send: Send) -> None:
        # The fallthru and the Python of this run, installed or not.
        commands = {"PYTHONPATH": os.pathsep.join(sys.path)}
        commands["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', '')}"
        done = subprocess.run(
            ["sh"],
            input=script,
            env=os.environ | commands,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=_PATIENCE,
        )
        send({"code": done.returncode, "seen": "\nseen: " in "\n" + done.stdout})

    with worker(body, patience=_PATIENCE + 5) as messages:
        try:
            said = list(messages)
        except WorkerSilent:
            return False
    return any(message.get("code") == 1 and message["seen"] for message in said)
