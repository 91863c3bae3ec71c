"""What container engines are asked for, each in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["BASE", "SETS", "Engine"]

#: Where the guest has what is only there for the engines.
BASE: Final = Path("/tmp/containers")
_STAYING: Final = "sleep 1000000"


@dataclass(frozen=True)
class Engine:
    """Shell commands.  The container that stays is called as the engine, and the one that is
    removed when it ends ``late-`` and that."""

    #: Makes an image of the root that it is given as a tar archive.
    take: str
    stay: str
    #: Print the id of the one that stays, and its top among other words.
    ident: str
    top: str
    #: What is to be run in the one that stays, and in the other, is to follow.
    inside: str
    late: str
    end: str


def _docker(name: str, top: str) -> Engine:
    """docker or podman, which has docker's words."""
    run = f"{name} run --network none"
    inspect = f"{name} inspect {name} --format"
    return Engine(
        take=f"{name} import - tiny",
        stay=f"{run} --detach --name {name} tiny {_STAYING}",
        ident=f"{inspect} '{{{{.Id}}}}'",
        top=top or f"{inspect} 'upperdir={{{{.GraphDriver.Data.UpperDir}}}}'",
        inside=f"{name} exec {name}",
        late=f"{run} --rm --cidfile {BASE}/{name}.cid --name late-{name} tiny",
        end=f"{name} kill {name}",
    )


#: With containerd's image store it is containerd alone that knows of tops.
_STORED: Final = "ctr -n moby snapshot mounts / $(docker inspect docker --format '{{.Id}}')"

_CTR: Final = Engine(
    take="docker save tiny | ctr image import -",
    stay=f"ctr run --detach --null-io docker.io/library/tiny:latest ctr {_STAYING}",
    ident="echo ctr",
    top="ctr snapshot mounts / ctr",
    inside="ctr task exec --exec-id one ctr",
    late="ctr run --rm docker.io/library/tiny:latest late-ctr",
    end="ctr task kill --signal KILL ctr",
)

#: Engines that run side by side, by name.
SETS: Final[Mapping[str, Mapping[str, Engine]]] = {
    "of Debian 12": {"docker": _docker("docker", ""), "podman": _docker("podman", "")},
    # One containerd for both, as Debian and docker's own packages have it.
    "with containerd": {"docker": _docker("docker", _STORED), "ctr": _CTR},
}
