"""The guests that tests share end with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes import children, wait_gone
from tests.vm.guests import end_guests


@pytest.fixture(scope="session", autouse=True)
def shared_guests() -> Iterator[None]:
    yield
    end_guests()
    for pid in children():  # what a machine leaves becomes this process's (tests/conftest.py)
        wait_gone(pid)
