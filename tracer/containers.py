"""Which container a cgroup is, and what people call it.

Engines put each container into a cgroup that carries its id; what the id is called they
keep in files of their own.
"""

from __future__ import annotations

import functools
import json
import os
import re

from overlay.errors import UsageError
from overlay.text import printable

__all__ = ["cgroup_of", "container_of"]

_ID = "[0-9a-f]{64}"
#: The last part of a path that one of these matches is the container's own.
_IN_CGROUP = (
    # docker, podman, containerd, CRI-O: as systemd scopes, or below a directory of theirs.
    re.compile(rf"(?:docker|libpod|cri-containerd|crio)-(?P<id>{_ID})(?:\.scope)?\Z"),
    re.compile(rf"(?P<id>{_ID})\Z"),
    re.compile(r"lxc\.payload\.(?P<name>.+)\Z"),
    # systemd-nspawn and machinectl; systemd writes a dash in a name as \x2d.
    re.compile(r"machine-(?P<name>.+)\.scope\Z"),
)
_DOCKER = "/var/lib/docker/containers"
_PODMAN = "/var/lib/containers/storage/overlay-containers/containers.json"


def container_of(cgroup: str | None) -> str | None:
    """The name of the container whose cgroup (a path below the cgroup2 root) this is, or is
    in; the first 12 digits of its id where it has no name; None for no container's."""
    for part in reversed((cgroup or "").split("/")):
        for pattern in _IN_CGROUP:
            found = pattern.match(part)
            if not found:
                continue
            if "id" in pattern.groupindex:
                return _name_of(found["id"]) or found["id"][:12]
            return re.sub(r"\\+x2d", "-", found["name"])
    return None


def cgroup_of(container: str, root: str) -> str:
    """The directory, below the cgroup2 mount ``root``, of the running container that is
    called so or whose id begins so.  Raises :class:`UsageError` where there is not exactly one.
    """
    found, names = [], set()
    for directory, below, _ in os.walk(root):
        path = directory[len(root) :]
        name = container_of(path)
        if name is None:
            continue
        below.clear()  # what is in it belongs to it
        names.add(name)
        ident = re.search(_ID, os.path.basename(path))
        if name == container or (ident and len(container) >= 4 and ident[0].startswith(container)):
            found.append(directory)
    if len(found) == 1:
        return found[0]
    running = f"running: {', '.join(sorted(names))}" if names else "none is running here"
    raise UsageError(
        f"{'no' if not found else 'more than one'} container is called {printable(container)}",
        hint=running if not found else "give its id, or --cgroup",
    )


@functools.lru_cache(4096)
def _name_of(ident: str) -> str | None:
    name = _docker_name(ident) or _podman_names().get(ident)
    return printable(os.fsencode(name)) if name else None


def _docker_name(ident: str) -> str | None:
    try:
        with open(f"{_DOCKER}/{ident}/config.v2.json", "rb") as file:
            name = json.load(file)["Name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name.lstrip("/") if isinstance(name, str) else None


def _podman_names() -> dict[str, str]:
    try:
        with open(_PODMAN, "rb") as file:
            return {one["id"]: one["names"][0] for one in json.load(file) if one.get("names")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
