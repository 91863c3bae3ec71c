"""A Debian kernel under QEMU, emulated in software: 10 s a run.

KVM is left alone even where there is one: in virtual machines it may hang, and runs should
take the same path everywhere.  The kernel is booted as an extracted vmlinux, because
unpacking itself takes bzImage 4 s under software emulation.  The root is an erofs image,
and the kernel's modules are another; the checkout and the job's directory come over 9p,
which would be far too slow for the whole root.  No part of the root is an overlay: that
would show in what tests count, and take one of the two levels that overlays may be stacked.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import debian, initramfs, store
from .errors import VmError
from .jobs import CHECKOUT, Start

__all__ = ["MACHINE", "build_kernel", "build_root", "find_kernel", "find_root", "start"]

_GUEST = Path(__file__).parent / "guest"

#: The machine itself; its memory, kernel and disks are to be added.
MACHINE = (
    *("qemu-system-x86_64", "-M", "pc", "-cpu", "max", "-smp", "2"),
    *("-accel", "tcg,thread=multi"),
    *("-nodefaults", "-no-reboot", "-nic", "none"),
    *("-display", "none", "-monitor", "none", "-serial", "stdio"),
    *("-device", "virtio-rng-pci"),
)

#: What it takes to mount the root and the shares; their dependencies come along.
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "erofs")

_ROOT_PACKAGES = (
    *("acl", "attr", "busybox-static", "iproute2", "kmod", "mount", "procps", "python3"),
    *("btrfs-progs", "e2fsprogs", "erofs-utils", "mtd-utils", "squashfs-tools"),
    *("xfsprogs", "xorriso"),
    *("bpftrace", "python3-bpfcc", "strace"),
    *("fuse-overlayfs", "mergerfs", "unionfs-fuse"),
)
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")


def _kernel_inputs(suite: str) -> object:
    return [suite, debian.MIRROR, _BOOT_MODULES, 1]


def find_kernel(name: str, suite: str) -> Path | None:
    """The finished tree of a kernel; None when it is not built."""
    return store.find(name, _kernel_inputs(suite))


def build_kernel(name: str, suite: str) -> Path:
    """The tree: ``vmlinux``, ``initramfs``, ``modules.erofs``, ``release``."""
    debian.require("depmod", "mkfs.erofs", "zstd")

    def fill(tree: Path) -> None:
        unpacked = tree / "unpacked"
        debian.unpack(suite, unpacked, "linux-image-amd64")
        debian.unpack(debian.codename(), unpacked, "busybox-static")
        (modules,) = unpacked.glob("**/lib/modules/*/kernel")
        modules = modules.parent
        release = modules.name
        # Among the modules since Debian's packages of 7.x, under /boot before.
        images = (modules / "vmlinuz", unpacked / "boot" / f"vmlinuz-{release}")
        image = next(path for path in images if path.exists())
        (tree / "vmlinux").write_bytes(_payload(image.read_bytes()))
        debian.succeed(("depmod", "-b", modules.parents[2], release))
        (busybox,) = unpacked.glob("**/bin/busybox")
        files = {"bin/busybox": busybox.read_bytes(), **_boot_modules(modules)}
        (tree / "initramfs").write_bytes(initramfs.pack(files))
        debian.succeed(("mkfs.erofs", "-zlz4", tree / "modules.erofs", modules.parent))
        (tree / "release").write_text(release + "\n", "utf-8")
        shutil.rmtree(unpacked)

    return store.cached(name, _kernel_inputs(suite), fill)


def _payload(image: bytes) -> bytes:
    """The ELF kernel in a bzImage (Documentation/arch/x86/boot.rst: payload_offset)."""
    (setup_sectors,) = struct.unpack_from("<B", image, 0x1F1)
    offset, length = struct.unpack_from("<II", image, 0x248)
    begin = (setup_sectors + 1) * 512 + offset
    packed = image[begin : begin + length]
    if packed.startswith(b"\xfd7zXZ"):
        # The kernel's build puts the unpacked size behind the stream.
        return lzma.LZMADecompressor().decompress(packed)
    if packed.startswith(b"\x28\xb5\x2f\xfd"):
        return _unzstd(packed[:-4])
    if packed.startswith(b"\x1f\x8b"):
        return gzip.decompress(packed[:-4])
    raise VmError(f"the kernel image is packed in an unknown way: {packed[:4].hex()}")


def _unzstd(packed: bytes) -> bytes:
    return subprocess.run(("zstd", "-dcq"), input=packed, capture_output=True, check=True).stdout


def _boot_modules(modules: Path) -> dict[str, bytes]:
    """The modules to boot with, unpacked, and ``modules/order``: dependencies first."""
    depends = {}
    for line in (modules / "modules.dep").read_text("utf-8").splitlines():
        path, _, needs = line.partition(":")
        depends[path] = needs.split()
    by_name = {_module_name(path): path for path in depends}

    def in_order(path: str) -> Iterator[str]:
        for need in reversed(depends[path]):
            yield from in_order(need)
        yield path

    builtin = {_module_name(path) for path in (modules / "modules.builtin").read_text().split()}
    order: list[str] = []
    # erofs looks its checksum up by name, which is no dependency that depmod sees.
    for name in (*sorted(n for n in by_name if n.startswith("crc32c")), *_BOOT_MODULES):
        if name not in by_name:
            if name not in builtin:
                raise VmError(f"this kernel has no {name}")
            continue
        order += [path for path in in_order(by_name[name]) if path not in order]
    files = {f"modules/{_module_name(path)}.ko": _module(modules / path) for path in order}
    names = "".join(f"{_module_name(path)}.ko\n" for path in order)
    return {**files, "modules/order": names.encode()}


def _module_name(path: str) -> str:
    return Path(path).name.split(".ko")[0].replace("-", "_")


def _module(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    return _unzstd(data) if path.suffix == ".zst" else data


def _root_inputs() -> object:
    return [debian.codename(), debian.MIRROR, _ROOT_PACKAGES, _LEFT_OUT]


def find_root() -> Path | None:
    """The finished root's directory; None when it is not built."""
    return store.find("root", _root_inputs())


