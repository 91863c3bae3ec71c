"""The guests that tests share end with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.guests import end_guests


@pytest.fixture(scope="session", autouse=True)
def shared_guests() -> Iterator[None]:
    yield
    end_guests()
