"""Runs in a guest with container engines on a disk: containers that copy up while somebody
traces, what the engines say of them, and what the trace says, as JSON."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENGINES = ("docker", "podman")
#: What images have in /data.  A file is copied up once only, so each recording has its own.
SIZES = {"two": 2003, "three": 3001, "five": 5003, "seven": 7001, "eleven": 11003}
BASE = Path("/tmp/containers")
DISK = "/dev/vdc"
LONGEST = 1200  # seconds; on two cores that were busy with two more guests it took 11 minutes
STARTING = 180  # seconds, for a daemon that takes 15


def call(*words: str | os.PathLike[str], given: bytes = b"") -> str:
    """What the command printed; what it complains about goes to where ours does."""
    # When it is ended for taking too long, this is how far it got.
    print(f"{time.monotonic():.0f} s:", *words, file=sys.stderr, flush=True)
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, input=given)
    return done.stdout.decode().strip()


def make_machine() -> None:
    """What engines expect, and this guest does not have: an /etc and a /var to write to, and
    their libraries where a program finds them that knows nothing of this."""
    engines, disk, etc = BASE / "engines", BASE / "disk", BASE / "etc"
    engines.mkdir(parents=True)
    call("mount", "-o", "ro", DISK, engines)
    with disk.open("wb") as file:
        file.truncate(512 << 20)
    call("mkfs.ext4", "-q", disk)
    call("mount", "-o", "loop", disk, "/var")
    for name in ("cache", "lib", "tmp"):
        Path("/var", name).mkdir()
    Path("/var/run").symlink_to("/run")
    shutil.copytree("/etc", etc, symlinks=True)
    shutil.copytree(engines / "etc/containers", etc / "containers")
    call("mount", "--bind", etc, "/etc")
    libraries = engines / "usr/lib/x86_64-linux-gnu"
    Path("/etc/ld.so.conf.d/engines.conf").write_text(f"{libraries}\n", "utf-8")
    call("ldconfig")
    os.environ["PATH"] += f":{engines}/usr/bin:{engines}/usr/sbin"


@contextmanager
def docker_daemon() -> Iterator[None]:
    network = ("--bridge=none", "--iptables=false", "--ip6tables=false")
    with (BASE / "dockerd.log").open("wb+") as log:
        command = ("dockerd", *network, "--storage-driver=overlay2")
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
        limit = time.monotonic() + STARTING
        while subprocess.run(("docker", "version"), capture_output=True, check=False).returncode:
            if daemon.poll() is not None or time.monotonic() > limit:
                log.seek(0)
                sys.exit("dockerd does not come up:\n" + log.read().decode(errors="replace"))
            time.sleep(0.5)
        yield
        daemon.terminate()
        daemon.wait()


def image() -> bytes:
    """A root with a shell, as a tar archive."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add("/usr/bin/busybox", "bin/busybox")
        for name in ("chmod", "sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name, size in SIZES.items():
            file = tarfile.TarInfo(f"data/{name}")
            file.size = size
            archive.addfile(file, io.BytesIO(bytes(size)))
    return made.getvalue()


def started(engine: str, root: bytes) -> dict[str, str]:
    """A container that stays, named after its engine: its id, name and top as that says."""
    call(engine, "import", "-", "tiny", given=root)
    offline = ("--network", "none")
    call(engine, "run", "--detach", *offline, "--name", engine, "tiny", "sleep", "1000000")
    wanted = "{{.Id}} {{.Name}} {{.GraphDriver.Data.UpperDir}}"
    words = call(engine, "inspect", "--format", wanted, engine).split()
    return dict(zip(("id", "name", "top"), words, strict=True))


def in_each(script: str) -> str:
    """A shell command that has ``script`` run in the container of each engine."""
    return "; ".join(f"{engine} exec {engine} sh -c '{script}'" for engine in ENGINES)


def in_new_ones(script: str) -> str:
    """One that has each engine run it in a container that is removed when it ends."""
    return "; ".join(
        f"{engine} run --rm --network none --cidfile {BASE}/{engine}.cid --name late-{engine} "
        f"tiny sh -c '{script}'"
        for engine in ENGINES
    )


def recorded(place: Path, script: str, *options: str) -> dict[str, Any]:
    """What is in a recording of everybody while the shell runs ``script``."""
    call("fallthru", "trace", "record", "--all", *options, "-o", place, "--", "sh", "-ec", script)
    found: dict[str, Any] = json.loads(shown(place, "--json"))
    return found


def shown(place: Path, *options: str) -> str:
    return call("fallthru", "trace", "show", "--kind", "copyup", *options, place)


def watched(ident: str) -> dict[str, Any]:
    """What ``trace top`` says of one of the containers, when both copied up a file."""
    command = ("fallthru", "trace", "top", "--container", ident, "--interval", "500ms", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as top:
        assert top.stdout is not None
        top.stdout.readline()  # it has begun
        call("sh", "-ec", in_each("echo more >>/data/eleven"))
        told: dict[str, Any] = {}
        while not told.get("total", {}).get("count"):
            told = json.loads(top.stdout.readline())
        top.terminate()
        return told


def main() -> None:
    BASE.mkdir()
    os.environ["CACHE_DIRECTORY"] = str(BASE / "cache")  # probes are compiled once
    make_machine()
    with docker_daemon():
        root = image()
        told: dict[str, Any] = {"engines": {name: started(name, root) for name in ENGINES}}
        work = in_each("echo more >>/data/two; chmod 600 /data/three")
        late = in_new_ones("echo more >>/data/five")
        told["everybody"] = recorded(BASE / "everybody", f"{work}; {late}")
        told["text"] = shown(BASE / "everybody")
        told["late"] = {name: (BASE / f"{name}.cid").read_text("ascii") for name in ENGINES}
        both = in_each("echo more >>/data/seven")
        told["docker's"] = recorded(BASE / "one", both, "--container", "docker")
        told["podman's"] = watched(told["engines"]["podman"]["id"][:8])
        for engine in ENGINES:
            call(engine, "kill", engine)
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
