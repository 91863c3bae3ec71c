"""Named tuples without typing: as those with it, by which the expectations are checked."""

from __future__ import annotations

import typing
from typing import Any

import pytest

from overlay import lighttyping


def made_with(base: Any) -> Any:
    class Place(base):  # type: ignore[misc]
        """A place."""

        path: str
        depth: int = 0
        ways: tuple[str, ...] = ()

        @property
        def last(self) -> str:
            return self.path.rpartition("/")[2]

        def __hash__(self) -> int:
            return hash(self.path)

    return Place


@pytest.mark.parametrize("base", [lighttyping.NamedTuple, typing.NamedTuple])
def test_a_class_of_fields_is_a_named_tuple(base: Any) -> None:
    kind = made_with(base)
    value = kind("/srv/top", ways=("a",))
    assert value == ("/srv/top", 0, ("a",))
    assert repr(value) == "Place(path='/srv/top', depth=0, ways=('a',))"
    assert value._replace(depth=2) == kind("/srv/top", 2, ("a",))
    assert value._asdict() == {"path": "/srv/top", "depth": 0, "ways": ("a",)}
    assert (value.last, hash(value)) == ("top", hash("/srv/top"))
    assert kind._fields == ("path", "depth", "ways")
    assert kind._field_defaults == {"depth": 0, "ways": ()}
    assert (kind.__doc__, kind.__module__) == ("A place.", __name__)
    with pytest.raises(AttributeError):
        value.more = 1  # no dictionary
    with pytest.raises(AttributeError):
        value.depth = 1
    with pytest.raises(TypeError):
        kind()
