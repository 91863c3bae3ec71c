"""Networks of roots: a loopback, a link to this machine, or a bridge with others on it.

A root's end of its link is in the root's network namespace, and both ends go with it.
What the kernel shows is all that is known: a link's alias says to whom it belongs, so
nothing is left over when a root is killed, except a bridge without members, which the next
look removes.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from overlay import runstate, syscalls
from overlay.errors import EnvironmentLacks, OperationFailed, UsageError

__all__ = ["Link", "Wish", "connect", "disconnect", "hosts_file", "loopback_up", "parse"]

_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_NAME_MAX: Final = 15  # IFNAMSIZ without its end
_MARK: Final = "fallthru"
#: Where addresses are taken from, for what has none of its own.
_BRIDGES: Final = ipaddress.IPv4Network("10.213.0.0/16")
_ISOLATED: Final = ipaddress.IPv4Network("10.214.0.0/16")


@dataclass(frozen=True, slots=True)
class Wish:
    """``host``, ``none``, ``isolated`` or ``bridge`` with its name."""

    kind: str
    bridge: str = ""

    @property
    def own_namespace(self) -> bool:
        return self.kind != "host"


@dataclass(frozen=True, slots=True)
class Link:
    """A root's connection: its address with the prefix, its gateway, and the hosts file."""

    address: str
    gateway: str
    hosts: str | None


def parse(text: str) -> Wish:
    """A ``--net`` option; UsageError for what it cannot mean."""
    kind, _, name = text.partition("=")
    if kind in ("none", "host", "isolated") and not name:
        return Wish(kind)
    if kind == "bridge" and 0 < len(name) <= _NAME_MAX and name.isascii() and "/" not in name:
        return Wish(kind, name)
    raise UsageError(
        f"there is no network {text!r}", hint="--net none, host, isolated or bridge=NAME"
    )


def loopback_up() -> None:
    """Switch on the loopback of this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", answer, 16)
        request = struct.pack("16sH14x", b"lo", flags | _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def connect(wish: Wish, pid: int, name: str) -> Link | None:
    """Connect the network namespace of process ``pid``, for the root ``name``."""
    if wish.kind not in ("isolated", "bridge"):
        return None
    with runstate.locked("networks"), _netlink() as ip:
        try:
            if wish.kind == "isolated":
                return _isolated(ip, pid, name)
            return _on_bridge(ip, pid, name, wish.bridge)
        except ip.error as error:
            number = getattr(error, "code", 0)
            if number in (errno.EPERM, errno.EACCES):
                raise EnvironmentLacks(
                    "networks need privilege", hint="run as root, or with --net none or host"
                ) from None
            raise OperationFailed(f"the network cannot be made: {error}", errno=number) from None


def disconnect(wish: Wish, pid: int) -> None:
    """Take up what the root of process ``pid`` left: its link at once, which the kernel would
    remove in its own time, its name in the hosts file, a bridge without members.
    """
    if wish.kind not in ("isolated", "bridge"):
        return
    with suppress(EnvironmentLacks), runstate.locked("networks"), _netlink() as ip:
        index = ip.index(_link_name(pid))
        if index is not None:
            with suppress(ip.error):  # gone in between
                ip.route.link("del", index=index)
        if wish.bridge:
            _tidy(ip, wish.bridge)


def hosts_file(bridge: str) -> str:
    """The file that names all roots on a bridge, each other's /etc/hosts."""
    return f"{runstate.DIRECTORY}/networks/{bridge}"


class _Netlink:
    """The requests that are needed, by pyroute2, which takes a while to import."""

    def __init__(self) -> None:
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        self.error = NetlinkError
        self.route: Any = IPRoute()

    def index(self, name: str) -> int | None:
        found = self.route.link_lookup(ifname=name)
        return found[0] if found else None

    def aliases(self, master: int | None = None) -> dict[int, str]:
        """The links of ours, with what their aliases say after the mark."""
        found = {}
        for link in self.route.get_links():
            alias = link.get_attr("IFLA_IFALIAS") or ""
            if alias.startswith(_MARK + " ") and master in (None, link.get_attr("IFLA_MASTER")):
                found[link["index"]] = alias.removeprefix(_MARK + " ")
        return found

    def networks(self) -> list[ipaddress.IPv4Network]:
        """The IPv4 networks that this machine is in."""
        found = []
        for address in self.route.get_addr(family=socket.AF_INET):
            text = f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}"
            found.append(ipaddress.IPv4Interface(text).network)
        return found

    def address_of(self, index: int) -> ipaddress.IPv4Interface | None:
        for address in self.route.get_addr(family=socket.AF_INET, index=index):
            text = f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}"
            return ipaddress.IPv4Interface(text)
        return None


