"""Tracing from Python: ``with Session(mount="/mnt") as s: ...; s.frame()``.

A thread fetches what the kernel delivers as raw bytes; they become rows only when
somebody asks.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any

from overlay import __version__
from overlay.errors import UsageError
from overlay.text import printable
from tracer.backend import Backend, clock_offset, open_backend
from tracer.containers import cgroup_of
from tracer.footprint import drop_compiler
from tracer.latencies import described
from tracer.news import Change, cgroups_in, news_in
from tracer.program import Filters, Options
from tracer.selection import Selection
from tracer.unions import Cgroups, MountWatch, Unions, cgroup_root, union_devices

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from tracer.records import Batch
    from tracer.schema import RunMetadata
    from tracer.stacks import Stacks

# numpy and pyarrow are imported where they are used: they take as long as loading the
# probes does, and by then these are at work.

__all__ = ["Session"]

StrPath = str | os.PathLike[str]

#: How long (s) records wait in the ring, unless something urgent comes.
_INTERVAL = 0.05


def descendants(pid: int) -> list[int]:
    """``pid`` and the processes it has begotten, as far as they live."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name in parentheses may hold anything: count from its end.
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(name))
    found, at = [pid], 0
    while at < len(found):
        found.extend(children.get(found[at], ()))
        at += 1
    return found


