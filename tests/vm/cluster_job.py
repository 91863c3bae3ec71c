"""In a guest: a cluster whose nodes have one root over NFS, and each an overlay on it (L36–L40).

One kernel is the server and all nodes.  A node is a process with a network, mounts and a
host name of its own: a name, because by that an NFSv4 server tells its clients apart.
The kernel's server asks user space who may mount what; here the answers are written to it
beforehand, so that it takes no mountd.  Prints JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from overlay import conflicts, errors, kernel, mountinfo, status, syscalls

NODES = 3
SERVER = "10.99.0.1"
EXPORT = Path("/tmp/export")
FOREVER = 2**31 - 1
#: Read-only, any port, root as root, all below it, number 0: include/uapi/linux/nfsd/export.h.
FLAGS = 0x1 | 0x2 | 0x400 | 0x2000


def address(node: int) -> str:
    return f"10.99.0.{10 + node}"


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def serve() -> None:
    """Export EXPORT, read-only, to all nodes."""
    # The guest's own: the modules are not in their usual place.
    run(Path("/proc/sys/kernel/modprobe").read_text().strip(), "nfsd")
    if not os.path.ismount("/proc/fs/nfsd"):
        run("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
    domain = "cluster"
    caches = Path("/proc/net/rpc")
    for node in range(NODES):
        answer = f"nfsd {address(node)} {FOREVER} {domain}\n"
        (caches / "auth.unix.ip/channel").write_text(answer)
    # What is exported as number 0 is the root of NFSv4.
    (caches / "nfsd.export/channel").write_text(f"{domain} {EXPORT} {FOREVER} {FLAGS} -2 -2 0\n")
    (caches / "nfsd.fh/channel").write_text(f"{domain} 1 \\x00000000 {FOREVER} {EXPORT}\n")
    # The older versions want to be registered with rpcbind.
    Path("/proc/fs/nfsd/versions").write_text("-3 +4 +4.1 +4.2\n")
    Path("/proc/fs/nfsd/nfsv4gracetime").write_text("10\n")
    Path("/proc/fs/nfsd/threads").write_text("4\n")


def stop_serving() -> None:
    Path("/proc/fs/nfsd/threads").write_text("0\n")


def wire() -> IPRoute:
    """The server's bridge."""
    network = IPRoute()
    network.link("add", ifname="cluster", kind="bridge")
    bridge = network.link_lookup(ifname="cluster")[0]
    network.addr("add", index=bridge, address=SERVER, prefixlen=24)
    network.link("set", index=bridge, state="up")
    return network


def connect(network: IPRoute, node: int, pid: int) -> None:
    """A link from the bridge to the network of ``pid``."""
    bridge = network.link_lookup(ifname="cluster")[0]
    network.link("add", ifname=f"node{node}", kind="veth", peer={"ifname": "up", "net_ns_pid": pid})
    port = network.link_lookup(ifname=f"node{node}")[0]
    network.link("set", index=port, master=bridge, state="up")


def node(number: int, go: int) -> dict[str, Any]:
    """What one node sees and does; ``go`` is readable when its network is there."""
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
    socket.sethostname(f"node{number}")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    os.read(go, 1)
    with IPRoute() as network:
        link = network.link_lookup(ifname="up")[0]
        network.addr("add", index=link, address=address(number), prefixlen=24)
        network.link("set", index=link, state="up")
    place = Path(f"/tmp/node{number}")
    bottom, mnt = place / "nfs", place / "root"
    for directory in (bottom, mnt):
        directory.mkdir(parents=True)
    options = f"ro,vers=4.2,addr={SERVER},clientaddr={address(number)}"
    run("mount", "-i", "-t", "nfs4", "-o", options, f"{SERVER}:/", str(bottom))
    top = place / "top"
    top.mkdir()
    overlay = kernel.Overlay((str(bottom),), str(top))
    conflicts.mount(overlay, str(mnt))
    before = (mnt / "etc/name").read_text()
    (mnt / "etc/name").write_text(f"node{number}\n")
    (mnt / "etc/old").unlink()
    (mnt / f"own{number}").write_text("own")
    (found,) = status.survey([mountinfo.overlay_at(mnt)])
    try:
        kernel.unmount(str(mnt))
        conflicts.mount(kernel.Overlay((str(bottom),), str(top), require_read_only=True), str(mnt))
        required = "mounted"
    except errors.Refused as error:
        required = str(error)
    conflicts.mount(overlay, str(mnt))  # what it wrote is still there
    return {
        "before": before,
        "after": (mnt / "etc/name").read_text(),
        "names": sorted(os.listdir(mnt)),
        "etc": sorted(os.listdir(mnt / "etc")),
        "bottom": (bottom / "etc/name").read_text(),
        "status": found.to_json(),
        "required": required,
    }


def start(number: int) -> tuple[int, int, int]:
    """A node's process, what it prints, and what tells it to go on."""
    out, printed = os.pipe()
    go, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(printed, 1)
        os.close(tell)
        try:
            answer: object = node(number, go)
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        # A network that goes takes the others' access to its NFS mounts with it.
        os.read(go, 1)
        os._exit(0)
    os.close(printed)
    os.close(go)
    return pid, out, tell


def digest() -> str:
    """Of all that is in the export, times included."""
    lines = []
    for path in sorted([EXPORT, *EXPORT.rglob("*")]):
        info = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        lines.append(f"{path} {info.st_mode} {info.st_mtime_ns} {info.st_ctime_ns} {data!r}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def main() -> None:
    (EXPORT / "etc").mkdir(parents=True)
    (EXPORT / "etc/name").write_text("master\n")
    (EXPORT / "etc/old").write_text("old\n")
    before = digest()
    serve()
    try:
        with wire() as network:
            nodes = [start(number) for number in range(NODES)]
            files = [os.fdopen(out) for _, out, _ in nodes]
            for number, (pid, _, tell) in enumerate(nodes):
                assert files[number].readline() == "ready\n"
                connect(network, number, pid)
                os.write(tell, b"g")
            answers = [json.loads(file.readline()) for file in files]
            for pid, _, tell in nodes:
                os.write(tell, b"g")
                os.waitpid(pid, 0)
            network.link("del", ifname="cluster")
    finally:
        stop_serving()
    print(json.dumps({"nodes": answers, "untouched": digest() == before}))


main()
