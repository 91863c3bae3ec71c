"""Finding bcc, which distributions install for their own Python only.

Its modules are pure Python over libbcc.so, so any CPython 3 can use them once their
directory is known.  Only the package ``bcc`` is taken from there: putting the whole
``dist-packages`` on ``sys.path`` would let its other packages shadow ours.
"""

from __future__ import annotations

import glob
import importlib
import importlib.util
import os
import sys
from types import ModuleType

from overlay.errors import EnvironmentLacks

__all__ = ["NoBcc", "load"]

_PLACES: tuple[str, ...] = (
    "/usr/lib/python3/dist-packages",  # Debian, Ubuntu
    "/usr/lib/python3.*/site-packages",  # Fedora, Arch, openSUSE
    "/usr/lib64/python3.*/site-packages",
    "/usr/local/lib/python3.*/dist-packages",
    "/usr/local/lib/python3.*/site-packages",
)


class NoBcc(EnvironmentLacks):
    """The BPF compiler collection is not installed, or cannot be loaded."""


def load() -> ModuleType:
    """The package ``bcc``, from wherever the distribution put it.

    Raises :class:`NoBcc` when it is nowhere, or when its library does not load.
    """
    if "bcc" in sys.modules:
        return sys.modules["bcc"]
    try:
        if importlib.util.find_spec("bcc") is not None:
            return importlib.import_module("bcc")
        for place in _candidates():
            return _import_from(place)
    except (ImportError, OSError) as error:
        sys.modules.pop("bcc", None)
        raise NoBcc(
            f"bcc is installed but cannot be loaded: {error}",
            hint="on Debian: apt install --reinstall python3-bpfcc libbpfcc",
        ) from error
    raise NoBcc(
        "bcc, which compiles and loads the probes, is not installed",
        hint="on Debian: apt install python3-bpfcc (Fedora, Arch: python3-bcc, python-bcc)",
    )


def _candidates() -> list[str]:
    found = []
    for pattern in _PLACES:
        for place in sorted(glob.glob(pattern), reverse=True):
            if os.path.exists(os.path.join(place, "bcc", "__init__.py")):
                found.append(os.path.join(place, "bcc"))
    return found


def _import_from(directory: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "bcc", os.path.join(directory, "__init__.py"), submodule_search_locations=[directory]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no package at {directory}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    spec.loader.exec_module(module)
    return module
