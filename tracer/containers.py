"""Which container a cgroup or a union is of, and what people call it.

Engines put each container into a cgroup that carries its id, and mount its root at a place
of theirs; what the id is called, and which top is whose, they keep in files of their own.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence

from overlay.errors import UsageError
from overlay.text import printable

__all__ = ["cgroup_of", "container_of", "owners"]

_ID = "[0-9a-f]{64}"
#: The last part of a path that one of these matches is the container's own.
_IN_CGROUP = (
    # docker, podman, containerd, CRI-O: as systemd scopes, or below a directory of theirs.
    re.compile(rf"(?:docker|libpod|cri-containerd|nerdctl|crio)-(?P<id>{_ID})(?:\.scope)?\Z"),
    re.compile(rf"(?P<id>{_ID})\Z"),
    re.compile(r"lxc\.payload\.(?P<name>.+)\Z"),
    # systemd-nspawn and machinectl; systemd writes a dash in a name as \x2d.
    re.compile(r"machine-(?P<name>.+)\.scope\Z"),
)
#: Only where root keeps them: elsewhere they could be anybody's, of any size.
_DOCKER = "/var/lib/docker"
_STORAGE = "/var/lib/containers/storage"
_TASKS = "/run/containerd/io.containerd.runtime.v2.task"
#: A union's mount point, or its top, says whose it is: by the container's id, where containerd
#: or docker with containerd's image store mounted it, else by the name of the top.
_ROOTS = (
    re.compile(r"/io\.containerd\.runtime\.v2\.task/[^/]+/(?P<id>[^/]+)/rootfs\Z"),
    re.compile(rf"/rootfs/[^/]+/(?P<id>{_ID})\Z"),  # overlayfs, or another snapshotter: stargz
    re.compile(rf"/(?:overlay2|overlay)/(?P<layer>{_ID})/(?:merged|diff)\Z"),
)


def container_of(cgroup: str | None) -> str | None:
    """The name of the container whose cgroup (a path below the cgroup2 root) this is, or is
    in; the first 12 digits of its id where it has no name; None for no container's."""
    parts = (cgroup or "").split("/")
    for part in reversed(parts):
        for pattern in _IN_CGROUP:
            found = pattern.match(part)
            if not found:
                continue
            if "id" in pattern.groupindex:
                return _called(found["id"])
            return re.sub(r"\\+x2d", "-", found["name"])
    return _task(parts)


def _task(parts: Sequence[str]) -> str | None:
    """What containerd calls the container at ``/NAMESPACE/NAME``, its default for a cgroup, which
    alone says nothing: people choose both.  So the container must be running."""
    _, namespace, name, *_ = (*parts, "", "", "")
    return name if name and os.path.isdir(f"{_TASKS}/{namespace}/{name}") else None


def owners(unions: Mapping[int, Sequence[str]]) -> dict[int, str]:
    """Those of ``unions`` (mount point and top, by any key) that are roots of containers, with
    what :func:`container_of` would call these."""
    found = {key: match for key, places in unions.items() if (match := _root(places))}
    # Each time anew, and once for all that were found together.
    layers = dict(_layers()) if any("layer" in one.groupdict() for one in found.values()) else {}
    idents = {
        key: one.groupdict().get("id") or layers.get(one["layer"]) for key, one in found.items()
    }
    return {key: _called(ident) for key, ident in idents.items() if ident}


def _root(places: Sequence[str]) -> re.Match[str] | None:
    matches = (one.search(place) for one in _ROOTS for place in places)
    return next(filter(None, matches), None)


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


def _called(ident: str) -> str:
    if not re.fullmatch(_ID, ident):
        return printable(ident)  # containerd lets people choose
    return _name_of(ident) or ident[:12]


@functools.lru_cache(4096)
def _name_of(ident: str) -> str | None:
    name = _docker_name(ident) or _podman_names().get(ident)
    return printable(os.fsencode(name)) if name else None


def _docker_name(ident: str) -> str | None:
    try:
        with open(f"{_DOCKER}/containers/{ident}/config.v2.json", "rb") as file:
            name = json.load(file)["Name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name.lstrip("/") if isinstance(name, str) else None


def _layers() -> Iterator[tuple[str, str]]:
    """Tops of containers, and whose they are."""
    for ident, layer, _ in _stored():
        yield layer, ident
    mounts = f"{_DOCKER}/image/overlay2/layerdb/mounts"
    try:
        idents = os.listdir(mounts)
    except OSError:
        return
    for ident in idents:
        try:
            with open(f"{mounts}/{ident}/mount-id", encoding="ascii") as file:
                yield file.read(), ident
        except (OSError, ValueError):
            continue  # it is in the making, or was removed


def _podman_names() -> dict[str, str]:
    return {ident: name for ident, _, name in _stored() if name}


def _stored() -> Iterator[tuple[str, str, str | None]]:
    """The containers of podman and CRI-O: id, top, name."""
    # Those made with --rm are in the second (podman 4.4).
    for name in ("containers.json", "volatile-containers.json"):
        try:
            with open(f"{_STORAGE}/overlay-containers/{name}", "rb") as file:
                for one in json.load(file):
                    names = one.get("names")
                    yield str(one["id"]), str(one.get("layer")), str(names[0]) if names else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
