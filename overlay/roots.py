"""Roots by name: made once, started and stopped, entered in between.

What a root consists of is in /var/lib/fallthru/roots/NAME; whether it runs is noted
elsewhere (:mod:`overlay.rootnotes`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from overlay import cgroups, enclosure, net, runstate, syscalls
from overlay.cgroups import Group, Limits
from overlay.errors import NoPrivilege, OperationFailed, Refused, UsageError
from overlay.root import Bind, Builder, Root, open_union
from overlay.rootnotes import DIRECTORY, Standing, check_name, start_time
from overlay.text import printable

__all__ = ["create", "execute", "load", "remove", "start", "stop", "take_up"]

_CONFIG: Final = "root.json"
_FORMAT: Final = 1
_POLL: Final = 0.02  # seconds


# ------------------------------------------------------------------------- made and removed


def create(root: Root, limits: Limits) -> Root:
    """Remember a root; without a top of its own it gets one beside.

    Refused where there is one of the name; UsageError for bottoms that are not there.
    """
    check_name(root.name)
    _require_root()
    home = _home(root.name)
    for bottom in root.bottoms:
        if not os.path.exists(bottom):
            raise UsageError(f"the bottom {printable(bottom)} does not exist")
        if root.top is None and _holds(bottom, DIRECTORY):
            raise UsageError(
                f"the bottom {printable(bottom)} holds {DIRECTORY}, where the top would be",
                hint="name a --top on another file system",
            )
    try:
        os.makedirs(home, mode=0o700)
    except FileExistsError:
        raise Refused(
            f"there is a root {root.name} already", hint=f"fallthru rm {root.name}"
        ) from None
    try:
        if root.top is None:
            root = dataclasses.replace(root, top=os.path.join(home, "top"))
            os.mkdir(os.path.join(home, "top"), 0o755)
        _write_config(home, root, limits)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return root


def _holds(bottom: str, path: str) -> bool:
    """Whether a path, or where it will be, is in a bottom and not in a mount below it."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    path, bottom = os.path.realpath(path), os.path.realpath(bottom)
    below = path == bottom or path.startswith(bottom.rstrip("/") + "/")
    return below and os.stat(path).st_dev == os.stat(bottom).st_dev


def load(name: str) -> tuple[Root, Limits]:
    """A root that was created, and what it may use; UsageError if there is none."""
    check_name(name)
    path = os.path.join(_home(name), _CONFIG)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        raise UsageError(
            f"there is no root {name}", hint="`fallthru list` shows the roots"
        ) from None
    except (OSError, ValueError) as error:
        raise OperationFailed(f"{path} cannot be read: {error}") from None
    if found.get("format") != _FORMAT:
        raise OperationFailed(f"{path} was written by another version of fallthru")
    fields = found["root"]
    for key in ("bottoms", "persist"):
        fields[key] = tuple(fields[key])
    fields["binds"] = tuple(Bind(**bind) for bind in fields["binds"])
    fields["network"] = net.Wish(**fields["network"])
    return Root(**fields), Limits(**found["limits"])


def remove(name: str) -> None:
    """Forget a root that is stopped, with its top if that is beside; Refused while it runs."""
    root, _ = load(name)
    with _notes() as notes:
        if _standing(name, notes) is not None:
            raise Refused(f"the root {name} is running", hint=f"fallthru stop {name}")
        home = _home(root.name)
        # The config last: what fails half-way is still known.
        for entry in sorted(os.listdir(home), key=lambda each: each == _CONFIG):
            path = os.path.join(home, entry)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        os.rmdir(home)


def _home(name: str) -> str:
    return os.path.join(DIRECTORY, name)


def _write_config(home: str, root: Root, limits: Limits) -> None:
    document = {
        "format": _FORMAT,
        "root": dataclasses.asdict(root),
        "limits": dataclasses.asdict(limits),
    }
    path = os.path.join(home, _CONFIG)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.new", path)


# ------------------------------------------------------------------------ started and stopped


