"""What works on this machine, found out by trying each thing once.

Every named error that the environment can cause has its check here, so that
``fallthru doctor`` shows it beforehand.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from overlay import kernel, layerargs, lsm, runstate, syscalls
from overlay.errors import FallthruError
from overlay.imageformats import FORMATS
from overlay.privilege import in_user_namespace
from overlay.profiles import PROFILES

__all__ = ["Check", "checks"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing tried: whether it works, what was seen, and what to do where it does not.

    ``required``: fallthru is of no use without it.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = False


def checks() -> Iterator[Check]:
    """The checks of everything that mounting needs, cheapest first."""
    yield _privilege()
    yield _overlayfs()
    yield _layer_arguments()
    for where in _scratch_directories():
        for profile in PROFILES.values():
            yield _mounts(where, profile.name)
    yield _user_namespaces()
    yield _loop_devices()
    yield _image_formats()
    yield _freezing()
    yield _lsm()


def _privilege() -> Check:
    if os.geteuid() == 0 and not in_user_namespace():
        return Check("privilege", True, "root; marks are trusted.overlay.*", required=True)
    if os.geteuid() == 0:
        detail = "root of a user namespace; marks are user.overlay.*, no fallthru profile"
        return Check("privilege", True, detail, required=True)
    return Check(
        "privilege", False, f"uid {os.geteuid()}", "run as root, or: unshare -rm fallthru ...", True
    )


def _overlayfs() -> Check:
    try:
        fs = syscalls.fsopen("overlay")
    except OSError as error:
        return Check("overlayfs", False, str(error.strerror), "modprobe overlay", required=True)
    os.close(fs)
    return Check("overlayfs", True, f"Linux {os.uname().release}", required=True)


def _layer_arguments() -> Check:
    name = "any byte in layer paths"
    try:
        if layerargs.takes_descriptors():
            return Check(name, True, "layers are passed by descriptor")
    except OSError as error:
        return Check(name, False, str(error.strerror), "see overlayfs above")
    if layerargs.takes_appended_bottoms():
        return Check(name, True, "layers are passed one by one")
    remedy = "rename directories with commas, or use Linux 6.8 or later"
    return Check(name, False, "layers are passed in one option string", remedy)


def _scratch_directories() -> list[str]:
    return [path for path in ("/dev/shm", tempfile.gettempdir()) if os.access(path, os.W_OK)]


def _mounts(where: str, profile: str) -> Check:
    """Mount a small overlay detached in ``where`` and read through it."""
    with tempfile.TemporaryDirectory(prefix="fallthru-doctor-", dir=where) as base:
        for name in ("bottom", "top"):
            os.mkdir(os.path.join(base, name))
        with open(os.path.join(base, "bottom", "file"), "w", encoding="ascii") as file:
            file.write("data")
        overlay = kernel.Overlay((f"{base}/bottom",), f"{base}/top", profile=profile)
        name = f"profile {profile} on {where}"
        try:
            tree = kernel.open_overlay(overlay)
        except FallthruError as error:
            return Check(name, False, str(error), error.hint or "see the kernel log")
        try:
            os.close(os.open("file", os.O_RDWR, dir_fd=tree))
        except OSError as error:
            return Check(name, False, f"copyup failed: {error.strerror}", "see the kernel log")
        finally:
            os.close(tree)
        return Check(name, True, "mounted and copied up")


def _user_namespaces() -> Check:
    name = "overlays for ordinary users"
    code = _exit_code_of_child(_mount_in_user_namespace)
    if code == 0:
        return Check(name, True, "overlayfs mounts in user namespaces")
    remedy = (
        "see the sysctl user.max_user_namespaces, on Debian also kernel.unprivileged_userns_clone; "
        "in a chroot the kernel refuses user namespaces"
    )
    return Check(name, False, os.strerror(code), remedy)


def _mount_in_user_namespace() -> None:
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    os.close(syscalls.fsopen("overlay"))


def _exit_code_of_child(action: Callable[[], None]) -> int:
    """Run ``action`` in a child, which namespaces cannot leave: 0, or the errno it met."""
    child = os.fork()
    if child == 0:
        code = 0
        try:
            action()
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _loop_devices() -> Check:
    if os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return Check("images as bottoms", True, "loop devices can be attached")
    return Check("images as bottoms", False, "no access to /dev/loop-control", "modprobe loop")


def _image_formats() -> Check:
    name = "formats of images"
    known = [fstype for fstype in FORMATS if _opens(fstype)]
    lacking = ", ".join(fstype for fstype in FORMATS if fstype not in known)
    remedy = f"modprobe what you need of {lacking}" if lacking else ""
    return Check(name, bool(known), ", ".join(known) or "none", remedy)


def _opens(fstype: str) -> bool:
    try:
        os.close(syscalls.fsopen(fstype))
    except OSError:
        return False
    return True


def _lsm() -> Check:
    """Load the program that holds bottoms without a device, have it refuse once, take it out."""
    name = "holding bottoms by BPF LSM"
    with runstate.locked("devices") as held:
        if held is None:
            return Check(name, False, "it takes root of the machine", "run as root")
        if lsm.installed():
            return Check(name, True, "it is at work")
        try:
            lsm.install()
        except FallthruError as error:
            return Check(name, False, str(error), error.hint or "")
        lsm.remove()
    return Check(name, True, "a tmpfs was kept read-only")


def _freezing() -> Check:
    found = shutil.which("mkfs.erofs")
    detail = found or "mkfs.erofs is not installed"
    return Check("fallthru freeze", found is not None, detail, "apt-get install erofs-utils")
