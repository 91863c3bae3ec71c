"""Overlays in fstab and in mount units, where systemd is the first process of a whole system."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fsimages import mounted_image
from tests.vm.guests import booted, clean, disk

pytestmark = pytest.mark.timeout(2400)  # guards a hang only

# As a package puts fallthru there; then an overlay in fstab, one in two steps, and a unit.  Their
# tops are on a disk of their own.  prepare.service is between the two: it makes what the overlays
# need, and at the end tells which are still there.
INSTALL = """
set -e
cp -r overlay /usr/lib/python3/dist-packages/
printf '%s\\n' '#!/usr/bin/python3' 'from overlay.cli.mounthelper import main' 'main()' \\
    >/usr/sbin/mount.fallthru
chmod 755 /usr/sbin/mount.fallthru
mkdir /srv/bottom /srv/data /srv/line /srv/unit /srv/steps
echo bottom >/srv/bottom/file
cat >>/etc/fstab <<'END'
/dev/ubdc /srv/data ext4 defaults 0 0
none /srv/line fallthru bottom=/srv/bottom,top=/srv/data/line,x-systemd.requires=prepare.service 0 0
/dev/ubda /srv/steps squashfs ro,x-systemd.requires=prepare.service 0 0
/srv/data/steps /srv/steps fallthru union 0 0
END
cat >/etc/systemd/system/prepare.service <<'END'
[Unit]
DefaultDependencies=no
RequiresMountsFor=/srv/data
Conflicts=umount.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mkdir -p /srv/data/line /srv/data/unit /srv/data/steps
ExecStop=sh -c 'findmnt -ln -o TARGET -t overlay >/srv/data/overlays-at-the-end'
END
cat >/etc/systemd/system/srv-unit.mount <<'END'
[Unit]
Requires=prepare.service
After=prepare.service
[Mount]
What=fallthru:fallthru
Where=/srv/unit
Type=fallthru
Options=bottom=/srv/bottom,top=/srv/data/unit,nosuid
[Install]
WantedBy=multi-user.target
END
systemctl enable srv-unit.mount
"""

#: What the next boot made of it, what `mount -a` adds to that, and what may be done then.
LOOK = """
cat /run/state
show() { findmnt -rno FSTYPE,SOURCE,TARGET "$@"; }
show -t overlay; show /srv/steps
for time in 1 2; do
    mount -a 2>&1; echo $?
done
show -t overlay
for name in line unit steps; do
    echo "$name" >/srv/$name/file
done
systemctl restart srv-unit.mount
cat /srv/unit/file /srv/bottom/file
"""


def test_they_come_with_a_boot_and_go_before_their_disk(tmp_path: Path) -> None:
    """Where two lines name a mount point, systemd takes the first; `mount -a` does the second."""
    word = "top:LABEL=KEEP,bottom:/dev/ubda"
    with disk("KEEP") as keep, disk("DATA") as data:
        for script in (INSTALL, LOOK):
            done = booted(
                "uml", word, "sh", "-c", script, bottoms=("squashfs",), disks=(keep, data)
            )
            assert done.returncode == 0, done.stderr
        booted_with = ["overlay fallthru:document /", "overlay fallthru:document /srv/line"]
        booted_with.append("overlay fallthru:fallthru /srv/unit")
        lines = done.stdout.splitlines()
        assert (lines[0], lines[4]) == ("running", "squashfs /dev/ubda /srv/steps")
        assert sorted(lines[1:4]) == booted_with
        assert lines[5:7] == ["0", "0"]
        assert sorted(lines[7:11]) == sorted([*booted_with, "overlay fallthru:document /srv/steps"])
        assert lines[11:] == ["unit", "bottom"]
        assert clean(data)
        with mounted_image("ext4", data, tmp_path, read_only=True):
            assert (tmp_path / "overlays-at-the-end").read_text() == "/\n"
            for name in ("line", "unit", "steps"):
                assert (tmp_path / name / "file").read_text() == f"{name}\n"