def start(name: str) -> Standing:
    """Start a root: its union, mounts, network and first process; Refused if it runs."""
    root, limits = load(name)
    with _notes() as notes:
        if _standing(name, notes) is not None:
            raise Refused(f"the root {name} is running already", hint=f"fallthru exec {name} sh")
        group = cgroups.make(name, limits)
        known: dict[str, Any] = {}

        def outside(pid: int) -> None:
            known["pid"] = pid
            if group is not None:
                group.add(pid)
            link = net.connect(root.network, pid, name)
            known["address"] = None if link is None else link.address

        try:
            union = open_union(root)
            try:
                place = enclosure.Enclosure(
                    root.namespaces, Builder(root, union).build, outside=outside
                )
                pid = enclosure.stand(place)
            finally:
                os.close(union)
            standing = Standing(
                name,
                pid,
                start_time(pid) or 0,
                time.time(),
                None if group is None else group.path,
                known["address"],
            )
            runstate.put(notes, name, dataclasses.asdict(standing))
        except BaseException:
            _tidy(group, root.network, known.get("pid", 0))
            raise
    return standing


def stop(name: str, *, patience: float = 10) -> None:
    """Ask everything in a root to end, kill what is left after ``patience`` seconds.

    UsageError if it does not run.
    """
    with _notes() as notes:
        standing = _standing(name, notes)
        if standing is None:
            raise UsageError(f"the root {name} is not running")
        target = _pidfd(standing)
        try:
            if patience > 0:
                _ask_to_end(target, patience)
            signal.pidfd_send_signal(target, signal.SIGKILL)
            select.select([target], [], [])
        finally:
            os.close(target)
        _forget(standing, notes)


def execute(name: str, command: enclosure.Command) -> int:
    """Run a command in a root that runs; its exit code as a shell tells it."""
    root, _ = load(name)
    with _notes() as notes:
        standing = _standing(name, notes)
    if standing is None:
        raise UsageError(f"the root {name} is not running", hint=f"fallthru start {name}")
    target = _pidfd(standing)

    def enter() -> None:
        if standing.group is not None:
            Group(standing.group).add(os.getpid())

    try:
        return enclosure.join(command, target, root.namespaces, enter)
    finally:
        os.close(target)


def take_up(names: Iterable[str]) -> None:
    """Tidy up after roots that were killed."""
    with _notes() as notes:
        for name in names:
            _standing(name, notes)


def _standing(name: str, notes: int) -> Standing | None:
    """The root if it runs; what is left of it if it was killed is taken up."""
    note = runstate.load("roots").get(name)
    if note is None:
        return None
    standing = Standing.from_note(note)
    if standing.lives:
        return standing
    _forget(standing, notes)
    return None


def _forget(standing: Standing, notes: int) -> None:
    try:
        network = load(standing.name)[0].network
    except (UsageError, OperationFailed):
        network = net.Wish("none")
    _tidy(None if standing.group is None else Group(standing.group), network, standing.pid)
    runstate.drop(notes, standing.name)


def _tidy(group: Group | None, network: net.Wish, pid: int) -> None:
    if group is not None:
        group.remove()
    if pid:
        net.disconnect(network, pid)


@contextmanager
def _notes() -> Iterator[int]:
    with runstate.locked("roots") as notes:
        if notes is None:
            raise NoPrivilege("roots by name are root's", hint="run as root")
        yield notes


def _require_root() -> None:
    if os.geteuid() != 0:
        raise NoPrivilege("roots by name are root's", hint="run as root, or use `fallthru run`")


def _pidfd(standing: Standing) -> int:
    """A descriptor that means the root's first process, and no later one of its number."""
    try:
        target = os.pidfd_open(standing.pid)
    except ProcessLookupError:
        raise UsageError(f"the root {standing.name} is not running") from None
    if not standing.lives:
        os.close(target)
        raise UsageError(f"the root {standing.name} is not running")
    return target


def _ask_to_end(target: int, patience: float) -> None:
    """SIGTERM to everything in a PID namespace but its first process; wait for their end."""
    child = os.fork()
    if child == 0:
        try:
            syscalls.setns(target, syscalls.CLONE_NEWPID)
            inside = os.fork()
            if inside == 0:
                _end_all(patience)
            os.waitpid(inside, 0)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _end_all(patience: float) -> None:
    # In the namespace -1 means everything but the first process and oneself.
    deadline = time.monotonic() + patience
    try:
        os.kill(-1, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.kill(-1, 0)
            time.sleep(_POLL)
    except ProcessLookupError:
        pass  # nothing is there any more
    finally:
        os._exit(0)
