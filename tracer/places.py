"""Where traces lie: in directories of this machine, or behind a URL that fsspec can open.

``s3://bucket/traces``, ``https://…``, ``memory://…``: a URL's scheme says which file system it is
of, and that file system's own package must be installed (s3fs for ``s3``).
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

from overlay.errors import EnvironmentLacks, OperationFailed
from overlay.text import printable

__all__ = ["MissingFileSystem", "Place", "PlaceFailed", "is_url", "place_of"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class MissingFileSystem(EnvironmentLacks):
    """The trace has a URL, and what would open it is not installed."""


class PlaceFailed(OperationFailed):
    """What is behind a URL cannot be reached or read."""


class Place(Protocol):
    """One file system: names in it are whole paths or URLs, as :meth:`whole` gives them."""

    def whole(self, path: str) -> str:
        """The one name of ``path``: absolute, or a URL."""

    def is_directory(self, path: str) -> bool: ...

    def exists(self, path: str) -> bool: ...

    def matches(self, pattern: str) -> list[str]:
        """What a glob stands for, in order."""

    def names(self, directory: str) -> list[str]:
        """What is directly in a directory."""

    def below(self, directory: str) -> Iterator[tuple[str, list[str]]]:
        """Every directory at or below one that holds files, and their names."""

    def open(self, path: str) -> BinaryIO: ...


def is_url(path: str) -> bool:
    return _URL.match(path) is not None


def place_of(path: str) -> Place:
    """The file system that ``path`` is in.  Raises :class:`MissingFileSystem`."""
    return _Remote(path) if is_url(path) else _Local()


class _Local:
    def whole(self, path: str) -> str:
        return os.path.abspath(path)

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def matches(self, pattern: str) -> list[str]:
        return sorted(glob.glob(pattern, recursive=True))

    def names(self, directory: str) -> list[str]:
        return os.listdir(directory)

    def below(self, directory: str) -> Iterator[tuple[str, list[str]]]:
        return ((where, names) for where, _, names in os.walk(directory))

    def open(self, path: str) -> BinaryIO:
        return open(path, "rb")


class _Remote:
    """What fsspec opens.  Every such file system has exceptions of its own."""

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingFileSystem(
                f"{printable(url)} needs fsspec, which is not installed",
                hint="pip install 'fallthru[fleet]'",
            ) from error
        try:
            self._system: Any = url_to_fs(url)[0]
        except ImportError as error:  # it says which package
            raise MissingFileSystem(
                f"{printable(url)} cannot be opened here: {printable(str(error))}",
                hint=f"install what fsspec needs for {scheme}://",
            ) from error
        except ValueError as error:
            raise MissingFileSystem(
                f"{printable(url)} cannot be opened: {printable(str(error))}",
                hint="name a directory, or a URL of a kind that fsspec knows",
            ) from error

    def whole(self, path: str) -> str:
        from fsspec.core import url_to_fs

        inside = url_to_fs(path)[1] if is_url(path) else path
        found: str = self._system.unstrip_protocol(inside)
        return found

    def is_directory(self, path: str) -> bool:
        with _said(path):
            return bool(self._system.isdir(path))

    def exists(self, path: str) -> bool:
        with _said(path):
            return bool(self._system.exists(path))

    def matches(self, pattern: str) -> list[str]:
        with _said(pattern):
            return sorted(map(self.whole, self._system.glob(pattern)))

    def names(self, directory: str) -> list[str]:
        with _said(directory):
            listed = self._system.ls(directory, detail=False)
        return [os.path.basename(one.rstrip("/")) for one in listed]

    def below(self, directory: str) -> Iterator[tuple[str, list[str]]]:
        with _said(directory):
            listed = [self.whole(one) for one in self._system.find(directory)]
        found: dict[str, list[str]] = {}
        for one in listed:
            found.setdefault(os.path.dirname(one), []).append(os.path.basename(one))
        return iter(found.items())

    def open(self, path: str) -> BinaryIO:
        with _said(path):
            opened: BinaryIO = self._system.open(path, "rb")
        return opened


@contextmanager
def _said(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise PlaceFailed(
            f"{printable(path)} cannot be read: {printable(str(error) or type(error).__name__)}",
            hint="is the URL right, and may you read what is there?",
        ) from error
