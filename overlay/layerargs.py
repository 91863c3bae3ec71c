"""Telling overlayfs its layers: by descriptor, one by one, or as one escaped string.

Descriptors (since 6.13, "ovl: specify layers via file descriptors") leave nothing to
quote, so any byte may stand in a path.  Before, ``lowerdir+`` (6.8) takes one layer as
it is, while ``upperdir`` and ``workdir`` are unescaped; before that, and through the old
option parser (< 6.5), everything is one string in which ``:`` and ``\\`` are escaped.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from overlay import images, syscalls
from overlay.errors import EnvironmentLacks
from overlay.preflight import Directory, OpenLayers
from overlay.text import printable

__all__ = ["configure", "escape", "names", "takes_appended_bottoms", "takes_descriptors"]

_NOTHING: AbstractContextManager[None] = nullcontext()


def escape(path: str) -> str:
    """A layer's path inside ``lowerdir``: a backslash before each colon and backslash."""
    return path.replace("\\", "\\\\").replace(":", "\\:")


@functools.cache
def takes_descriptors() -> bool:
    """Whether overlayfs takes layers by descriptor, found out by trying."""
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _accepts(lambda fs: syscalls.fsconfig_fd(fs, "lowerdir+", fd))
    finally:
        os.close(fd)


@functools.cache
def takes_appended_bottoms() -> bool:
    """Whether overlayfs takes bottoms one by one (``lowerdir+``), found out by trying.

    The old parser looks at no option before the overlay is created: it takes any.
    """
    return not _takes_anything() and _accepts(
        lambda fs: syscalls.fsconfig_string(fs, "lowerdir+", "/")
    )


@functools.cache
def _takes_anything() -> bool:
    """Whether options go through the old parser (before 6.5), which collects them unread."""
    return _accepts(lambda fs: syscalls.fsconfig_flag(fs, "no-such-option"))


def _accepts(configure_one: Callable[[int], None]) -> bool:
    fs = syscalls.fsopen("overlay")
    try:
        configure_one(fs)
    except OSError:
        return False
    finally:
        os.close(fs)
    return True


def names(layers: OpenLayers) -> AbstractContextManager[None]:
    """While this is entered the kernel can look up all layers: until the overlay is made."""
    lower = layers.bottoms if layers.index is None else (layers.index, *layers.bottoms)
    attached = [bottom.image for bottom in lower if bottom.image]
    return images.named(attached) if attached else _NOTHING


def configure(fs: int, layers: OpenLayers) -> None:
    """Name the layers of an overlay that is being configured; OSError as the kernel says."""
    merged: tuple[Directory, ...] = layers.bottoms
    data: tuple[Directory, ...] = ()
    if layers.index is not None:
        merged, data = (layers.index,), layers.bottoms
    if takes_descriptors():
        for key, bottoms in (("lowerdir+", merged), ("datadir+", data)):
            for bottom in bottoms:
                if bottom.image:  # by descriptor, the kernel would show every image as "/"
                    syscalls.fsconfig_string(fs, key, bottom.image.recorded)
                else:
                    syscalls.fsconfig_fd(fs, key, bottom.fd)
        syscalls.fsconfig_fd(fs, "upperdir", layers.top.fd)
        syscalls.fsconfig_fd(fs, "workdir", layers.work.fd)
        return
    if takes_appended_bottoms():
        for bottom in merged:
            syscalls.fsconfig_string(fs, "lowerdir+", _path(bottom))
        for bottom in data:
            syscalls.fsconfig_string(fs, "datadir+", _path(bottom))
    else:
        # Data-only bottoms (since 6.5) follow two colons each.
        joined = ":".join(escape(_path(bottom)) for bottom in merged)
        joined += "".join("::" + escape(_path(bottom)) for bottom in data)
        _set_legacy(fs, "lowerdir", joined)
    # A colon separates bottoms only; escaped here, mountinfo would show the backslash.
    _set_legacy(fs, "upperdir", layers.top.path.replace("\\", "\\\\"))
    _set_legacy(fs, "workdir", layers.work.path.replace("\\", "\\\\"))


def _path(bottom: Directory) -> str:
    return bottom.image.recorded if bottom.image else bottom.path


def _set_legacy(fs: int, key: str, value: str) -> None:
    try:
        syscalls.fsconfig_string(fs, key, value)
    except OSError as error:
        # The old parser joins all options with commas and has no way to quote one.
        if error.errno == errno.EINVAL and "," in value:
            raise EnvironmentLacks(
                f"this kernel's overlayfs takes no layer with a comma in its path: "
                f"{printable(value)}",
                hint="rename the directory, or bind-mount it elsewhere",
                errno=errno.EINVAL,
            ) from None
        raise
