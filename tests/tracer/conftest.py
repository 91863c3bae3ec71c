"""What tests of the tracer need: a machine on which it works."""

from __future__ import annotations

import pytest

from overlay.errors import EnvironmentLacks
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
