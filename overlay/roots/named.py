"""Roots by name: made once, started and stopped, entered in between.

What a root consists of is in /var/lib/fallthru/roots/NAME; whether it runs is noted
elsewhere (:mod:`overlay.roots.notes`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from overlay import runstate, syscalls
from overlay.errors import NoPrivilege, OperationFailed, Refused, UsageError
from overlay.outfile import sync_directory
from overlay.roots import cgroups, enclosure, net
from overlay.roots.cgroups import Group, Limits
from overlay.roots.notes import DIRECTORY, Standing, check_name, start_time
from overlay.roots.root import Bind, Builder, Root, open_union
from overlay.text import printable

__all__ = ["at_rest", "create", "execute", "load", "remove", "start", "stop", "take_up"]

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
    with _notes():
        _make_home(home, root.name)
        try:
            if root.top is None:
                root = dataclasses.replace(root, top=os.path.join(home, "top"))
                os.mkdir(os.path.join(home, "top"), 0o755)
            _write_config(home, root, limits)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
    return root


def _make_home(home: str, name: str) -> None:
    """The directory of a new root; one without a config was left by a run that was killed."""
    config = os.path.join(home, _CONFIG)
    if os.path.lexists(config):
        raise Refused(f"there is a root {name} already", hint=f"fallthru rm {name}")
    try:
        with suppress(FileNotFoundError):
            os.unlink(f"{config}.new")
        for left in (os.path.join(home, "top"), home):
            with suppress(FileNotFoundError):
                os.rmdir(left)
        os.makedirs(home, mode=0o700)
    except OSError as error:
        raise OperationFailed(
            f"{home} cannot be made",
            hint="is something in it that belongs to no root?",
            errno=error.errno or 0,
        ) from None


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
    try:
        if found["format"] > _FORMAT:
            raise _newer(f"the root {name} was made")
        return _parsed(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise OperationFailed(f"{path} cannot be read: {error!r}") from None


def _parsed(document: dict[str, Any]) -> tuple[Root, Limits]:
    """What an older fallthru did not write is as it was then: not there."""
    fields = dict(document["root"])
    for key in ("bottoms", "persist"):
        fields[key] = tuple(fields.get(key, ()))
    fields["binds"] = tuple(Bind(**bind) for bind in fields.get("binds", ()))
    if "network" in fields:
        fields["network"] = net.Wish(**fields["network"])
    return Root(**fields), Limits(**document.get("limits", {}))


def _newer(what: str) -> Refused:
    return Refused(f"{what} by a newer fallthru", hint="use that one; nothing was changed")


def remove(name: str) -> None:
    """Forget a root that is stopped, with its top if that is beside; Refused while it runs."""
    with at_rest(name):
        home = _home(name)
        # The config last: what fails half-way is still known.
        for entry in sorted(os.listdir(home), key=lambda each: each == _CONFIG):
            path = os.path.join(home, entry)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        os.rmdir(home)


@contextmanager
def at_rest(name: str) -> Iterator[tuple[Root, Callable[[tuple[str, ...]], None]]]:
    """A root that does not run, nor will meanwhile, and what gives it other bottoms.

    Refused while it runs.
    """
    root, limits = load(name)
    with _notes() as notes:
        if _standing(name, notes) is not None:
            raise Refused(f"the root {name} is running", hint=f"fallthru stop {name}")
        yield (
            root,
            lambda bottoms: _write_config(
                _home(name), dataclasses.replace(root, bottoms=bottoms), limits
            ),
        )


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
    sync_directory(home)
    sync_directory(os.path.dirname(home))


# ------------------------------------------------------------------------ started and stopped


def start(name: str) -> Standing:
    """Start a root: its union, mounts, network and first process; Refused if it runs."""
    root, limits = load(name)
    with _notes() as notes:
        if _standing(name, notes) is not None:
            raise Refused(f"the root {name} is running already", hint=f"fallthru exec {name} sh")
        group = cgroups.make(name, limits)
        begun: list[Standing] = []

        def outside(pid: int) -> None:
            begun.append(
                Standing(
                    name,
                    pid,
                    start_time(pid) or 0,
                    time.time(),
                    None if group is None else group.path,
                    ready=False,
                )
            )
            # Before there is anything that would have to be taken up if this is killed.
            runstate.put(notes, name, begun[0].to_note())
            if group is not None:
                group.add(pid)
            link = net.connect(root.network, pid, name)
            if link is not None:
                begun[0] = dataclasses.replace(begun[0], address=link.address)

        try:
            union = open_union(root)
            try:
                place = enclosure.Enclosure(
                    root.namespaces, Builder(root, union).build, outside=outside
                )
                enclosure.stand(place)
            finally:
                os.close(union)
            standing = dataclasses.replace(begun[0], ready=True)
            runstate.put(notes, name, standing.to_note())
        except BaseException:
            _tidy(group, root.network, begun[0].pid if begun else 0)
            runstate.drop(notes, name)
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
        _kill(standing, patience)
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


def take_up(names: Iterable[str]) -> list[Standing]:
    """Tidy up after roots that were killed; those that were only being started."""
    with _notes() as notes:
        return [standing for name in names if (standing := _standing(name, notes)) is not None]


def _standing(name: str, notes: int) -> Standing | None:
    """The root if it runs; what is left of it if it was killed is taken up."""
    note = runstate.load("roots").get(name)
    if note is None:
        return None
    standing = Standing.from_note(name, note)
    if standing.newer:
        raise _newer(f"the root {name} was started")
    if standing.lives:
        return standing
    if standing.has_process:
        # Who started it had these notes locked: it was killed before the root was whole.
        with suppress(UsageError):
            _kill(standing)
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
    if not standing.has_process:
        os.close(target)
        raise UsageError(f"the root {standing.name} is not running")
    return target


def _kill(standing: Standing, patience: float = 0) -> None:
    """End a root's processes, and wait for the end of the first."""
    target = _pidfd(standing)
    try:
        if patience > 0:
            _ask_to_end(target, patience)
        signal.pidfd_send_signal(target, signal.SIGKILL)
        select.select([target], [], [])
    finally:
        os.close(target)


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
