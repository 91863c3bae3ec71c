"""Snapshots of roots by name, also without a copy: the top becomes a bottom of its root.

A new, empty top goes over it.  That takes no time and no room, however big the top is; but
each such layer is one more to look through, so several can be squashed into one.  All this
is in TOP.snapshots, as copies are (:mod:`overlay.snapshots`).

The root shows the same after each step, so what was killed half-way did no harm, and the
same call goes on: the layer is a bottom already when the top and it exchange their places.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from overlay import snapshots, syscalls, workdir
from overlay.committing.merge import merge
from overlay.duplicate import Duplicator, set_times
from overlay.errors import Refused, UsageError
from overlay.layer import Layer
from overlay.linkindex import has_names_below
from overlay.marks import MarkFamily
from overlay.roots import named as roots
from overlay.roots.root import Root
from overlay.snapshots import Snapshot
from overlay.view import View

__all__ = ["remove", "roll_back", "squash", "take"]

#: OVL_MAX_STACK of fs/overlayfs/params.h.
_MOST: Final = 500
_Change = Callable[[tuple[str, ...]], None]


def take(name: str, label: str | None = None, *, stack: bool = False) -> Snapshot:
    """A snapshot of a root that does not run: a copy of its top, or with ``stack`` the top.

    Refused while it runs, for a label in use, and where a top cannot be a bottom.
    """
    root, _ = roots.load(name)
    if not stack:
        return snapshots.take(_top(root), label, work=root.work, bottoms=root.bottoms)
    label = snapshots.require_label(label)
    with roots.at_rest(name) as (root, change), snapshots.resting(_top(root)):
        return _stack(root, change, label)


def _stack(root: Root, change: _Change, label: str) -> Snapshot:
    top = _top(root)
    if len(root.bottoms) >= _MOST:
        raise Refused(
            f"the root {root.name} has {len(root.bottoms)} bottoms, and overlayfs takes {_MOST}",
            hint=f"fallthru snapshot --squash {root.name}",
        )
    _require_without_links(root)
    place = os.path.join(snapshots.place_of(top), label)
    layer = os.path.join(place, "top")
    known = label in [each.label for each in snapshots.snapshots(top)]
    if known or root.bottoms[0] != layer:  # else one that was killed goes on
        if not known and layer not in root.bottoms and os.path.isdir(layer):
            os.rmdir(layer)  # one that was killed before it was of any use
            shutil.rmtree(place)
        snapshots.require_free(top, label)
        aside = place + ".new"
        os.mkdir(aside, 0o700)
        _empty_like(top, aside)
        snapshots.write_note(aside, root.bottoms, os.stat(top).st_ino)
        _put(aside, place)
        _forget_bottoms(top)
        change((layer, *root.bottoms))
    _exchange(layer, top, root)
    now = time.time()
    os.utime(place, (now, now))
    return snapshots.chosen(top, label)


def roll_back(name: str, label: str | None = None) -> Snapshot:
    """Make a root that does not run what it was at a snapshot, by default the latest.

    What its top holds is lost.  If it cannot be finished, the same call goes on.
    """
    root, _ = roots.load(name)
    top = _top(root)
    snapshot = snapshots.chosen(top, label)
    bottoms = snapshot.bottoms
    if not snapshot.stacked and bottoms in (None, root.bottoms):
        return snapshots.roll_back(top, snapshot.label, work=root.work)
    with roots.at_rest(name) as (root, change):
        if snapshot.stacked:
            with snapshots.resting(top):
                _empty(root)
            layer = os.path.join(snapshots.place_of(top), snapshot.label, "top")
            change((layer, *(bottoms or ())))
        else:
            snapshots.roll_back(top, snapshot.label, work=root.work)
            change(bottoms or ())
    return snapshot


def squash(name: str, label: str | None = None) -> Snapshot:
    """Put one layer in the place of all that snapshots stacked on each other.

    The snapshots stay, to go back to; :func:`remove` removes those not needed.  UsageError
    where there are not two.
    """
    root, _ = roots.load(name)
    top = _top(root)
    label = snapshots.require_label(label)
    stacked = [path for path in root.bottoms if _is_snapshot(path, top)]
    if len(stacked) < 2:
        raise UsageError(f"the root {name} does not stand on two snapshots or more")
    others = root.bottoms[len(stacked) :]
    with snapshots.resting(top):
        _require_without_links(root)
        place = snapshots.require_free(top, label)
        aside = place + ".new"
        os.mkdir(aside, 0o700)
        try:
            merge(stacked, others, os.path.join(aside, "top"))
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        snapshots.write_note(aside, others, os.stat(os.path.join(aside, "top")).st_ino)
        _put(aside, place)
        with roots.at_rest(name) as (now, change):
            if now.bottoms != root.bottoms:
                raise Refused(f"the root {name} was changed meanwhile", hint="run it again")
            _forget_bottoms(top)
            shutil.rmtree(_work(root), ignore_errors=True)
            change((os.path.join(place, "top"), *others))
    return snapshots.chosen(top, label)


def remove(name: str, label: str) -> None:
    """Remove a snapshot; Refused while the root, or another snapshot, stands on it."""
    with roots.at_rest(name) as (root, _):
        top = _top(root)
        snapshot = snapshots.chosen(top, label)
        layer = os.path.join(snapshots.place_of(top), label, "top")
        users = [each for each in snapshots.snapshots(top) if layer in (each.bottoms or ())]
        if layer in root.bottoms or users:
            what = f"the snapshot {users[0].label}" if users else f"the root {name}"
            raise Refused(
                f"{what} stands on the snapshot {label}",
                hint=f"fallthru snapshot --squash {name} makes one layer of all",
            )
        snapshots.remove_any(top, snapshot.label)


# -------------------------------------------------------------------------------- steps


def _top(root: Root) -> str:
    return os.path.realpath(root.top or "")


def _work(root: Root) -> str:
    return root.work or workdir.beside(_top(root))


def _is_snapshot(path: str, top: str) -> bool:
    return path.startswith(snapshots.place_of(top) + "/")


def _require_without_links(root: Root) -> None:
    """The index leads the bottom's other names of a file to its copy, and is a top's alone."""
    work = _work(root)
    if os.path.isdir(os.path.join(work, "work", "incompat", "volatile")):
        raise Refused(f"the top of {root.name} may be incomplete: its profile was throwaway")
    try:
        with Layer.open(os.path.join(work, "index")) as index:
            split = has_names_below(index.fd, MarkFamily.TRUSTED)
    except UsageError:
        return  # there is none
    if split:
        raise Refused(
            f"the root {root.name} changed files of its bottoms that have several names, and "
            "as a bottom its top would show them under some only",
            hint="take a copy instead: leave out --stack",
        )


def _empty_like(top: str, directory: str) -> None:
    """Make ``directory``/top empty, with the attributes of a top's root."""
    with Layer.open(top) as layer, Layer.open(directory) as place:
        view = View([layer], MarkFamily.TRUSTED)
        root = view.root()
        Duplicator(view).make(root, place.fd, b"top")
        with place.directory(b"top") as made:
            set_times(made, root.st)


def _put(aside: str, place: str) -> None:
    """Let a snapshot that is made have its name."""
    snapshots.synced(aside)
    os.rename(aside, place)
    snapshots.synced(os.path.dirname(place))


def _forget_bottoms(top: str) -> None:
    """Let the kernel take the top with other bottoms than it was made over."""
    with suppress(OSError):
        os.removexattr(top, "trusted.overlay.origin")


def _empty(root: Root) -> None:
    aside = _top(root) + ".rollback.new"
    shutil.rmtree(aside, ignore_errors=True)
    os.mkdir(aside, 0o700)
    _empty_like(_top(root), aside)
    _exchange(os.path.join(aside, "top"), _top(root), root)
    shutil.rmtree(aside)


def _exchange(layer: str, top: str, root: Root) -> None:
    """Exchange the top with an empty one; the work directory belongs to the one that goes."""
    _forget_bottoms(top)
    shutil.rmtree(_work(root), ignore_errors=True)
    at = syscalls.AT_FDCWD
    syscalls.renameat2(at, layer, at, top, syscalls.RENAME_EXCHANGE)
    snapshots.synced(os.path.dirname(top))
