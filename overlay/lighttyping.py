"""What is needed of :mod:`typing` at run time, without importing it, which takes 10 ms.

The modules that every start of ``fallthru try`` loads have their named tuples from here.  Names
that only annotations use, which are never evaluated, they import under ``TYPE_CHECKING``.
"""

from __future__ import annotations

from collections import namedtuple

__all__ = ["TYPE_CHECKING", "NamedTuple"]

#: Type checkers know this name, and take it for true.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import NamedTuple
else:

    class _OfFields(type):
        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body["__annotations__"]
            defaults = [body.pop(field) for field in fields if field in body]
            plain = namedtuple(name, fields, defaults=defaults)
            return type(name, (plain,), {"__slots__": (), **body})

    class NamedTuple(metaclass=_OfFields):
        """A class of annotated fields becomes a named tuple, as with :class:`typing.NamedTuple`."""
