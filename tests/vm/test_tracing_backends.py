"""Every backend sees the same copyups: the same work before each, in a guest that has them all."""

from __future__ import annotations

import functools
import json
import subprocess
from collections import Counter
from typing import Any

import pytest

from tests.vm.guests import ask_ahead, in_guest
from tests.vm.tracing_job import BACKENDS, EACH, LONGEST, PHASES, THREADS

COMMAND = ("sh", "-c", "PYTHONPATH=. exec python -m tests.vm.tracing_job")

#: Importing, compiling and verifying under emulation, of which one test of each kernel has all.
#: What hangs ends itself, and says where; this is for a guest that cannot even do that.
ANSWER = LONGEST * len(BACKENDS) + 60


def ahead(kernel: str, **_others: str) -> None:
    ask_ahead(kernel, *COMMAND, seconds=ANSWER, every=True)


pytestmark = [pytest.mark.timeout(ANSWER + 240), pytest.mark.ahead(ask=ahead)]

#: Tracepoints for ctime came with 6.13.
WITHOUT_CTIME = ("debian-6.1", "debian-6.12")
PREEMPTING = ("debian-7",)
KERNELS = (*WITHOUT_CTIME, *PREEMPTING)
FUNCTIONS = ("fentry", "kprobe")
APPEND = "O_WRONLY|O_APPEND|O_CLOEXEC"


def row(
    op: str, path: str, ftype: str, size: int, moved: int, how: str, flags: str | None = None
) -> list[Any]:
    return [op, path, ftype, size, moved, how, 0, flags]


#: What tracing_job.known_work() copies up, by the sizes it gave the files; metacopy is on.
KNOWN = [
    *(row("openat", f"/f{n}", "file", n * 1009, n * 1009, "copy", APPEND) for n in range(1, 8)),
    row("chmod", "/f8", "file", 8072, 0, "metacopy"),
    row("openat", "/f8", "file", 8072, 8072, "copy", "O_RDWR|O_CLOEXEC"),
    row("truncate", "/f9", "file", 9081, 9081, "copy"),
    row("openat", "/f10", "file", 0, 0, "none", "O_WRONLY|O_CLOEXEC|O_TRUNC"),
    row("link", "/f11", "file", 11099, 0, "metacopy"),
    row("setxattr", "/f12", "file", 12108, 0, "metacopy"),
    row("utimensat", "/empty", "file", 0, 0, "none"),
    row("chmod", "/a", "dir", 40, 0, "none"),
    row("chmod", "/a/b", "dir", 40, 0, "none"),
    row("chmod", "/a/b/c", "dir", 40, 0, "none"),
    row("chmod", "/a/b/c/deep", "file", 70001, 0, "metacopy"),
    row("lchown", "/link", "symlink", 7, 0, "none"),
    row("lchown", "/fifo", "fifo", 0, 0, "none"),
    row("rename", "/f13", "file", 13117, 0, "metacopy"),
]


@functools.cache
def ran(kernel: str) -> subprocess.CompletedProcess[str]:
    """One run for all tests that ask, whatever came of it."""
    return in_guest(kernel, *COMMAND, seconds=ANSWER)


def told(kernel: str, backend: str) -> dict[str, Any]:
    """What the backend made of the work."""
    done = ran(kernel)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)[backend]
    # Else it is what was raised, or nothing: standard error has the rest.
    assert answer.startswith("{"), answer + done.stderr
    seen: dict[str, Any] = json.loads(answer)
    return seen


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("backend", FUNCTIONS)
def test_known_work(kernel: str, backend: str) -> None:
    """Names, bytes, how, order, and the flags of the call; as many as bpftrace counts."""
    seen = told(kernel, backend)
    assert seen["known"] == KNOWN
    assert seen["oracle"] == len(KNOWN)
    assert seen["lost"] == [0, 0]
    assert seen["phases"] == sorted(PHASES)


def test_what_tracepoints_tell_since_6_13() -> None:
    """All that functions tell of this work."""
    seen = told("debian-7", "tracepoint")
    assert seen["known"] == KNOWN
    # Of runs that bystanders' threads miss, some are counted as lost: it is a preempting kernel.
    assert seen["lost"][1] == 0
    assert seen["phases"] == sorted(PHASES)


