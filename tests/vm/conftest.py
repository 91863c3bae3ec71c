"""The guests that tests share: asked ahead for what takes minutes, and ended with the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes import children, wait_gone
from tests.vm.guests import begin, end_guests, listen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What was asked ahead is asked for last."""
    items.sort(key=lambda item: item.get_closest_marker("ahead") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What takes a guest minutes begins now, beside the tests of this machine's kernel."""
    if not session.config.option.collectonly:
        session.config.pluginmanager.register(_Listener())
        for item in session.items:
            asked = item.get_closest_marker("ahead")
            if asked and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
                asked.kwargs["ask"](**item.callspec.params)
        begin()


class _Listener:
    """A plugin, since of this file only tests beside it would call the function."""

    def pytest_runtest_logfinish(self) -> None:
        listen()


@pytest.fixture(scope="session", autouse=True)
def shared_guests() -> Iterator[None]:
    yield
    end_guests()
    for pid in children():  # what a machine leaves becomes this process's (tests/conftest.py)
        wait_gone(pid)


def pytest_sessionfinish() -> None:
    """Also where no test of this directory ran after all."""
    end_guests()
