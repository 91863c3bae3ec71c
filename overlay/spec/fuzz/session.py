"""The engine and a target side by side: the same bottoms, a top each, one script.

A step is one system call by one user.  Afterwards both must have answered the same and
show the same tree, and the bottoms must be as they were.  What may differ the catalogue
announces (:mod:`overlay.spec.fuzz.announced`) and nothing else.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from overlay import syscalls
from overlay.errors import FallthruError
from overlay.marks import MarkFamily
from overlay.spec import fingerprint
from overlay.spec.bench import Places
from overlay.spec.calls import Calls
from overlay.spec.fuzz import layers
from overlay.spec.fuzz.announced import Announcements
from overlay.spec.fuzz.answers import Answer, answer, failed, told
from overlay.spec.fuzz.case import Case
from overlay.spec.fuzz.following import following, named, path_of
from overlay.spec.fuzz.steps import Step
from overlay.spec.fuzz.trees import (
    Difference,
    Tree,
    differences,
    engine_tree,
    kind_of,
    mounted_tree,
)
from overlay.spec.targets import Target
from overlay.union import Union
from overlay.workdir import beside

__all__ = ["Found", "Session", "Unannounced"]

#: Attributes of a top that only mean something with the very bottoms that it was made on.
_BOUND = tuple(
    f"{family}.overlay.{mark}" for family in MarkFamily for mark in ("origin", "uuid", "upper")
)


@dataclass(frozen=True, slots=True)
class Found:
    """A difference that nothing announces.

    ``what`` is where it shows: ``answer`` of the last step, ``tree`` after it, ``bottom``,
    ``mount``, ``top`` (as the engine reads what the target wrote), ``hang``, ``crash``.
    ``expected`` and ``seen`` are whole trees where it shows in one.
    """

    what: str
    difference: Difference
    step: str
    expected: Tree | None = None
    seen: Tree | None = None

    def __str__(self) -> str:
        where = os.fsdecode(self.difference.path)
        return f"{self.what} after {self.step}: {where} {self.difference.text}"

    @property
    def signature(self) -> tuple[str, str, str]:
        """Two findings with the same one are taken for the same fault."""
        operation = self.step.partition("(")[0] if self.what in ("answer", "tree") else ""
        text = self.difference.text if self.what == "answer" else self.difference.subject
        return self.what, operation, text


class Unannounced(Exception):
    """The two sides differ, in a way that the catalogue does not announce."""

    def __init__(self, found: Found) -> None:
        super().__init__(str(found))
        self.found = found


class Session:
    """One case's layers in ``places``, a target mounted over them, and an engine."""

    def __init__(
        self,
        case: Case,
        target: Target,
        features: frozenset[str],
        announced: Announcements,
        places: Places,
    ) -> None:
        self.case = case
        self.target, self.features = target, features
        self.announced = announced
        self._places = places
        self._started = time.time_ns() - 10**8  # the kernel's clock may lag a tick
        self.counts: Counter[str] = Counter()
        #: The tops that the target was given at each swap, for those who want to repeat it.
        self.swapped: list[tuple[layers.Plant, ...]] = []
        self._family = MarkFamily.USER if "userxattr" in features else MarkFamily.TRUSTED
        self._mnt = places.mounts / "mnt"
        self.top, self._other = places.top / "top", places.top / "other"
        for directory in (self._mnt, self.top, self._other, Path(beside(str(self.top)))):
            directory.mkdir()
        for top in (self.top, self._other):
            os.chmod(top, 0o777)
        self._bottoms = self._plant(case)
        self._read = self._bottoms  # what the engine has below it
        self._kept = [_Kept(bottom) for bottom in self._bottoms]
        self._accepted: set[Difference] = set()
        self._adopted = 0
        self._mounted = False
        self._union: Union | None = None
        self._umask = os.umask(0o022)

    def _plant(self, case: Case) -> tuple[str, ...]:
        found = []
        for number, bottom in enumerate(case.bottoms):
            root = self._places.bottom / ("bottom" if number == 0 else f"bottom{number}")
            root.mkdir()
            layers.plant(root, layers.rooted(bottom))
            found.append(str(root))
        return tuple(found)

    # ---------------------------------------------------------------- mounting

    def open(self) -> None:
        """Mount the target, open the engine, and compare what they show."""
        self._mount("mount")
        self._open_engine()
        self._theirs = self._target_tree()
        self._compare(self._engine_tree(), self._theirs, "mount")

    def _mount(self, step: str) -> None:
        work = Path(beside(str(self.top)))
        work.mkdir(exist_ok=True)
        try:
            self.target.mount(self._bottoms, str(self.top), str(work), str(self._mnt))
        except (FallthruError, OSError) as error:
            raise _of_mount("mounting", f"refused: {error}", step) from None
        self._mounted = True
        self._calls: Calls = self.target.calls(str(self._mnt))

    def _unmount(self, step: str) -> None:
        self._mounted = False
        try:
            self.target.unmount(str(self._mnt))
        except (FallthruError, OSError) as error:
            syscalls.umount2(self._mnt, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
            raise _of_mount("unmounting", f"refused: {error}", step) from None

    def _open_engine(self) -> None:
        knobs = self.case.knobs
        self._union = Union(
            self._other,
            self._read,
            family=self._family,
            directory_copyup=knobs.directory_copyup,
            matching=knobs.matching,
            move_directories=knobs.move_directories,
            sync=False,
        )

    def _close_engine(self) -> None:
        if self._union is not None:
            self._union.close()
            self._union = None

    def close(self) -> None:
        """Unmount, whatever happened."""
        self._close_engine()
        if self._mounted:
            with suppress(Unannounced):  # it is gone; the run's own finding counts
                self._unmount("the end")
        os.umask(self._umask)

    # ------------------------------------------------------------------- running

    def run(self, step: Step) -> None:
        """One step on both sides; Unannounced unless they agree."""
        spoken = str(step)
        left_out = self.announced.leaves_out(spoken)
        if left_out is not None:
            self.counts[left_out] += 1
        elif step.operation in ("remount", "swap"):
            swaps = step.operation == "swap" and self._read == self._bottoms
            (self._swap if swaps else self._remount)(spoken)
        else:
            self._call(step, spoken)

    def _call(self, step: Step, spoken: str) -> None:
        assert self._union is not None
        mine = answer(self._union, step, engine=True)
        if self.case.knobs.avoids and self._parts(step, mine):
            return
        theirs = answer(self._calls, step, engine="engine" in self.features)
        before, self._theirs = self._theirs, self._target_tree()
        ours = self._engine_tree()
        if mine != theirs:
            subject = f"{step.operation} {self._subject(step, before)}"
            difference = Difference(path_of(step, before), subject, told(mine), told(theirs))
            self._accept("answer", difference, spoken)
            # Flags of files are no part of a tree.
            flagged = step.operation == "chattr" and failed(theirs) and not failed(mine)
            if flagged or not self._agrees(ours):
                # The target did not do it, or did what the engine would not.
                expected = following(step, before, mine, theirs)
                self._compare(self._theirs if expected is None else expected, self._theirs, spoken)
                self._adopt(spoken)
                return
        self._compare(ours, self._theirs, spoken)
        self._compare_bottoms(spoken, whole=False)

    def _parts(self, step: Step, mine: Answer) -> bool:
        """Whether the engine refused to move a directory and the target may not."""
        if step.operation != "rename" or mine != "EXDEV":
            return False
        subject = f"rename {self._subject(step, self._theirs)}: EXDEV -> succeeds"
        why = self.announced.explains(subject)
        if why is not None:
            self.counts[why] += 1
        return why is not None

    def _subject(self, step: Step, tree: Tree) -> str:
        """The kind of file that a step is about; a symlink at the end of its path is one.

        To exchange a file with a directory is about the directory.
        """
        kinds = [kind_of(tree.get(path_of(step, tree)))]
        if step.operation == "rename" and step.arguments[2] & syscalls.RENAME_EXCHANGE:
            kinds.append(kind_of(tree.get(named(step.arguments[1], tree))))
        return "directory" if "directory" in kinds else kinds[0]

    def _remount(self, spoken: str) -> None:
        self._unmount(spoken)
        self._mount(spoken)
        after = self._target_tree()
        before, self._theirs = self._theirs, after
        self._compare(before, after, spoken)
        self._compare_bottoms(spoken)

    def _swap(self, spoken: str) -> None:
        """Each reads the top which the other wrote, and goes on with it."""
        shown = self._theirs
        self._close_engine()
        self._unmount(spoken)
        self.top, self._other = self._other, self.top
        self.swapped.append(layers.harvest(self.top, leave=_BOUND))
        self._read_by_engine(self._other, shown, spoken)
        self._mount(spoken)
        self._open_engine()
        self._theirs = self._target_tree()
        # What one had accepted of the other is now the other way round.
        self._accepted |= {difference.reversed for difference in self._accepted}
        self._compare(self._engine_tree(), self._theirs, spoken)
        self._compare_bottoms(spoken)

    def _read_by_engine(self, top: Path, shown: Tree, spoken: str) -> None:
        read = engine_tree(self._bottoms, top, self._started, self._family)
        self._compare(read, shown, spoken, what="top")

    def finish(self) -> None:
        """The last look: by the engine, at the top that the target wrote."""
        if "overlayfs" in self.features:
            shown = self._theirs
            self._unmount("the end")
            self._read_by_engine(self.top, shown, "the end")
        self._compare_bottoms("the end")

    # ----------------------------------------------------------------- comparing

    def _target_tree(self) -> Tree:
        if "engine" in self.features:
            return engine_tree(self._bottoms, self.top, self._started, self._family)
        return mounted_tree(str(self._mnt), self._started)

    def _engine_tree(self) -> Tree:
        return engine_tree(self._read, self._other, self._started, self._family)

    def _accept(self, what: str, difference: Difference, spoken: str, *trees: Tree) -> None:
        why = self.announced.explains(difference.text)
        if why is None:
            raise Unannounced(Found(what, difference, spoken, *trees))
        self.counts[why] += 1

    def _compare(self, mine: Tree, theirs: Tree, spoken: str, *, what: str = "tree") -> None:
        if mine == theirs:
            return
        for difference in differences(mine, theirs):
            if difference not in self._accepted:
                self._accept(what, difference, spoken, mine, theirs)
                self._accepted.add(difference)

    def _agrees(self, mine: Tree) -> bool:
        """Whether the target shows what the engine shows, but for what is announced."""
        return mine == self._theirs or all(
            self.announced.explains(difference.text)
            for difference in differences(mine, self._theirs)
        )

    def _compare_bottoms(self, spoken: str, *, whole: bool = True) -> None:
        for kept in self._kept:
            changes = kept.changes(whole=whole)
            if changes:
                difference = Difference(b".", "the bottom", "untouched", "; ".join(changes))
                raise Unannounced(Found("bottom", difference, spoken))

    def _adopt(self, spoken: str) -> None:
        """Let the engine go on with what the target shows, as a bottom of its own."""
        self._close_engine()
        self._adopted += 1
        root = self._places.bottom / f"adopted{self._adopted}"
        root.mkdir()
        shown = layers.harvest(self._mnt, escaped=self._family)
        layers.plant(root, shown)
        self._read = (str(root),)
        self._other = self._places.top / f"other{self._adopted}"
        self._other.mkdir()
        layers.plant(self._other, shown[:1])  # the root's attributes are the top's
        self._open_engine()
        self._keep_flags()
        self._accepted.clear()
        self._compare(self._engine_tree(), self._theirs, spoken)

    def _keep_flags(self) -> None:
        """The flags that chattr sets are no part of a tree that can be planted."""
        assert self._union is not None
        for found, seen in self._theirs.items():
            path = os.fsdecode(found)
            if kind_of(seen) in ("file", "directory"):
                try:
                    flags = self._calls.get_flags(path)
                except OSError:
                    continue  # nothing of the kind here
                if flags & _PROTECTING:
                    self._union.set_flags(path, self._union.get_flags(path) | flags & _PROTECTING)


_PROTECTING = 0x30


class _Kept:
    """A bottom as it was, to be compared with what it is."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._before = fingerprint.fingerprint(root)
        self._glance = self._look()

    def changes(self, *, whole: bool) -> list[str]:
        """What changed; unless ``whole`` only if the inodes say that something did."""
        glance = self._look()
        if not whole and glance == self._glance:
            return []
        self._glance = glance
        return fingerprint.differences(self._before, fingerprint.fingerprint(self._root))

    def _look(self) -> list[tuple[int, int, int]]:
        """No change of a file, or of its attributes, leaves its change time alone."""
        found = []
        for directory, _, files in os.walk(self._root):
            for path in (directory, *(os.path.join(directory, name) for name in files)):
                st = os.lstat(path)
                found.append((st.st_ino, st.st_nlink, st.st_ctime_ns))
        return found


def _of_mount(what: str, seen: str, spoken: str) -> Unannounced:
    return Unannounced(Found("mount", Difference(b".", what, "succeeds", seen), spoken))
