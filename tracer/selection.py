"""Which spans are wanted, said once for recording, watching and reading.

What the probes can tell apart in the kernel they do not send; the rest is left out
here, a whole table at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from overlay.text import printable
from tracer.columns import plain

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """Conditions on spans: all that are given must hold, of several values any.

    ``under`` is a path inside the union from its root, or with the mount point before it; it
    stands for itself and all below.  ``min_ns`` is the least duration; ``failed`` wants system
    calls that failed; ``since`` and ``until`` bound the start (ns since 1970).
    """

    kinds: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    uids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    hows: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    under: str | None = None
    min_ns: int = 0
    failed: bool = False
    since: int | None = None
    until: int | None = None

    def __bool__(self) -> bool:
        return self != Selection()

    def apply(self, table: pa.Table) -> pa.Table:
        """The rows of ``table`` (columns as in :data:`tracer.schema.SCHEMA`) that are wanted."""
        import pyarrow.compute as pc

        conditions = [pc.fill_null(one, False) for one in self._conditions(table)]
        return table.filter(reduce(pc.and_, conditions)) if conditions else table

    def _conditions(self, table: pa.Table) -> Iterable[Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        values: dict[str, tuple[Any, ...]] = {
            "kind": self.kinds,
            "mount": tuple(map(printable, self.mounts)),
            "pid": self.pids,
            "uid": self.uids,
            "comm": tuple(map(printable, self.comms)),
            "op": self.ops,
            "how": self.hows,
            "container": tuple(map(printable, self.containers)),
        }
        for name, any_of in values.items():
            if any_of:
                column = plain(table[name])
                yield pc.is_in(column, value_set=pa.array(any_of, column.type))
        if self.cgroups:
            yield _any(_below(plain(table["cgroup"]), printable(one)) for one in self.cgroups)
        if self.under is not None:
            yield self._below(table, printable(self.under))
        if self.min_ns:
            yield pc.greater_equal(table["dur"].cast(pa.int64()), self.min_ns)
        if self.failed:
            yield pc.not_equal(table["errno"], 0)
        if self.since is not None:
            yield pc.greater_equal(table["ts"].cast(pa.int64()), self.since)
        if self.until is not None:
            yield pc.less(table["ts"].cast(pa.int64()), self.until)

    def _below(self, table: pa.Table, under: str) -> Any:
        import pyarrow.compute as pc

        paths = table["path"]
        mounts = pc.fill_null(plain(table["mount"]), "")
        whole = pc.binary_join_element_wise(
            pc.utf8_rtrim(mounts, characters="/"), pc.fill_null(paths, "/"), ""
        )
        return _any((_below(paths, under), pc.and_(pc.is_valid(paths), _below(whole, under))))


def _below(paths: Any, under: str) -> Any:
    import pyarrow.compute as pc

    stem = under.rstrip("/")
    return pc.or_(pc.equal(paths, stem or "/"), pc.starts_with(paths, stem + "/"))


def _any(conditions: Iterable[Any]) -> Any:
    import pyarrow.compute as pc

    return reduce(pc.or_, [pc.fill_null(one, False) for one in conditions])