@pytest.mark.parametrize("kernel", WITHOUT_CTIME)
def test_what_tracepoints_tell_before_6_13(kernel: str) -> None:
    """The same regular files, on 6.1 symlinks; no directories, special files, phases."""
    seen = told(kernel, "tracepoint")
    # The name and the size that a file has when the call is over is all they know of.
    after = {"/f11": "/f11.link", "/f13": "/moved"}
    types = {"file", "symlink"} if kernel == "debian-6.1" else {"file"}
    expected = [[*one] for one in KNOWN if one[2] in types]
    for one in expected:
        one[1] = after.get(one[1], one[1])
        if one[0] == "truncate":
            one[3] = one[4] = 4
    assert seen["known"] == expected
    assert seen["lost"] == [0, 0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("backend", FUNCTIONS)
def test_parents_belong_to_what_needed_them(kernel: str, backend: str) -> None:
    """And what was needed, to the operation that did it."""
    seen = told(kernel, backend)["parents"]
    assert [one for one in seen if one[2] == "copyup"] == [
        ["copyup", "/a", "copyup", "/a/b"],
        ["copyup", "/a/b", "copyup", "/a/b/c"],
        ["copyup", "/a/b/c", "copyup", "/a/b/c/deep"],
    ]
    assert [one[1:] for one in seen if one[2] != "copyup"] == [
        *([f"/f{n}", "open", f"/f{n}"] for n in range(1, 8)),
        ["/f8", "setattr", "/f8"],
        ["/f8", "open", "/f8"],
        ["/f9", "setattr", "/f9"],
        ["/f10", "open", "/f10"],
        ["/empty", "setattr", "/empty"],
        ["/a/b/c/deep", "setattr", "/a/b/c/deep"],
        ["/link", "setattr", "/link"],
        ["/fifo", "setattr", "/fifo"],
        ["/f13", "rename", "/f13"],
    ]
    counts = {(one[0], one[1]): one[3] for one in told(kernel, backend)["latencies"]}
    assert counts["open", "copyup"] == 9
    assert counts["setattr", "copyup"] == 6
    assert counts["rename", "copyup"] == 1


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("backend", FUNCTIONS)
def test_lookups_and_readdirs(kernel: str, backend: str) -> None:
    """Three layers: where each name was found, or why not, and how many were asked."""
    seen = told(kernel, backend)["looking"]
    assert seen["lookup"] == [
        ["/f2", "bottom", 3, None],
        ["/mine", "top", 1, None],
        ["/both", "merged", 3, None],
        ["/f1", "whiteout", 1, None],
        ["/nothing", "absent", 3, None],
        ["/again", "top", 1, None],
        ["/again/bottom", "opaque", 1, None],
        ["/plain", "top", 3, None],
        ["/f3", "bottom", 3, None],
    ]
    assert seen["readdir"] == [
        # The merged list goes when the directory is closed.
        ["/both", "merged", 2, 4],
        ["/both", "cached", 0, 0],
        ["/both", "merged", 2, 4],
        ["/both", "cached", 0, 0],
        ["/plain", "plain", 0, None],
        ["/plain", "plain", 0, None],
    ]
    assert ["/f3", "alone", None, None] in seen["open"]
    assert seen["by kernel"] == seen["by rows"]
    assert seen["unseen"] == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_tracepoints_cannot_see_is_said(kernel: str) -> None:
    seen = told(kernel, "tracepoint")
    assert "lookup" in seen["looking"]["unseen"]
    assert seen["latencies"] == []


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_threads(kernel: str, backend: str) -> None:
    """32 threads at once: each file once, and their directory once where those are seen.

    What programs miss that the kernel preempts is counted.  Those at trampolines stand there
    twice then; once, they miss a twentieth.
    """
    lost = told(kernel, backend)["lost of threads"]
    assert not lost or (kernel in PREEMPTING and backend != "kprobe")
    seen = Counter((one[1], one[4]) for one in told(kernel, backend)["threads"])
    expected = Counter((f"/threads/{n}", n) for n in range(THREADS * EACH))
    if backend in FUNCTIONS or kernel not in WITHOUT_CTIME:
        expected["/threads", 0] += 1
    lacking, strange = expected - seen, seen - expected  # strange: without path or bytes
    assert max(lacking.total(), strange.total()) <= min(lost, THREADS * EACH // 50)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_backend_that_is_chosen(kernel: str) -> None:
    """Of those that see everything, one that is not preempted."""
    expected = "kprobe" if kernel in PREEMPTING else "fentry"
    assert told(kernel, expected)["chosen"] == expected


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_process_killed_while_it_copies_up(kernel: str, backend: str) -> None:
    """One row, and it says EINTR exactly if the file did not come up."""
    seen = told(kernel, backend)
    (one,) = seen["killed"]
    assert one[6] == (0 if seen["large"] else 4)
    if backend in FUNCTIONS or seen["large"]:
        assert one[1] == "/large"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_room(kernel: str, backend: str) -> None:
    """The error, and where functions are seen the path, of what did not come up."""
    seen = told(kernel, backend)
    assert seen["error"] == "ENOSPC"
    (one,) = seen["full"]
    assert (one[0], one[1], one[6]) == ("openat", "/large" if backend in FUNCTIONS else None, 28)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_unions_that_share_and_recorders_at_once(kernel: str, backend: str) -> None:
    """Each recorder has the unions it asked for, a union on a union has its own."""
    seen = told(kernel, backend)
    assert seen["both"] == [["two", "/f1"], ["one", "/f2"]]
    assert seen["other"] == [["three", "/f1"], ["three", "/f2"], ["three", "/f3"]]
