"""What tracing costs what is traced: each backend, strace, bpftrace, funclatency against none.

Aims: at most 1.05 on copyups and 1.02 on stats, nothing lost, the first event within 0.6 s, and
a recorder that stays below 120 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from measuring import emit

from overlay import kernel, syscalls
from overlay.bpf.loading import has_kprobes
from overlay.errors import FallthruError
from tracer import parts
from tracer.backend import open_backend
from tracer.hooks import BACKENDS
from tracer.program import Filters

FALLTHRU = (sys.executable, "-m", "overlay", "trace", "record")

#: A latency histogram of all system calls, made in the kernel: what one would write by hand.
BPFTRACE = (
    "tracepoint:raw_syscalls:sys_enter { @s[tid] = nsecs; } "
    "tracepoint:raw_syscalls:sys_exit /@s[tid]/ { @ = hist(nsecs - @s[tid]); delete(@s[tid]); } "
    'BEGIN { printf("ready\\n"); }'
)

#: A condition that the work does not meet, which is root's.
ANOTHER_USER = ("--uid", "65533")

#: What each workload does, so many times for each file of the union.
TIMES = {"copyup": 1, "stat": 5, "unpack": 1}

#: Run on its own, so that only it is measured; prints CPU and wall nanoseconds.
WORK = """
import os, resource, sys, time
kind, where, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "unpack":
    wall = time.perf_counter_ns()
    child = os.posix_spawnp("dpkg-deb", ["dpkg-deb", "-x", f"{where}.deb", where], os.environ)
    assert os.waitpid(child, 0)[1] == 0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(int((used.ru_utime + used.ru_stime) * 1e9), time.perf_counter_ns() - wall)
    raise SystemExit
paths = [f"{where}/{number}" for number in range(count)]
open_, close, stat, mode = os.open, os.close, os.stat, os.O_WRONLY
cpu, wall = time.process_time_ns(), time.perf_counter_ns()
if kind == "copyup":
    for path in paths:
        close(open_(path, mode))
else:
    for path in paths * 5:
        stat(path)
print(time.process_time_ns() - cpu, time.perf_counter_ns() - wall)
"""


@dataclass
class Union:
    """A union whose bottom has ``count`` files of 4 KiB; the top can be made anew."""

    base: Path
    count: int

    def __post_init__(self) -> None:
        (self.base / "bottom").mkdir(parents=True)
        (self.base / "mnt").mkdir()
        for number in range(self.count):
            (self.base / "bottom" / str(number)).write_bytes(b"x" * 4096)

    def package(self, files: int) -> Union:
        """The same, with the files of a package, which lies beside the mount point."""
        made = Union(self.base / "package", 0)
        tree = made.base / "bottom"
        for number in range(files):
            place = tree / "usr" / "share" / f"d{number % 97}"
            place.mkdir(parents=True, exist_ok=True)
            (place / str(number)).write_bytes(b"x" * 4096)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN" / "control").write_text(
            "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: n <n@n>\nDescription: d\n"
        )
        subprocess.run(
            ("dpkg-deb", "-Znone", "-b", tree, made.base / "mnt.deb"),
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        made.count = files
        return made

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        top = self.base / "top"
        top.mkdir()
        overlay = kernel.Overlay((str(self.base / "bottom"),), str(top))
        with kernel.mounted(overlay, str(self.base / "mnt")):
            yield self.base / "mnt"
        for place in (top, self.base / "top.work"):
            shutil.rmtree(place, ignore_errors=True)


@dataclass
class Measured:
    """One contender: nanoseconds an operation, and what its recorder said of itself."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    resident_mb: float = 0
    spans: int = 0
    lost: int = 0