@contextmanager
def _netlink() -> Iterator[_Netlink]:
    ip = _Netlink()
    try:
        yield ip
    finally:
        ip.route.close()


def _free_network(ip: _Netlink, pool: ipaddress.IPv4Network, prefix: int) -> ipaddress.IPv4Network:
    taken = ip.networks()
    for network in pool.subnets(new_prefix=prefix):
        if not any(network.overlaps(other) for other in taken):
            return network
    raise OperationFailed(f"all addresses of {pool} are taken")


def _link_name(pid: int) -> str:
    return f"ft{pid}"


def _pair(ip: _Netlink, pid: int, alias: str) -> int:
    """A pair of links, one end in the namespace of ``pid`` as eth0; the other one's index."""
    name = _link_name(pid)
    ip.route.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_pid": pid})
    index = ip.index(name)
    assert index is not None
    ip.route.link("set", index=index, IFLA_IFALIAS=f"{_MARK} {alias}")
    return index


def _inside(pid: int, address: ipaddress.IPv4Interface, gateway: str) -> None:
    """Give a root's end its address and its way out, from a process that enters its network."""
    child = os.fork()
    if child == 0:
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            syscalls.setns(namespace, syscalls.CLONE_NEWNET)
            with _netlink() as inner:
                index = inner.index("eth0")
                prefix = address.network.prefixlen
                inner.route.addr("add", index=index, address=str(address.ip), prefixlen=prefix)
                inner.route.link("set", index=index, state="up")
                inner.route.route("add", dst="default", gateway=gateway)
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if status:
        raise OperationFailed(f"the address {address} cannot be given to the root")


def _isolated(ip: _Netlink, pid: int, name: str) -> Link:
    network = _free_network(ip, _ISOLATED, 30)
    ours, theirs = network.network_address + 1, network.network_address + 2
    index = _pair(ip, pid, name)
    ip.route.addr("add", index=index, address=str(ours), prefixlen=30)
    ip.route.link("set", index=index, state="up")
    _inside(pid, ipaddress.IPv4Interface(f"{theirs}/30"), str(ours))
    return Link(f"{theirs}/30", str(ours), None)


def _on_bridge(ip: _Netlink, pid: int, name: str, bridge: str) -> Link:
    master = _bridge(ip, bridge)
    here = ip.address_of(master)
    if here is None:
        raise UsageError(
            f"the bridge {bridge} has no IPv4 address",
            hint=f"ip addr add ADDRESS/PREFIX dev {bridge}, or let fallthru make another",
        )
    taken = {entry.split()[0] for entry in ip.aliases(master).values()} | {str(here.ip)}
    free = (str(host) for host in here.network.hosts() if str(host) not in taken)
    address = next(free, None)
    if address is None:
        raise OperationFailed(f"all addresses of the bridge {bridge} are taken")
    index = _pair(ip, pid, f"{address} {name}")
    ip.route.link("set", index=index, master=master, state="up")
    _inside(pid, ipaddress.IPv4Interface(f"{address}/{here.network.prefixlen}"), str(here.ip))
    _write_hosts(ip, bridge, master)
    return Link(f"{address}/{here.network.prefixlen}", str(here.ip), hosts_file(bridge))


def _bridge(ip: _Netlink, name: str) -> int:
    """The bridge's index; one that is missing is made, and marked to be removed again."""
    index = ip.index(name)
    if index is not None:
        return index
    ip.route.link("add", ifname=name, kind="bridge")
    index = ip.index(name)
    assert index is not None
    network = _free_network(ip, _BRIDGES, 24)
    ip.route.addr("add", index=index, address=str(network.network_address + 1), prefixlen=24)
    ip.route.link("set", index=index, IFLA_IFALIAS=f"{_MARK} bridge")
    ip.route.link("set", index=index, state="up")
    return index


def _tidy(ip: _Netlink, bridge: str) -> None:
    master = ip.index(bridge)
    if master is not None and ip.aliases(master):
        _write_hosts(ip, bridge, master)
        return
    with suppress(FileNotFoundError):
        os.unlink(hosts_file(bridge))
    if master is not None and ip.aliases().get(master) == "bridge":
        ip.route.link("del", index=master)


def _write_hosts(ip: _Netlink, bridge: str, master: int) -> None:
    """Name the members of a bridge, in place: the file is mounted in each of them."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    lines += sorted(ip.aliases(master).values())
    with open(hosts_file(bridge), "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
