"""A Debian that boots from a disk, by its own initramfs, on a root that `fallthru boot` mounts.

The guests of qemu.py never boot a system: their root is put together for one command.  Here
there is a whole one, with systemd, as an image of every kind that a bottom is of, and an
initramfs that Debian's initramfs-tools or dracut made in it, with this checkout's hook.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import debian, qemu, store, uml
from .errors import Lacks
from .jobs import CHECKOUT, Start

__all__ = ["KINDS", "MAKERS", "System", "build", "start"]

#: Its systemd goes to another root without a boot of the kernel (254), which Debian 12's does not.
_SUITE = "trixie"
_PACKAGES = (
    *("attr", "busybox", "dbus", "dracut-core", "e2fsprogs", "initramfs-tools", "kmod"),
    *("python3-click", "systemd-sysv", "udev", "zstd"),
)
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
#: What takes long under emulation, and nothing asks for.
_MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "fstrim.timer", "getty@.service", "serial-getty@.service"),
)
#: As an installed system has it, for a root that it is not any more.
_FSTAB = "UUID=00000000-0000-0000-0000-000000000000 / ext4 errors=remount-ro 0 1\n"
_JOB = """\
[Unit]
Description=A job of the host's
After=multi-user.target
[Service]
Type=exec
ExecStart=/bin/sh /usr/local/sbin/job
"""
_GUEST = Path(__file__).parent / "guest"
#: It wants autofs, and the system has no modules besides those in its initramfs.
_UNMOUNTED = "systemd.mask=proc-sys-fs-binfmt_misc.automount"
_SHARE = "security_model=none,multidevs=remap"
#: Which user-mode Linux does without.
_MODULES = ("9p", "9pnet_virtio", "virtio_pci", "virtio_blk")

#: How to make an image of a tree, by its kind.
KINDS: dict[str, tuple[str, ...]] = {
    "squashfs": ("mksquashfs", "{tree}", "{image}", "-comp", "lz4", "-quiet", "-no-progress"),
    "erofs": ("mkfs.erofs", "--quiet", "-zlz4", "{image}", "{tree}"),
    "ext2": ("mke2fs", "-q", "-t", "ext2", "-L", "BOTTOM", "-d", "{tree}", "{image}", "900M"),
    "iso9660": (
        "xorriso",
        "-as",
        "mkisofs",
        "-quiet",
        "-R",
        "-V",
        "LIVECD",
        "-o",
        "{image}",
        "{tree}",
    ),
}

#: How to have an initramfs made, in the system, by its maker.  It loads ``modules`` itself: the
#: system has none, and its job comes over 9p.
MAKERS: dict[str, str] = {
    "initramfs-tools": """
        printf 'MODULES=list\\nCOMPRESS=gzip\\n' >/etc/initramfs-tools/conf.d/guest
        printf '%s\\n' {modules} >/etc/initramfs-tools/modules
        mkinitramfs -o /tmp/initramfs {release}
    """,
    "dracut": """
        dracut --quiet --no-hostonly --no-hostonly-cmdline --gzip \\
            --drivers '{modules}' --force-drivers '{modules}' \\
            --omit 'systemd systemd-initrd dracut-systemd plymouth nvdimm lunmask' \\
            --kver {release} /tmp/initramfs
    """,
}


def _root_inputs() -> object:
    job = (_GUEST / "job").read_text("utf-8")
    return [_SUITE, debian.MIRROR, _PACKAGES, _LEFT_OUT, _MASKED, _FSTAB, _JOB, job, KINDS]


def _build_root() -> Path:
    """The directory with an image of the system for each of KINDS."""
    debian.require("mmdebstrap", *(words[0] for words in KINDS.values()))

    def fill(tree: Path) -> None:
        root = tree / "root"
        leave_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
        include = f"--include={','.join(_PACKAGES)}"
        debian.succeed(
            ("mmdebstrap", "--variant=minbase", include, *leave_out, _SUITE, root, debian.MIRROR)
        )
        units = root / "etc/systemd/system"
        for name in _MASKED:
            (units / name).unlink(missing_ok=True)
            (units / name).symlink_to("/dev/null")
        (units / "job.service").write_text(_JOB, "utf-8")
        shutil.copy(_GUEST / "job", root / "usr/local/sbin/job")
        for name in ("multi-user.target.wants/job.service", "default.target"):
            target = (
                "../job.service" if "job" in name else "/usr/lib/systemd/system/multi-user.target"
            )
            (units / name).parent.mkdir(exist_ok=True)
            (units / name).unlink(missing_ok=True)
            (units / name).symlink_to(target)
        (root / "etc/fstab").write_text(_FSTAB, "utf-8")
        (root / "etc/hostname").write_text("guest\n", "utf-8")
        for kind, words in KINDS.items():
            places = {"tree": root, "image": tree / kind}
            debian.succeed(word.format(**places) for word in words)
        shutil.rmtree(root)

    return store.cached("boot-root", _root_inputs(), fill)


def _hook_inputs() -> list[str]:
    """What is put into the system, as it is in this checkout."""
    files = (CHECKOUT / "overlay/initramfs").rglob("*")
    names = sorted(path for path in files if path.is_file() and path.suffix != ".pyc")
    names += [CHECKOUT / "overlay/booting/files.py", CHECKOUT / "overlay/profiles.py"]
    names.append(_GUEST / "make-initramfs")
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in names]


@dataclass(frozen=True, slots=True)
class System:
    """The directories of a kernel, of the system's images, and of its ``initramfs``."""

    kernel: Path
    root: Path
    made: Path