def run(measured: Measured, union: Union, kind: str, prefix: tuple[str, ...] = ()) -> None:
    command = (*prefix, sys.executable, "-S", "-c", WORK, kind, str(union.base / "mnt"))
    done = subprocess.run(
        (*command, str(union.count)), stdout=subprocess.PIPE, text=True, check=True
    )
    operations = union.count * TIMES[kind]
    cpu, wall = (int(word) / operations for word in done.stdout.split())
    measured.cpu.append(cpu)
    measured.wall.append(wall)


@contextmanager
def recording(
    backend: str, measured: Measured, mnt: Path, options: Sequence[str] = ()
) -> Iterator[None]:
    """``trace record`` of that union at work, until the body is over."""
    with tempfile.TemporaryDirectory(prefix="fallthru-bench-") as scratch:
        trace = f"{scratch}/t"
        recorder = subprocess.Popen(
            (*FALLTHRU, "--backend", backend, "-o", trace, "--mount", str(mnt), *options),
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert recorder.stderr is not None
        line = recorder.stderr.readline()
        if "tracing" not in line:
            raise SystemExit(f"bench: {backend}: {line}")
        yield
        status = Path(f"/proc/{recorder.pid}/status").read_text()
        resident = next(row for row in status.splitlines() if row.startswith("VmHWM"))
        measured.resident_mb = max(measured.resident_mb, int(resident.split()[1]) / 1024)
        recorder.send_signal(signal.SIGINT)
        recorder.communicate()
        found = parts.discover(trace)[trace] if os.path.isdir(trace) and os.listdir(trace) else []
        if found:
            metadata = parts.read_part(found[-1], None)[0]
            measured.spans, measured.lost = metadata.spans, measured.lost + metadata.lost


#: Peers that are started before the work: how, and what they say when they see everything.
PEERS = {
    "bpftrace": (("bpftrace", "-B", "line", "-e", BPFTRACE), "ready"),
    "funclatency": (("stdbuf", "-oL", "funclatency-bpfcc", "ovl_copy_up_flags"), "Tracing"),
}


#: What bpftrace says each time to whoever may not raise a limit that kernels since 5.11 ignore.
HARMLESS = "couldn't set RLIMIT_MEMLOCK"


@contextmanager
def peer(name: str) -> Iterator[None]:
    command, ready = PEERS[name]
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as tracer,
    ):
        assert tracer.stdout is not None
        line = "starting"
        while line and not line.startswith(ready):
            line = tracer.stdout.readline()
        if line:
            yield
            tracer.send_signal(signal.SIGINT)
        tracer.communicate()
        complaints.seek(0)
        sys.stderr.writelines(said for said in complaints if HARMLESS not in said)
        if not line:
            raise SystemExit(f"bench: {name} does not work here; --without {name} leaves it out")


def lacking(name: str) -> str:
    """Why a peer cannot take part; nothing if it can."""
    if name == "funclatency" and not has_kprobes():
        return "the kernel has no kprobes"
    programs = [word for word in PEERS[name][0] if name in word]
    return "" if any(map(shutil.which, programs)) else "it is not installed"


def working_backends() -> list[str]:
    found = []
    for name in BACKENDS:
        try:
            open_backend(name, Filters()).close()
        except FallthruError:
            continue
        found.append(name)
    return found


def race(
    union: Union, kind: str, rounds: int, backends: list[str], without: list[str]
) -> dict[str, Measured]:
    """Each contender once a round, in turns that go back and forth, on a new top each."""

    def plainly(name: str, prefix: tuple[str, ...] = ()) -> None:
        with union.mounted():
            run(result[name], union, kind, prefix)

    def traced(name: str, backend: str, options: Sequence[str] = ()) -> None:
        with union.mounted() as mnt, recording(backend, result[name], mnt, options):
            run(result[name], union, kind)

    def by_peer(name: str) -> None:
        with union.mounted(), peer(name):
            run(result[name], union, kind)

    contenders: dict[str, Callable[[], None]] = {"off": partial(plainly, "off")}
    for backend in backends:
        contenders[backend] = partial(traced, backend, backend)
        name = f"{backend} {' '.join(ANOTHER_USER)}"
        contenders[name] = partial(traced, name, backend, ANOTHER_USER)
    for name in PEERS:
        if name not in without and not lacking(name):
            contenders[name] = partial(by_peer, name)
    if shutil.which("strace") and "strace" not in without:
        words = ("strace", "-c", "-f", "-o", "/dev/null")
        contenders["strace -c -f"] = partial(plainly, "strace -c -f", words)
    result = {name: Measured() for name in contenders}
    for number in range(rounds):
        order = list(contenders.values())
        for action in order if number % 2 else reversed(order):
            action()
    return result