def build_root() -> Path:
    """The directory with ``root.erofs``: a small Debian of this machine's release."""
    debian.require("mmdebstrap", "mkfs.erofs")

    def fill(tree: Path) -> None:
        root = tree / "root"
        leave_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
        debian.succeed(
            (
                "mmdebstrap",
                "--variant=apt",
                f"--include={','.join(_ROOT_PACKAGES)}",
                *leave_out,
                debian.codename(),
                root,
                debian.MIRROR,
            )
        )
        (root / "usr/lib/modules").mkdir(exist_ok=True)
        for cache in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / cache)
        debian.succeed(("mkfs.erofs", "-zlz4", tree / "root.erofs", root))
        shutil.rmtree(root)

    return store.cached("root", _root_inputs(), fill)


def start(kernel: Path, root: Path, memory: str, further: Sequence[Path] = ()) -> Start:
    """How to start a machine with the kernel and the root of these directories.

    ``further`` images are its disks from /dev/vdc on.
    """

    def words(job: Path) -> list[str | os.PathLike[str]]:
        ours = {
            "init": (_GUEST / "init-qemu").read_bytes(),
            "run.sh": (_GUEST / "run.sh").read_bytes(),
        }
        packed = job / "initramfs"
        packed.write_bytes((kernel / "initramfs").read_bytes() + initramfs.pack(ours))
        share = "security_model=none,multidevs=remap"
        return [
            *MACHINE,
            *("-m", memory, "-kernel", kernel / "vmlinux", "-initrd", packed),
            *_disk(root / "root.erofs"),
            *_disk(kernel / "modules.erofs"),
            *(word for image in further for word in _disk(image)),
            *("-virtfs", f"local,path={CHECKOUT},mount_tag=checkout,readonly=on,{share}"),
            *("-virtfs", f"local,path={job},mount_tag=job,{share}"),
            "-append",
            f"console=ttyS0 quiet panic=-1 mitigations=off vm_checkout={CHECKOUT}",
        ]

    return words


def _disk(image: Path) -> tuple[str, str]:
    return ("-drive", f"file={image},format=raw,if=virtio,readonly=on")
