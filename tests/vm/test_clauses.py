"""The conformance kit on other kernels: no clause fails, and little is not run."""

from __future__ import annotations

import json

import pytest

from overlay.spec import kernels
from overlay.spec.runner import Result
from overlay.spec.targets import DEFAULT_TARGETS
from tests.running import fallthru
from tests.vm.guests import in_guest, judge_ahead, judged, need

#: The first of all guests: it may have to be built, it boots, and judges all clauses (guests.py).
pytestmark = pytest.mark.timeout(1500)

#: One target is enough to see that a kernel works at all; all of them take two minutes
#: in QEMU, and half a minute under user-mode Linux.
SMOKE = ("kernel:document",)

#: Reasons, by their beginning, why clauses are not run on the kernel mounts of any guest.
NOWHERE = ("flash for jffs2", "a machine that was booted with")
#: tmpfs has both since 6.6.
BEFORE_6_6 = ("O_DIRECT on both layers", "user xattrs on the layers")
#: Its root is the machine's, which need not have the programs.
HOST_LACKS = ("mkfs.", "mksquashfs,", "xorriso,")
#: Where nfsd does not start.
NO_SERVER = ("a directory on NFS",)
NOT_RUN = {
    "uml": (*NOWHERE, *BEFORE_6_6, *HOST_LACKS),
    "debian-6.1": (*NOWHERE, *BEFORE_6_6, *NO_SERVER),
    "debian-6.12": (*NOWHERE, *NO_SERVER),
    "debian-7": (*NOWHERE, *NO_SERVER),
}


def _problems(kernel: str, results: tuple[Result, ...]) -> list[str]:
    found = []
    for result in results:
        reason = result.observed.removeprefix("not run: ")
        if result.status == "not-run":
            known = result.target == "engine" or reason.startswith(NOT_RUN[kernel])
        else:
            known = result.status != "failed"
        if not known:
            found.append(f"{result.target} {result.id}: {result.status}: {result.observed}")
    return found


@pytest.mark.ahead(ask=judge_ahead)
@pytest.mark.parametrize(
    ("kernel", "targets"),
    [("uml", DEFAULT_TARGETS), ("debian-6.1", SMOKE), ("debian-6.12", SMOKE), ("debian-7", SMOKE)],
)
def test_no_clause_fails(kernel: str, targets: tuple[str, ...]) -> None:
    results = judged(kernel, targets)
    assert {result.target for result in results} == set(targets)
    assert _problems(kernel, results) == []


def test_the_old_option_parser_is_what_was_judged() -> None:
    """Before 6.5 all options are one string: the profiles keep as much through it."""
    results = judged("uml", DEFAULT_TARGETS)
    releases = {result.kernel for result in results}
    assert len(releases) == 1
    assert releases.pop().endswith(" (uml)")
    for target in ("kernel:document", "kernel:fallthru", "kernel:throwaway"):
        kept = {
            result.id for result in results if (result.target, result.status) == (target, "kept")
        }
        assert "example.edit.copyup" in kept
        assert len(kept) > 100


def test_layers_on_nfs_are_judged_in_a_guest() -> None:
    results = judged("uml", DEFAULT_TARGETS)
    for id, status in (("nfs.bottom", "departed"), ("nfs.top", "kept")):
        found = {result.target: result.status for result in results if result.id == id}
        assert found == dict.fromkeys(DEFAULT_TARGETS, status)


def test_the_command_judges_in_the_guest() -> None:
    need("uml")
    done = fallthru(
        *("spec", "run", "--kernel", "uml", "--json"),
        *("--target", "overlayfs:index=on", "--clause", "example.*"),
        *(
            "--mount-command",
            "mount -t overlay -o lowerdir={bottom},upperdir={top},workdir={work} none {mnt}",
        ),
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert {result["target"] for result in results} == {"overlayfs:index=on", "command:mount"}
    assert {result["kernel"].rpartition(" ")[2] for result in results} == {"(uml)"}
    assert len({result["id"] for result in results}) * 2 == len(results) > 10


def test_a_cd_is_judged_where_the_kernel_reads_them() -> None:
    judged_there = {result.id: result.status for result in judged("debian-6.12", SMOKE)}
    assert judged_there["supported.bottom.iso9660"] == "kept"


def test_a_union_as_the_root_of_the_machine_is_judged_under_user_mode_linux() -> None:
    need("uml")
    done = fallthru(
        *("spec", "run", "--kernel", "uml", "--json", "--clause", "boot.root"),
        *("--target", "overlayfs", "--target", "engine"),
    )
    status = {result["target"]: result["status"] for result in json.loads(done.stdout)}
    assert status == {"overlayfs": "kept", "engine": "not-run"}


def test_what_memory_lacks_before_6_6_a_disk_has() -> None:
    ids = ("copyup.setxattr", "copyup.removexattr", "copyup.same-properties", "copyup.open.direct")
    request = kernels.Request(ids, ("kernel:document",), bottom_fs="ext4", top_fs="ext4")
    done = in_guest("uml", *kernels.command(request))
    results = kernels.results("uml", done.stdout)
    assert {result.id: result.status for result in results} == dict.fromkeys(ids, "kept")


def test_a_guest_that_dies_loses_only_what_it_had() -> None:
    need("uml")
    done = fallthru(
        *("spec", "run", "--kernel", "uml", "--json", "--target", "overlayfs"),
        *("--clause", "example.creat.new", "--clause", "example.link.copyup"),
        *("--mount-command", "sh -c 'echo c >/proc/sysrq-trigger' {bottom} {top} {mnt}"),
    )
    assert done.returncode == 1, done.stderr
    results = json.loads(done.stdout)
    ids = ("example.creat.new", "example.link.copyup")
    status = {(result["target"], result["id"]): result["status"] for result in results}
    assert status == {
        **{("overlayfs", id): "kept" for id in ids},
        **{("command:sh", id): "failed" for id in ids},
    }
    told = {result["observed"] for result in results if result["status"] == "failed"}
    assert all("the guest died" in words for words in told)


def test_a_guest_takes_no_directories_of_the_host() -> None:
    done = fallthru("spec", "run", "--kernel", "uml", "--top-dir", "/tmp")
    assert done.returncode == 2
    assert "--top-dir" in done.stderr


def test_an_unknown_kernel_is_named() -> None:
    done = fallthru("spec", "run", "--kernel", "vms")
    assert done.returncode == 2
    assert "vms" in done.stderr
