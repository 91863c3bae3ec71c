"""A guest that stays up and runs one command after another: one boot for many.

The job's directory has a file ``serve``, and a directory for each command, named by its
number, with the files that a job has (jobs.py).  ``guest/run.sh`` says what a command
finds of those before it: nothing, as far as mounts, processes and scratch files go.
"""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from .errors import GuestDied
from .jobs import TIMED_OUT, Start, last_words, machine, out_of_time, prepare

__all__ = ["Answer", "Guest", "serve"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a command; ``status`` is its exit code, or as for jobs.run."""

    status: int
    stdout: bytes
    stderr: bytes

    def as_json(self) -> str:
        """One line; the streams in base64, since they may hold any bytes."""
        texts = {
            name: base64.b64encode(getattr(self, name)).decode() for name in ("stdout", "stderr")
        }
        return json.dumps({"status": self.status, **texts})


class Guest:
    """Starts its machine for the first command, and again after one that was its end."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._up = ExitStack()
        self._machine: subprocess.Popen[bytes] | None = None
        self._place = Path()
        self._count = 0

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_error: object) -> None:
        self._down()

    def run(self, command: Sequence[str], *, timeout: float) -> Answer:
        """Run ``command`` in the guest, for at most ``timeout`` seconds, a boot included."""
        deadline = time.monotonic() + timeout
        running = self._machine or self._boot()
        self._count += 1
        job = self._place / str(self._count)
        aside = job.with_suffix(".new")
        aside.mkdir()
        prepare(aside, command)
        aside.rename(job)  # the guest waits for the name, and finds all of it
        while not (job / "status").exists():
            # Its exit is told before the last look, so a status that it left is seen.
            ended = running.poll() is not None
            if (job / "status").exists():
                break
            if ended:
                return self._lost(job, GuestDied.exit_code, last_words(self._place))
            if time.monotonic() > deadline:
                return self._lost(job, TIMED_OUT, out_of_time(self._place, timeout))
            time.sleep(0.02)
        return _answer(job, int((job / "status").read_text()))

    def _boot(self) -> subprocess.Popen[bytes]:
        name = self._up.enter_context(tempfile.TemporaryDirectory(prefix="fallthru-vm-"))
        self._place, self._count = Path(name), 0
        (self._place / "serve").touch()
        self._machine = self._up.enter_context(machine(self._start(self._place), self._place))
        return self._machine

    def _lost(self, job: Path, status: int, why: str) -> Answer:
        answer = _answer(job, status)
        self._down()
        return Answer(status, answer.stdout, answer.stderr + f"vm: {why}\n".encode())

    def _down(self) -> None:
        self._machine = None
        self._up.close()


def _answer(job: Path, status: int) -> Answer:
    return Answer(status, (job / "stdout").read_bytes(), (job / "stderr").read_bytes())


def serve(start: Start, requests: Iterable[str], answers: TextIO) -> None:
    """Answer each request, ``{"command": [...], "timeout": seconds}`` on a line, by a line."""
    with Guest(start) as guest:
        for line in requests:
            request = json.loads(line)
            answer = guest.run(request["command"], timeout=request["timeout"])
            print(answer.as_json(), file=answers, flush=True)
