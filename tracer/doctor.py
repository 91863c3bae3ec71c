"""Whether tracing works on this machine, found out by doing it once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from overlay.doctor import Check
from overlay.errors import FallthruError
from tracer.hooks import BACKENDS

__all__ = ["checks"]

#: What each optional tracepoint is good for.
_DETAIL = {
    "ctime_ns_xchg": "copyups of directories and special files on tmpfs tops; linking times",
    "cap_capable": "when creation begins",
}


def checks() -> Iterator[Check]:
    """What each part of the tracer needs, cheapest first; the backends come last."""
    yield _try("trace: bcc", _bcc)
    yield _try("trace: BTF", _btf)
    yield _try("trace: kernel addresses", _addresses)
    for name in BACKENDS:
        yield _try(f"trace: {name} backend", partial(_backend, name))


def _try(name: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(name, True, attempt())
    except FallthruError as error:
        return Check(name, False, str(error), error.hint or "")


def _bcc() -> str:
    from overlay.bpf import bccload

    module = bccload.load()
    return f"{getattr(module, '__version__', 'unknown version')} from {module.__path__[0]}"


def _btf() -> str:
    from overlay.bpf.btf import VMLINUX, Btf

    offset = Btf().member("ovl_fs", "creator_cred").offset
    return f"{VMLINUX}; ovl_fs.creator_cred at {offset}"


def _addresses() -> str:
    from tracer.kallsyms import copyup_ranges

    ranges = copyup_ranges()
    return f"copyup code at {len(ranges)} places, {sum(high - low for low, high in ranges)} bytes"


def _backend(name: str) -> str:
    from overlay.bpf.btf import Btf
    from tracer.preemption import preempts
    from tracer.session import Session

    with Session(backend=name) as session:
        hooks = session.hooks
    if name != "tracepoint":
        preempted = name == "fentry" and preempts()
        without = "; may be preempted, and then miss some" if preempted else ""
        return f"loads, at {len(hooks)} functions and tracepoints{without}"
    types = Btf()
    missing = [f"{hook} ({use})" for hook, use in _DETAIL.items() if not types.has_tracepoint(hook)]
    without = "; without " + ", ".join(missing) if missing else ""
    return f"loads, {len(hooks)} tracepoints{without}"
