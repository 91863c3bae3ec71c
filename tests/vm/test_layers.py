"""Layers through the old option parser: what may stand in their paths, what is told."""

from __future__ import annotations

import pytest

from tests.vm.guests import in_guest

SCRIPT = r"""
set -e
base="/tmp/$1"
mkdir -p "$base/bottom" "$base/second" "$base/top" "$base/mnt"
echo below >"$base/bottom/file"
echo deeper >"$base/second/other"
fallthru mount --bottom "$base/bottom" --bottom "$base/second" --top "$base/top" "$base/mnt"
cat "$base/mnt/file" "$base/mnt/other"
echo above >>"$base/mnt/file"
fallthru status
fallthru umount "$base/mnt"
cat "$base/top/file"
"""


@pytest.mark.parametrize("name", ["plain", "co:lon", "back\\slash", "spa ce", "per%cent", "e=q"])
def test_any_path_without_a_comma_is_taken(name: str) -> None:
    done = in_guest("uml", "sh", "-c", SCRIPT, "sh", name)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["below", "deeper"]
    assert lines[-2:] == ["below", "above"]


def test_a_comma_is_refused_with_its_cause() -> None:
    done = in_guest("uml", "sh", "-c", SCRIPT, "sh", "com,ma")
    assert done.returncode == 3
    assert "comma in its path" in done.stderr
    assert "hint" in done.stderr or "rename" in done.stderr


def test_newer_kernels_take_commas() -> None:
    """6.8 takes bottoms one by one, and no string is split at commas any more."""
    done = in_guest("debian-6.12", "sh", "-c", SCRIPT, "sh", "com,ma:and co\\lon")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["below", "above"]


EXT2 = r"""
set -e
cd /tmp
mkdir -p bottom/dir disk mnt
touch bottom/dir/file
truncate -s 8M /tmp/image
mkfs.ext2 -q /tmp/image
mount -t ext2 -o loop,user_xattr /tmp/image /tmp/disk
mkdir /tmp/disk/top /tmp/disk/work
options=lowerdir=/tmp/bottom,upperdir=/tmp/disk/top,workdir=/tmp/disk/work
mount -t overlay overlay -o $options /tmp/mnt
rm mnt/dir/file
rmdir mnt/dir 2>&1 || true
umount mnt
rm -r disk/top/dir disk/work
fallthru mount --bottom bottom --top disk/top --work disk/work mnt 2>&1 || echo $?
ls -A disk/top
ls -d disk/work 2>&1 || true
"""


def test_a_top_that_cannot_exchange_names_is_refused() -> None:
    """On ext2's own driver overlayfs mounts, and then fails to remove what the bottom has."""
    done = in_guest("uml", "sh", "-c", EXT2)
    assert done.returncode == 0, done.stderr
    failed, refused, _hint, code, gone = done.stdout.splitlines()
    assert failed.endswith("Invalid argument")
    assert "cannot be a top: it lacks exchanging two names (RENAME_EXCHANGE)" in refused
    assert code == "3"
    assert "No such file" in gone
