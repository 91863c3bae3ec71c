"""A headless Chromium, driven through chromedriver by plain HTTP (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import PATIENCE, orphans_reaped

__all__ = ["Browser", "browser"]

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--window-size=1200,1600",
)


@dataclass(frozen=True)
class Browser:
    """One window."""

    base: str

    def open(self, page: Path) -> None:
        self._call("POST", "/url", {"url": page.as_uri()})

    def run(self, script: str, *arguments: object) -> Any:
        """The value that ``script`` returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def errors(self) -> list[str]:
        """What the console holds since the last call, warnings included."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [f"{entry['level']}: {entry['message']}" for entry in entries]

    def screenshot(self) -> bytes:
        return base64.b64decode(self._call("GET", "/screenshot"))

    def close(self) -> None:
        self._call("DELETE", "")

    def _call(self, method: str, path: str, body: object = None) -> Any:
        return _request(method, self.base + path, body)


@contextmanager
def browser(scratch: Path) -> Iterator[Browser]:
    """A browser for the length of the block; skips where there is none."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("needs: chromium")
    # Port 0: the driver takes a free one, and says which.
    command = ["chromedriver", "--port=0"]
    with (
        orphans_reaped(),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as driver,
    ):
        try:
            assert driver.stdout is not None
            line = next(line for line in driver.stdout if "on port" in line and "success" in line)
            base = f"http://127.0.0.1:{line.rstrip().rstrip('.').rpartition(' ')[2]}"
            options = {"args": [*_ARGUMENTS, f"--user-data-dir={scratch / 'profile'}"]}
            wanted = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
                "timeouts": {"script": PATIENCE * 1000, "pageLoad": PATIENCE * 1000},
            }
            capabilities = {"capabilities": {"alwaysMatch": wanted}}
            session = _request("POST", f"{base}/session", capabilities)["sessionId"]
            window = Browser(f"{base}/session/{session}")
            try:
                yield window
            finally:
                window.close()
        finally:
            driver.terminate()


def _request(method: str, url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)["value"]
