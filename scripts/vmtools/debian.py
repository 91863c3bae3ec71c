"""Debian packages: installed here where a program is missing, or only unpacked.

Kernels are taken from suites that this machine does not use, so they are fetched with an
apt configuration of our own: signatures are checked with the machine's keys, and neither
its sources nor its list of packages are touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import store
from .errors import Lacks, VmError

__all__ = ["MIRROR", "codename", "require", "succeed", "unpack"]

MIRROR = "http://deb.debian.org/debian"

#: Programs that may be missing, and the packages that have them.
_PROGRAMS = {
    "depmod": "kmod",
    "mkfs.erofs": "erofs-utils",
    "mke2fs": "e2fsprogs",
    "mksquashfs": "squashfs-tools",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "xorriso": "xorriso",
    "zstd": "zstd",
}
_SBIN = "/usr/sbin:/sbin"


def succeed(words: Iterable[str | os.PathLike[str]], *, cwd: Path | None = None) -> str:
    """What the command printed; VmError with its last words when it fails."""
    command = [os.fspath(word) for word in words]
    environment = os.environ | {
        "PATH": os.environ.get("PATH", os.defpath) + ":" + _SBIN,
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-8:]
        raise VmError("\n  ".join([f"{command[0]} failed ({done.returncode}):", *said]))
    return done.stdout


def require(*programs: str) -> None:
    """See to it that ``programs`` are installed; Lacks says how where this can't."""
    path = os.environ.get("PATH", os.defpath) + ":" + _SBIN
    missing = [_PROGRAMS[name] for name in programs if shutil.which(name, path=path) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Lacks(f"please install, as root: apt-get install {' '.join(missing)}")
    print(f"vm: installing {' '.join(missing)}", flush=True)
    wait = ("-o", "DPkg::Lock::Timeout=300")
    install = ("apt-get", *wait, "install", "-y", "-qq", "--no-install-recommends", *missing)
    try:
        succeed(install)
    except VmError:
        succeed(("apt-get", *wait, "update", "-qq"))  # the lists may be old, or not there yet
        succeed(install)


def codename() -> str:
    """This machine's Debian release, so that its .venv works in a guest; else bookworm."""
    try:
        text = Path("/etc/os-release").read_text("utf-8")
    except OSError:
        return "bookworm"
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if fields.get("ID") != "debian":
        return "bookworm"
    return fields.get("VERSION_CODENAME", "bookworm").strip('"')


def unpack(suite: str, into: Path, *packages: str) -> None:
    """Unpack the suite's ``packages`` below ``into``, without what they depend on.

    A kernel package without files of its own stands for what it depends on, as
    linux-image-amd64 does for the kernel of the day, and that for its modules.
    """
    with _apt(suite) as apt:
        wanted, names = list(packages), []
        while wanted:
            name = wanted.pop(0)
            depends = _kernel_parts(apt, name)
            wanted += [part for part in depends if part not in names]
            names.append(name)
        into.mkdir(exist_ok=True)
        fetched = apt.parent / "fetched"
        fetched.mkdir()
        succeed(("apt-get", "-c", apt, "download", "-qq", *names), cwd=fetched)
        for archive in fetched.glob("*.deb"):
            succeed(("dpkg-deb", "-x", archive, into))


def _kernel_parts(apt: Path, package: str) -> list[str]:
    """Packages of the same kernel that ``package`` depends on; of a kernel's version only."""
    if not package.startswith("linux-"):
        return []
    shown = succeed(("apt-cache", "-c", apt, "show", "--no-all-versions", package))
    depends = re.search(r"^Depends: (.*)", shown, re.M)
    return re.findall(r"\blinux-(?:image|base|binary|modules)-\d\S*", depends[1] if depends else "")


@contextmanager
def _apt(suite: str) -> Iterator[Path]:
    """A configuration file for apt that knows just ``suite``, its lists fresh."""
    if shutil.which("apt-get") is None:
        raise Lacks("kernels are taken from Debian packages: this needs apt-get and dpkg-deb")
    with store.alone(f"apt-{suite}"):
        place = store.directory() / f".apt-{suite}"
        shutil.rmtree(place, ignore_errors=True)
        try:
            for name in ("lists/partial", "cache/archives/partial"):
                (place / name).mkdir(parents=True)
            (place / "sources.list").write_text(f"deb {MIRROR} {suite} main\n", "utf-8")
            configuration = place / "apt.conf"
            configuration.write_text(
                f'Dir::Etc::sourcelist "{place}/sources.list";\n'
                'Dir::Etc::sourceparts "-";\n'
                f'Dir::State::lists "{place}/lists";\n'
                # What is installed here may be of a version that the suite does not have.
                'Dir::State::status "/dev/null";\n'
                f'Dir::Cache "{place}/cache";\n'
                'APT::Architecture "amd64";\n'
                'APT::Architectures { "amd64"; };\n'
                # The cache may be below a home directory, where apt's own user can't go.
                f'APT::Sandbox::User "{"root" if os.geteuid() == 0 else ""}";\n'
                'Acquire::Languages "none";\n'
                'Acquire::Retries "3";\n'
                'Acquire::http::Timeout "20";\n'
                # Else a failed download of the lists is a warning.
                'APT::Update::Error-Mode "any";\n',
                "utf-8",
            )
            try:
                succeed(("apt-get", "-c", configuration, "update", "-qq"))
            except VmError as error:
                raise Lacks(f"packages of Debian's {suite} are out of reach: {error}") from None
            yield configuration
        finally:
            shutil.rmtree(place, ignore_errors=True)
