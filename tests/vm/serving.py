"""Guests that are up and answer one request after another; some were asked long before."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from tests.running import REPOSITORY

__all__ = ["VM", "Beside", "Guest", "Request"]

VM: Final = REPOSITORY / "scripts" / "vm"


class Request:
    """A command for a guest, and what came of it once that is known.

    It may take ``seconds`` once those before it are done.
    """

    def __init__(self, command: tuple[str, ...], seconds: int) -> None:
        self.command = command
        self.seconds = seconds
        self.done: subprocess.CompletedProcess[str] | None = None


class Guest:
    """A machine that ``scripts/vm serve`` runs: it boots for the first request."""

    def __init__(self, kernel: str) -> None:
        self._process = subprocess.Popen(
            (VM, "serve", kernel), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._asked: deque[Request] = deque()
        self._read = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._asked)

    def ask(self, request: Request) -> None:
        assert self._process.stdin is not None
        line = json.dumps({"command": request.command, "timeout": request.seconds}) + "\n"
        self._process.stdin.write(line.encode())
        self._asked.append(request)

    def wait(self, request: Request, until: float) -> bool:
        """Whether ``request`` is done, at the latest when ``until`` (seconds since 1970) comes."""
        while request.done is None:
            if not self.hear(until):
                return False
        return True

    def listen(self) -> None:
        """Take what it has answered by now: a guest that is not heard does not go on."""
        with suppress(EOFError):  # which is for those to hear who wait for an answer
            while self._asked and self.hear(0):
                pass

    def hear(self, until: float) -> bool:
        """Whether it says something until then; EOFError when it never will."""
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        seconds = min(max(0, until - time.time()), 1e6)
        if not select.select([stdout], [], [], seconds)[0]:
            return False
        data = os.read(stdout, 1 << 20)
        if not data:
            raise EOFError("scripts/vm serve has ended")
        *lines, self._read = (self._read + data).split(b"\n")
        for line in lines:
            answered = self._asked.popleft()
            answered.done = _finished(answered.command, json.loads(line))
        return True

    def end(self) -> None:
        """Shut it down; what it is at, and what is still asked of it, is given up."""
        if self._asked:
            self._process.terminate()
        self._process.communicate()


class Beside:
    """Guests that are at work beside the tests: one at once, each has a kernel's requests."""

    def __init__(self) -> None:
        self._later: dict[str, list[Request]] = {}
        self._guest: Guest | None = None

    def ask(self, kernel: str, request: Request) -> None:
        """To be answered some time after ``begin``, which whatever is asked must come before."""
        self._later.setdefault(kernel, []).append(request)

    def begin(self, kernels: Iterable[str]) -> None:
        """Start with the first of ``kernels`` that something is asked of."""
        self._later = {name: self._later[name] for name in kernels if name in self._later}
        self._go_on()

    def listen(self) -> None:
        """As for a guest; another is started when the one before has answered all."""
        if self._guest:
            self._guest.listen()
            self._go_on()

    def wait(self, request: Request, until: float) -> bool:
        """Whether ``request`` is done, after all that was to be answered before it."""
        while request.done is None:
            if not self._guest or not self._guest.hear(until):
                return False
            self._go_on()
        return True

    def _go_on(self) -> None:
        if self._guest and not self._guest.busy:
            self._guest.end()
            self._guest = None
        if self._later and not self._guest:
            kernel = next(iter(self._later))
            self._guest = Guest(kernel)
            for request in self._later.pop(kernel):
                self._guest.ask(request)

    def end(self) -> None:
        """Give up what is not answered."""
        self._later.clear()
        if self._guest:
            self._guest.end()
            self._guest = None


def _finished(command: tuple[str, ...], answer: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    streams = (
        base64.b64decode(answer[name]).decode(errors="surrogateescape")
        for name in ("stdout", "stderr")
    )
    return subprocess.CompletedProcess(command, answer["status"], *streams)
