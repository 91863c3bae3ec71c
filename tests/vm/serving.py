"""A guest that is up and answers one request after another; some were asked long before."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections import deque
from contextlib import suppress
from typing import Any, Final

from tests.running import REPOSITORY

__all__ = ["VM", "Guest", "Request"]

VM: Final = REPOSITORY / "scripts" / "vm"


class Request:
    """A command for a guest, and what came of it once that is known."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.command = command
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

    def ask(self, command: tuple[str, ...], seconds: int) -> Request:
        """Ask for ``command``, which may take ``seconds`` once those before it are done."""
        assert self._process.stdin is not None
        line = json.dumps({"command": command, "timeout": seconds}) + "\n"
        self._process.stdin.write(line.encode())
        request = Request(command)
        self._asked.append(request)
        return request

    def wait(self, request: Request, until: float) -> bool:
        """Whether ``request`` is done, at the latest when ``until`` (seconds since 1970) comes."""
        while request.done is None:
            if not self._listen(max(0, until - time.time())):
                return False
        return True

    def listen(self) -> None:
        """Take what it has answered by now: a guest that is not heard does not go on."""
        with suppress(EOFError):  # which is for those to hear who wait for an answer
            while self._asked and self._listen(0):
                pass

    def _listen(self, seconds: float) -> bool:
        """Whether it said something in that time; EOFError when it never will."""
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        if not select.select([stdout], [], [], min(seconds, 1e6))[0]:
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


def _finished(command: tuple[str, ...], answer: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    streams = (
        base64.b64decode(answer[name]).decode(errors="surrogateescape")
        for name in ("stdout", "stderr")
    )
    return subprocess.CompletedProcess(command, answer["status"], *streams)
