"""What tests of the tracer need: a machine on which it works, and recorders that end."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overlay.errors import EnvironmentLacks
from tests.tracer.running import start_recording
from tracer.backend import open_backend
from tracer.program import Filters


@pytest.fixture(scope="session")
def _works() -> str | None:
    """None where tracing works, else what is missing."""
    try:
        open_backend(None, Filters()).close()
    except EnvironmentLacks as error:
        return str(error)
    return None


@pytest.fixture
def tracing(root: None, _works: str | None) -> None:
    """Skip where the kernel lets nobody trace."""
    if _works is not None:
        pytest.skip(f"needs: tracing ({_works})")


Recorder = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def recording() -> Iterator[Recorder]:
    """Starts ``trace record`` with the arguments given, and returns it once it has begun."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        recorder = start_recording(*arguments)
        running.append(recorder)
        assert recorder.stderr is not None
        for line in recorder.stderr:
            if "tracing" in line:
                return recorder
        raise AssertionError(f"ended with {recorder.wait()}")

    yield start
    for recorder in running:
        recorder.kill()
        recorder.wait()
        assert recorder.stderr is not None
        recorder.stderr.close()
