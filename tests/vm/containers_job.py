"""Runs in a guest with container engines on a disk: containers of a set of engines that copy up
while somebody traces, what the engines say of them, and what the trace says, as JSON."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.vm.engines import BASE, SETS, Engine

#: What images have in /data.  A file is copied up once only, so each recording has its own.
SIZES = {"two": 2003, "three": 3001, "five": 5003, "seven": 7001, "eleven": 11003}
DISK = "/dev/vdc"
LONGEST = 1200  # seconds; on two cores that were busy with two more guests it took 11 minutes
STARTING = 180  # seconds, for a daemon that takes 15


def call(*words: str | os.PathLike[str], given: bytes = b"") -> str:
    """What the command printed; what it complains about goes to where ours does."""
    # When it is ended for taking too long, this is how far it got.
    print(f"{time.monotonic():.0f} s:", *words, file=sys.stderr, flush=True)
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, input=given)
    return done.stdout.decode().strip()


def shell(script: str, given: bytes = b"") -> str:
    return call("sh", "-ec", script, given=given)


def make_machine(*, later: bool) -> None:
    """What engines expect, and this guest does not have: an /etc and a /var to write to, and
    their libraries where a program finds them that knows nothing of this.  ``later``: those of
    the later release come first."""
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
    for tree in (*([engines / "later"] if later else []), engines):
        os.environ["PATH"] += f":{tree}/usr/bin:{tree}/usr/sbin"


@contextmanager
def daemon(client: str, *command: str | os.PathLike[str]) -> Iterator[None]:
    """One that has answered its client."""
    with (BASE / f"{client}.log").open("wb+") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
        limit = time.monotonic() + STARTING
        while subprocess.run((client, "version"), capture_output=True, check=False).returncode:
            if running.poll() is not None or time.monotonic() > limit:
                log.seek(0)
                sys.exit(f"{command[0]} does not come up:\n" + log.read().decode(errors="replace"))
            time.sleep(0.5)
        yield
        running.terminate()
        running.wait()


@contextmanager
def daemons(*, later: bool) -> Iterator[None]:
    network = ("--bridge=none", "--iptables=false", "--ip6tables=false")
    with ExitStack() as stack:
        if later:
            Path("/etc/docker").mkdir()
            store = {"features": {"containerd-snapshotter": True}}
            Path("/etc/docker/daemon.json").write_text(json.dumps(store), "utf-8")
            stack.enter_context(daemon("ctr", "containerd"))
            options = ["--containerd=/run/containerd/containerd.sock"]
        else:
            options = ["--storage-driver=overlay2"]
        stack.enter_context(daemon("docker", "dockerd", *network, *options))
        yield


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


def started(engine: Engine, root: bytes) -> dict[str, str]:
    """A container that stays: its id as the engine says, and where the kernel has a union with
    the top that the engine says."""
    shell(engine.take, given=root)
    shell(engine.stay)
    (top,) = re.findall(r"upperdir=[^,\s]+", shell(engine.top))
    unions = shell("findmnt --raw --noheadings --types overlay --output TARGET,OPTIONS")
    (mount,) = [line.split()[0] for line in unions.splitlines() if f"{top}," in line]
    return {"id": shell(engine.ident), "mount": mount}


def in_each(engines: Mapping[str, Engine], script: str) -> str:
    """A shell command that has ``script`` run in the container of each engine."""
    return "; ".join(f"{engine.inside} sh -c '{script}'" for engine in engines.values())


def in_new_ones(engines: Mapping[str, Engine], script: str) -> str:
    """One that has each engine run it in a container that is removed when it ends."""
    return "; ".join(f"{engine.late} sh -c '{script}'" for engine in engines.values())


def recorded(place: Path, script: str, *options: str) -> dict[str, Any]:
    """What is in a recording of everybody while the shell runs ``script``."""
    call("fallthru", "trace", "record", "--all", *options, "-o", place, "--", "sh", "-ec", script)
    found: dict[str, Any] = json.loads(shown(place, "--json"))
    return found


def shown(place: Path, *options: str) -> str:
    return call("fallthru", "trace", "show", "--kind", "copyup", *options, place)


def watched(ident: str, script: str) -> dict[str, Any]:
    """What ``trace top`` says of one of the containers, when both copied up a file."""
    command = ("fallthru", "trace", "top", "--container", ident, "--interval", "500ms", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as top:
        assert top.stdout is not None
        top.stdout.readline()  # it has begun
        shell(script)
        told: dict[str, Any] = {}
        while not told.get("total", {}).get("count"):
            told = json.loads(top.stdout.readline())
        top.terminate()
        return told


def late_ident(name: str) -> str:
    """Of the container that was removed: as its engine wrote it, or what it was called."""
    written = BASE / f"{name}.cid"
    return written.read_text("ascii") if written.exists() else f"late-{name}"


def main(kind: str) -> None:
    BASE.mkdir()
    os.environ["CACHE_DIRECTORY"] = str(BASE / "cache")  # probes are compiled once
    engines = SETS[kind]
    one, other = engines
    later = "ctr" in engines
    make_machine(later=later)
    with daemons(later=later):
        root = image()
        told: dict[str, Any] = {
            "engines": {name: started(engine, root) for name, engine in engines.items()}
        }
        work = in_each(engines, "echo more >>/data/two; chmod 600 /data/three")
        late = in_new_ones(engines, "echo more >>/data/five")
        told["everybody"] = recorded(BASE / "everybody", f"{work}; {late}")
        told["text"] = shown(BASE / "everybody")
        told["late"] = {name: late_ident(name) for name in engines}
        both = in_each(engines, "echo more >>/data/seven")
        told["one's"] = recorded(BASE / "one", both, "--container", one)
        again = in_each(engines, "echo more >>/data/eleven")
        told["other's"] = watched(told["engines"][other]["id"][:8], again)
        for engine in engines.values():
            shell(engine.end)
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
