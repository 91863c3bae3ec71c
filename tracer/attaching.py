"""Programs at work: linked with the maps and constants of a run, loaded, attached."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from overlay.bpf import loading as bpf
from overlay.bpf.objects import Object, linked
from tracer.hooks import Hook

__all__ = ["Loader", "Program"]


@dataclass
class Program:
    """Programs at work: their maps, and what they are attached to."""

    maps: dict[str, bpf.Map] = field(default_factory=dict)
    attached: set[str] = field(default_factory=set)
    links: dict[tuple[str, str], int] = field(default_factory=dict)
    loaded: dict[tuple[str, int], int] = field(default_factory=dict)
    loader: Loader | None = None
    _missed: int = 0

    @property
    def missed(self) -> int:
        """Runs of programs that the kernel left out."""
        return self._missed + sum(map(bpf.runs_missed, self.loaded.values()))

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
                os.close(self.links.pop((hook.program, target)))
                self.attached.discard(target)

    def detach(self) -> None:
        """Hook nothing any more; the maps can still be read."""
        while self.links:
            os.close(self.links.popitem()[1])
        self._missed = self.missed
        while self.loaded:
            os.close(self.loaded.popitem()[1])

    def close(self) -> None:
        self.detach()
        while self.maps:
            self.maps.popitem()[1].close()


class Loader:
    """Loads each program once for each place, and attaches it there."""

    def __init__(self, into: Program, made: Object, told: list[int], backend: str) -> None:
        self._into, self._made, self._backend = into, made, backend
        fds = [into.maps[spec.name].fd for spec in made.maps]
        self._code = {name: linked(code, fds, told) for name, code in made.code.items()}
        self._module: int | None = None

    def attach(self, hooks: Sequence[Hook]) -> None:
        try:
            for hook in hooks:
                self._attach(hook)
        finally:
            if self._module is not None:
                os.close(self._module)
                self._module = None

    def _attach(self, hook: Hook) -> None:
        failure: OSError | None = None
        for target in hook.targets:
            if target not in self._made.targets:
                continue
            try:
                self._into.links[hook.program, target] = self._attached(hook, target)
                self._into.attached.add(target)
                return
            except OSError as error:
                failure = error
        if hook.needed:
            raise failure or FileNotFoundError(
                errno.ENOENT, f"the kernel has no {' or '.join(hook.targets)} to attach to"
            )

    def _attached(self, hook: Hook, target: str) -> int:
        if hook.program.startswith("on_"):
            return bpf.attach_raw_tracepoint(
                self._program(hook.program, bpf.RAW_TRACEPOINT), target
            )
        at_return = hook.program.startswith("leave_")
        if self._backend == "kprobe":
            program = self._program(hook.program, bpf.KPROBE)
            return bpf.attach_kprobe(program, target, at_return=at_return)
        kind = bpf.FEXIT if at_return else bpf.FENTRY
        ident = self._made.targets[target]
        return bpf.attach_trampoline(self._program(hook.program, kind, ident))

    def _program(self, name: str, kind: tuple[int, int], btf_id: int = 0) -> int:
        known = self._into.loaded.get((name, btf_id))
        if known is not None:
            return known
        module = 0
        if btf_id >= self._made.module_from:
            if self._module is None:
                self._module = bpf.module_btf("overlay")
            module = self._module
        fd = bpf.load_program(name, kind, self._code[name], btf_id=btf_id, btf_fd=module)
        self._into.loaded[name, btf_id] = fd
        return fd