def first_event(union: Union, backend: str) -> float:
    """Seconds from starting ``trace record`` to the first thing that it saw."""
    with union.mounted() as mnt, tempfile.TemporaryDirectory(prefix="fallthru-bench-") as scratch:
        started = time.time_ns()
        subprocess.run(
            (*FALLTHRU, "--backend", backend, "-o", f"{scratch}/t", "--",
             "sh", "-c", f": >>{mnt}/0"),
            check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        shown = subprocess.run(
            (sys.executable, "-m", "overlay", "trace", "show", "--json", f"{scratch}/t"),
            check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        span = json.loads(shown.stdout)["spans"][0]
        return (int(span["ts"]) - started) / 1e9


def ratios(result: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
    """Of CPU and wall time to no tracing: medians of what each round gave, pair by pair."""
    off = result["off"]
    return {
        name: {
            "cpu": statistics.median(a / b for a, b in zip(one.cpu, off.cpu, strict=True)),
            "wall": statistics.median(a / b for a, b in zip(one.wall, off.wall, strict=True)),
            "added_ns": statistics.median(a - b for a, b in zip(one.cpu, off.cpu, strict=True)),
        }
        for name, one in result.items()
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--without", action="append", default=[], metavar="TRACER")
    arguments = parser.parse_args(argv)
    backends = working_backends()
    lines: list[str] = []
    data: dict[str, object] = {}
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
    if not os.path.isdir("/sys/kernel/tracing/events"):
        syscalls.mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, None)  # for bpftrace
    with tempfile.TemporaryDirectory(prefix="fallthru-bench-", dir="/dev/shm") as scratch:
        union = Union(Path(scratch), arguments.files)
        for name in PEERS:
            if name not in arguments.without and lacking(name):
                lines.append(f"without {name}: {lacking(name)}")
        unions = {"copyup": union, "stat": union}
        if shutil.which("dpkg-deb"):
            unions["unpack"] = union.package(arguments.files // 4)
        else:
            lines.append("without unpack: there is no dpkg-deb")
        for kind, here in unions.items():
            result = race(here, kind, arguments.rounds, backends, arguments.without)
            found = ratios(result)
            base = statistics.median(result["off"].cpu) / 1e3
            print(f"{kind}: done", file=sys.stderr)
            lines.append(f"{kind}: {base:.2f} µs of CPU time without tracing; ratios to that:")
            for name, one in found.items():
                said = f"  {name}: {one['cpu']:.2f} CPU, {one['wall']:.2f} wall"
                if name.startswith(tuple(backends)):
                    said += (
                        f", {one['added_ns']:.0f} ns more; {result[name].spans} rows, "
                        f"{result[name].lost} lost, {result[name].resident_mb:.0f} MB"
                    )
                lines.append(said)
            data[kind] = {
                name: found[name] | {"spans": one.spans, "lost": one.lost, "mb": one.resident_mb}
                for name, one in result.items()
            }
        for backend in backends:
            seconds = [first_event(union, backend) for _ in range(5)]
            lines.append(f"{backend}: first event after {statistics.median(seconds):.2f} s")
            data[f"first event, {backend}"] = {"seconds": seconds}
    emit("trace", lines, {"rounds": arguments.rounds, "results": data})


if __name__ == "__main__":
    main()