def build(kernel_name: str, suite: str, maker: str) -> System:
    """What booting takes, built where it is missing."""
    if os.geteuid() != 0:
        raise Lacks("a system to boot is made by root only")
    if kernel_name == "uml":
        kernel, modules, drivers = uml.build(suite), "lib/modules", ()
    else:
        kernel, modules, drivers = qemu.build_kernel(kernel_name, suite), "modules.erofs", _MODULES
    root = _build_root()
    inputs = [root.name, kernel.name, maker, MAKERS[maker], _hook_inputs()]

    def fill(tree: Path) -> None:
        release = (kernel / "release").read_text("utf-8").strip()
        script = MAKERS[maker].format(release=release, modules=" ".join(drivers))
        (tree / "make.sh").write_text("set -e\n" + script, "utf-8")
        # In mounts of its own, on an overlay of its own: nothing of it is left.
        words = (
            "unshare",
            "--mount",
            "sh",
            _GUEST / "make-initramfs",
            tree,
            root,
            kernel / modules,
        )
        debian.succeed((*words, sys.executable, CHECKOUT, maker, release))

    return System(kernel, root, store.cached(f"boot-{kernel_name}-{maker}", inputs, fill))


def start(
    system: System,
    memory: str,
    word: str,
    bottoms: Sequence[str],
    disks: Sequence[str],
) -> Start:
    """How to start it: ``word`` on the kernel's command line, images as /dev/vda and on.

    ``bottoms`` are of KINDS, and forget what is written to them; ``disks`` are files that
    keep it.
    """
    images = [system.root / kind for kind in bottoms]
    said = ("quiet", "systemd.show_status=false", _UNMOUNTED, f"vm_checkout={CHECKOUT}", word)

    def under_uml(job: Path) -> list[str | os.PathLike[str]]:
        shutil.copy(_GUEST / "booted", job)
        kept = [f"{job}/cow{number},{image}" for number, image in enumerate(images)]
        return [
            system.kernel / "linux",
            f"mem={memory}",
            f"initrd={system.made / 'initramfs'}",
            *(f"ubd{number}={disk}" for number, disk in enumerate((*kept, *disks))),
            *("con=null", "con0=null,fd:1", "con1=null,fd:1", f"uml_dir={job}/"),
            # Without a root it halts; a machine that reboots would do so for ever.
            *("panic=0", f"vm_job={job}", *said),
        ]

    def words(job: Path) -> list[str | os.PathLike[str]]:
        shutil.copy(_GUEST / "booted", job)
        return [
            *qemu.MACHINE,
            *("-m", memory, "-kernel", system.kernel / "vmlinux"),
            *("-initrd", system.made / "initramfs"),
            *_drives(images, disks),
            *("-virtfs", f"local,path={CHECKOUT},mount_tag=checkout,readonly=on,{_SHARE}"),
            *("-virtfs", f"local,path={job},mount_tag=job,{_SHARE}"),
            *("-append", " ".join(("console=ttyS0", "panic=-1", "mitigations=off", *said))),
        ]

    return under_uml if (system.kernel / "linux").exists() else words


def _drives(images: Sequence[Path], disks: Sequence[str]) -> Iterator[str]:
    for image in images:
        yield from ("-drive", f"file={image},format=raw,if=virtio,snapshot=on")
    for disk in disks:
        yield from ("-drive", f"file={disk},format=raw,if=virtio")