class Session:
    """Records copyups from ``with`` to its end.

    ``mounts``: paths in the unions to trace (default: all on the machine, also those
    mounted meanwhile), ``mount``: one such path; ``pids``: processes, with all their
    descendants; ``cgroup``: a cgroup2 directory, with all below it, or ``container``: a running
    container's, by its name or the beginning of its id; ``selection``: what is
    kept of the spans that the kernel delivers.  All conditions given must hold.
    ``backend``: one of :data:`tracer.hooks.BACKENDS` (default: the best that works here);
    ``stacks``: note who called in user space; ``rows``: kinds besides copyups of which each
    is wanted, not only the sum.

    Raises :class:`~overlay.errors.UsageError` for a mount or cgroup that is none, and
    on entering the errors of :func:`tracer.program.build`.
    """

    def __init__(
        self,
        mounts: Sequence[StrPath] = (),
        pids: Sequence[int] = (),
        cgroup: str | None = None,
        *,
        mount: StrPath | None = None,
        container: str | None = None,
        selection: Selection | None = None,
        command: Sequence[str] = (),
        backend: str | None = None,
        stacks: bool = False,
        rows: Sequence[str] = (),
    ) -> None:
        self._mounts = [os.fspath(one) for one in (*mounts, *([mount] if mount else []))]
        self._pids = list(pids)
        self._cgroup = cgroup
        self._container = container
        self._selection = selection or Selection()
        self._command = list(command)
        self._wish = backend
        self._options = Options(stacks=stacks, rows=tuple(rows))
        self._backend: Backend | None = None
        self._stacks: Stacks | None = None
        self._raw: list[bytes] = []
        self._tables: list[pa.Table] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._spans = 0
        self._started_ns = 0
        self._ended_ns: int | None = None

    def __enter__(self) -> Session:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to trace.  Once."""
        filters = Filters(
            devices=union_devices(self._mounts),
            pids=tuple(one for pid in self._pids for one in descendants(pid)),
            cgroup=self._cgroup_directory(),
            uids=self._selection.uids,
            min_ns=self._selection.min_ns,
        )
        self._backend = open_backend(self._wish, filters, self._options)
        drop_compiler()
        # Those that were begotten while the probes were being loaded.
        for pid in self._pids:
            for one in descendants(pid):
                self._backend.add_pid(one)
        self._started_ns = time.time_ns()
        self._offset = clock_offset()
        everybody = not self._pids and not self._cgroup
        self._unions = Unions(self._offset, all_lives=everybody)
        self._cgroups = Cgroups()
        if self._options.stacks:
            from tracer.stacks import Stacks

            self._stacks = Stacks(self._backend.stacks())
        self._fetch()
        self._thread = threading.Thread(target=self._run, name="fallthru-trace", daemon=True)
        self._thread.start()

    def _cgroup_directory(self) -> str | None:
        root = cgroup_root()
        if self._container is not None:
            if self._cgroup is not None:
                raise UsageError("a container is a cgroup: give one or the other")
            self._cgroup = cgroup_of(self._container, root or "/nonexistent")
        if self._cgroup is None:
            return None
        inside = os.path.join(root, self._cgroup.lstrip("/")) if root else ""
        for path in (self._cgroup, inside):
            if path and os.path.exists(os.path.join(path, "cgroup.procs")):
                return path
        raise UsageError(
            f"no such cgroup: {printable(self._cgroup)}",
            hint="name a directory of the cgroup2 file system, or its path below the root",
        )

    def _run(self) -> None:
        assert self._backend is not None
        try:
            with MountWatch() as mounts:
                while not self._stopping.is_set():
                    self._backend.wait(_INTERVAL)
                    self._fetch()
                    if mounts.changed() and not self._backend.sees_mounts:
                        self._look_at_mounts()
        except BaseException as error:  # told to whoever asks next
            self._failure = error

    def _look_at_mounts(self) -> None:
        with self._lock:
            self._unions.learn((), [Change(os.getpid(), time.monotonic_ns(), None)])

    def _fetch(self) -> None:
        assert self._backend is not None
        with self._lock:
            raw = self._backend.take()
            if not raw:
                return
            self._raw.append(raw)
            if self._stacks:
                from tracer.records import split

                spans = split(raw).spans
                self._stacks.learn(
                    set(zip(spans["stack"].tolist(), spans["pid"].tolist(), strict=True))
                )
            # A union, whoever mounted it, and containers may be gone soon: their names are
            # looked up at once.
            if news := news_in(raw):
                self._backend.prepare_for(news.mounts)
                self._unions.learn(news.mounts, news.changes)
            self._cgroups.learn(cgroups_in(raw))

    def stop(self) -> None:
        """Stop tracing; what was seen stays available.  Idempotent."""
        from tracer.records import split

        if self._backend is None or self._ended_ns is not None:
            return
        # While new unions still announce themselves: names of those that were used.
        self._fetch()
        with self._lock:
            raw = b"".join(self._raw)
        self._look_for_unions(split(raw))
        self._backend.detach()
        self._stopping.set()
        self._thread.join()
        self._fetch()
        self._backend.close()
        self._ended_ns = time.time_ns()

    def _look_for_unions(self, batch: Batch) -> None:
        """Find the unions of ``batch`` that have no name yet, and hear what is newer."""
        with self._lock:
            self._unions.look_for(set(batch.spans["mount"].tolist()))
        self._fetch()

    def drain(self) -> pa.Table:
        """The spans since the last call, as rows of :data:`tracer.schema.SCHEMA`."""
        from tracer.decode import to_table
        from tracer.records import split

        if self._failure is not None:
            raise self._failure
        assert self._backend is not None, "the session was never started"
        live = self._ended_ns is None
        if live:
            self._fetch()
        with self._lock:
            raw, self._raw = b"".join(self._raw), []
        batch = split(raw)
        if live:
            self._look_for_unions(batch)
        table = to_table(
            batch,
            clock_offset=self._offset,
            backend=self._backend.name,
            mount_name=self._unions.name,
            cgroup_name=self._cgroups.name,
            container_name=self._cgroups.container,
            stack_name=self._stacks.name if self._stacks else None,
        )
        table = self._selection.apply(table)
        self._spans += table.num_rows
        return table

    def table(self) -> pa.Table:
        """All spans since the start that :meth:`drain` has not taken away."""
        import pyarrow as pa

        self._tables.append(self.drain())
        self._tables = [pa.concat_tables(self._tables)]
        return self._tables[0]

    def frame(self) -> pd.DataFrame:
        """What :meth:`table` gives, as a pandas frame (types: :mod:`tracer.frame`)."""
        from tracer.frame import frame_of

        return frame_of(self.table())

    @property
    def lost(self) -> int:
        """Records that found no room in the ring, and events that the kernel kept from us."""
        return self._backend.lost if self._backend else 0

    @property
    def unmatched(self) -> int:
        """Copyups that were seen to begin but not to end."""
        return self._backend.unmatched if self._backend else 0

    @property
    def hooks(self) -> frozenset[str]:
        """The tracepoints in use."""
        return self._backend.hooks if self._backend else frozenset()

    def metadata(self) -> RunMetadata:
        """The run as the trace file describes it; counts are as of the last drain."""
        from tracer.schema import RunMetadata

        assert self._backend is not None, "the session was never started"
        kernel = os.uname()
        filters: dict[str, Any] = {
            "mounts": self._mounts,
            "pids": self._pids,
            "cgroup": self._cgroup,
            "container": self._container,
            **{name: value for name, value in asdict(self._selection).items() if value},
        }
        latencies = self._backend.latencies()
        return RunMetadata(
            kernel=kernel.release,
            hostname=kernel.nodename,
            backend=self._backend.name,
            started_ns=self._started_ns,
            ended_ns=self._ended_ns,
            command=self._command,
            filters={key: value for key, value in filters.items() if value},
            mounts=self._unions.metadata(one.mount for one in latencies),
            latencies=described(latencies, self._unions.name),
            unseen=list(self._backend.unseen),
            spans=self._spans,
            lost=self.lost,
            unmatched=self.unmatched,
            tool_version=__version__,
        )
