"""A whole Debian boots on an overlay that its initramfs mounts (L10, L641); minutes each."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from typing import Any

import pytest

from tests.vm.guests import booted, clean, disk

pytestmark = pytest.mark.timeout(2400)  # guards a hang only
LAYERS = "/run/initramfs/fallthru"

# The machine's own Python: the checkout's environment is of another version.

#: What a system says of itself, and of its root; then what a user does in it.
ASK = f"""
set -e
cat /run/state
echo failed: $(systemctl --failed --no-legend --plain | cut -d' ' -f1)
findmnt -no FSTYPE,SOURCE /
echo status: $(/usr/bin/python3 -m overlay status / --json)
blockdev --getro $(findmnt -no SOURCE {LAYERS}/bottom.0)
echo written >/etc/written
cat {LAYERS}/top/fallthru/top/etc/written
! cat {LAYERS}/bottom.0/etc/written 2>/dev/null
! mount -o remount,rw {LAYERS}/bottom.0 2>/dev/null
"""


@functools.cache
def asked(kernel: str, kind: str, maker: str) -> subprocess.CompletedProcess[str]:
    """ASK's answer from a system whose bottom is an image of ``kind``, its top in memory."""
    names = {"iso9660": "LABEL=LIVECD", "ext2": "LABEL=BOTTOM"}
    word = f"top:tmpfs,bottom:{names.get(kind, first_disk(kernel))}"
    return booted(kernel, word, "sh", "-c", ASK, bottoms=(kind,), maker=maker)


def first_disk(kernel: str) -> str:
    return "/dev/ubda" if kernel == "uml" else "/dev/vda"


def status_in(text: str) -> dict[str, Any]:
    (line,) = (line for line in text.splitlines() if line.startswith("status: "))
    (found,) = json.loads(line.removeprefix("status: "))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("kernel", "kind", "maker"),
    [
        ("uml", "squashfs", "initramfs-tools"),
        ("uml", "erofs", "initramfs-tools"),
        ("uml", "ext2", "initramfs-tools"),
        ("uml", "iso9660", "initramfs-tools"),
        ("uml", "ext2", "dracut"),
        ("debian-6.12", "squashfs", "initramfs-tools"),
        ("debian-6.12", "erofs", "initramfs-tools"),
        ("debian-6.12", "ext2", "dracut"),
    ],
)
def test_a_system_boots_to_multi_user_and_knows_its_root(
    kernel: str, kind: str, maker: str
) -> None:
    done = asked(kernel, kind, maker)
    assert done.returncode == 0, (done.stdout, done.stderr)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["running", "failed:", "overlay fallthru:document"]
    assert lines[-2:] == ["1", "written"]  # the device is read-only, the top is not
    status = status_in(done.stdout)
    (bottom,) = status["bottoms"]
    assert (status["booted"], status["tainted"], status["mount_point"]) == (True, False, "/")
    assert status["top"] == f"{LAYERS}/top/fallthru/top"
    assert bottom["path"] == f"{LAYERS}/bottom.0"
    assert bottom["really_read_only"]
    assert bottom["held_by_fallthru"]
    assert bottom["hold"] == ("device" if kind == "ext2" else "format")


PACKAGE = """
set -e
mkdir -p /tmp/deb/DEBIAN /tmp/deb/usr/share/proof
echo 17 >/tmp/deb/usr/share/proof/number
printf '%s\\n' 'Package: proof' 'Version: 1' 'Architecture: all' \
    'Maintainer: Nobody <nobody@example.org>' 'Description: proof' >/tmp/deb/DEBIAN/control
dpkg-deb --build /tmp/deb /tmp/proof.deb >&2
dpkg -i /tmp/proof.deb >&2
rm /etc/motd
"""


@pytest.mark.parametrize(
    ("kernel", "kind", "maker"),
    [
        ("uml", "squashfs", "initramfs-tools"),
        ("debian-6.12", "iso9660", "initramfs-tools"),
    ],
)
def test_what_is_installed_survives_a_reboot_and_the_disk_is_clean(
    kernel: str, kind: str, maker: str
) -> None:
    word = f"top:LABEL=KEEP:/tops/web,bottom:{first_disk(kernel)}"
    with disk("KEEP") as keep:

        def boot(script: str) -> subprocess.CompletedProcess[str]:
            return booted(
                kernel, word, "sh", "-c", script, bottoms=(kind,), disks=(keep,), maker=maker
            )

        first = boot(PACKAGE)
        assert first.returncode == 0, first.stderr
        assert clean(keep)  # systemd remounted it read-only at the end
        second = boot("cat /run/state; dpkg -s proof; cat /usr/share/proof/number; ls /etc/motd")
    assert second.stdout.startswith("running\n"), second.stderr
    assert "Status: install ok installed" in second.stdout
    assert second.stdout.endswith("\n17\n")
    assert "No such file" in second.stderr


SOFT_REBOOT = """
set -e
count=$(systemctl show --value --property SoftRebootsCount)
if [ "$count" = 0 ]; then
    mkdir -p /run/next/top /run/nextroot
    echo before >/etc/kind
    /usr/bin/python3 -m overlay mount --bottom /dev/ubdb --top /run/next/top /run/nextroot
    echo after >/run/nextroot/etc/kind
    systemctl soft-reboot
    exec sleep infinity
fi
cat /run/state /etc/kind
cat /run/next/top/etc/kind
echo status: $(/usr/bin/python3 -m overlay status / --json)
"""


def test_a_running_system_goes_to_an_overlay_of_another_image() -> None:
    """The document's pivot_root (L246), for the whole system: no kernel boots."""
    done = booted(
        "uml",
        "top:tmpfs,bottom:/dev/ubda",
        *("sh", "-c", SOFT_REBOOT),
        bottoms=("squashfs", "ext2"),
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.splitlines()[:3] == ["running", "after", "after"]
    found = status_in(done.stdout)
    assert found["bottoms"][0]["path"] == "/dev/ubdb"
    assert not found["booted"]
    assert os.path.isabs(found["top"])


def test_a_root_that_cannot_be_is_explained_on_the_console() -> None:
    """And nothing is mounted half: panic= reboots, or a shell waits."""
    done = booted("uml", "top:tmpfs,bottom:LABEL=NONE,wait:0", "true", bottoms=("squashfs",))
    assert done.returncode == 5
    assert "fallthru: there is no device LABEL=NONE" in done.stderr
