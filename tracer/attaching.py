"""Programs at work: linked with the maps and constants of a run, loaded, attached."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from overlay.bpf import loading as bpf
from overlay.bpf.objects import Object, linked
from tracer.hooks import ONCE, Hook

__all__ = ["Loader", "Program"]


@dataclass
class Program:
    """Programs at work: their maps, and what they are attached to."""

    maps: dict[str, bpf.Map] = field(default_factory=dict)
    attached: set[str] = field(default_factory=set)
    #: By program and place, twins together.
    links: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    loaded: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    loader: Loader | None = None
    _missed: int = 0

    @property
    def missed(self) -> int:
        """Runs of programs that the kernel left out, at most: of twins, those of both."""
        return self._missed + sum(
            min(map(bpf.runs_missed, twins)) for twins in self.loaded.values() if twins
        )

    def take_up(self, hooks: Sequence[Hook]) -> None:
        """Stand there, too."""
        assert self.loader is not None
        missing = [
            hook
            for hook in hooks
            if not any((hook.program, target) in self.links for target in hook.targets)
        ]
        self.loader.attach(missing)

    def let_go(self, hooks: Sequence[Hook]) -> None:
        """Stand there no more."""
        for hook in hooks:
            for target in hook.targets:
                _close(self.links.pop((hook.program, target)))
                self.attached.discard(target)

    def detach(self) -> None:
        """Hook nothing any more; the maps can still be read."""
        while self.links:
            _close(self.links.popitem()[1])
        self._missed = self.missed
        while self.loaded:
            _close(self.loaded.popitem()[1])

    def close(self) -> None:
        self.detach()
        while self.maps:
            self.maps.popitem()[1].close()


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


class Loader:
    """Loads each program once for each place, or with ``twins`` twice, and attaches it there."""

    def __init__(
        self, into: Program, made: Object, told: list[int], backend: str, *, twins: bool
    ) -> None:
        self._into, self._made, self._told, self._backend = into, made, told, backend
        self._twins = twins
        self._fds = [into.maps[spec.name].fd for spec in made.maps]
        self._module: int | None = None

    def attach(self, hooks: Sequence[Hook]) -> None:
        try:
            for hook in hooks:
                self._attach(hook)
        finally:
            if self._module is not None:
                os.close(self._module)
                self._module = None

    def loads(self, programs: Iterable[str]) -> bool:
        """Whether the kernel takes these, which are for tracepoints."""
        try:
            for name in programs:
                self._program(name, bpf.RAW_TRACEPOINT, 0)
        except OSError:
            return False
        return True

    def _attach(self, hook: Hook) -> None:
        failure: OSError | None = None
        for target in hook.targets:
            if target not in self._made.targets:
                continue
            try:
                links = self._into.links.setdefault((hook.program, target), [])
                for copy in (1, 2) if self._twins and hook.program not in ONCE else (0,):
                    links.append(self._attached(hook, target, copy))
                self._into.attached.add(target)
                return
            except OSError as error:
                _close(self._into.links.pop((hook.program, target)))
                failure = error
        if hook.needed:
            raise failure or FileNotFoundError(
                errno.ENOENT, f"the kernel has no {' or '.join(hook.targets)} to attach to"
            )

    def _attached(self, hook: Hook, target: str, copy: int) -> int:
        if hook.program.startswith("on_"):
            program = self._program(hook.program, bpf.RAW_TRACEPOINT, copy)
            return bpf.attach_raw_tracepoint(program, target)
        at_return = hook.program.startswith("leave_")
        if self._backend == "kprobe":
            program = self._program(hook.program, bpf.KPROBE, copy)
            return bpf.attach_kprobe(program, target, at_return=at_return)
        kind = bpf.FEXIT if at_return else bpf.FENTRY
        ident = self._made.targets[target]
        return bpf.attach_trampoline(self._program(hook.program, kind, copy, ident))

    def _program(self, name: str, kind: tuple[int, int], copy: int, btf_id: int = 0) -> int:
        known = self._into.loaded.setdefault((name, btf_id), [])
        if len(known) >= max(copy, 1):
            return known[max(copy, 1) - 1]
        module = 0
        if btf_id >= self._made.module_from:
            if self._module is None:
                self._module = bpf.module_btf("overlay")
            module = self._module
        code = linked(self._made.code[name], self._fds, [copy, *self._told])
        fd = bpf.load_program(name, kind, code, btf_id=btf_id, btf_fd=module)
        known.append(fd)
        return fd
