"""Layers through every format and back: the union shows the same; peers read what is written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from overlay.archives.archive import (
    Format,
    export_directory,
    import_directory,
    import_tar,
)
from overlay.archives.compressed import Compression
from overlay.archives.ociimage import import_image
from overlay.archives.sink import AufsNames, OverlayMarks
from overlay.archives.source import top_items
from overlay.archives.tarexport import export_tar
from overlay.archives.tarwrite import END, headers, opaque_mark, whiteout, write_content
from overlay.errors import FallthruError, Refused
from overlay.layer import Layer
from overlay.marks import MarkFamily, Whiteout
from overlay.view import View
from tests.conftest import Layers
from tests.overlay.committing import groups, shown, whole
from tests.overlay.test_changes import OPTIONS, Step, histories, stacked
from tests.rawoverlay import overlay
from tests.treediff import Tree

STUBS = OPTIONS["stubs"]


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_there_and_back(tmpfs_dir: Path, kind: str) -> None:
    examples = iter(range(10**6))
    options = OPTIONS[kind]
    family = "user" if kind == "user" else "trusted"

    def history(steps: list[list[Step]]) -> None:
        base = tmpfs_dir / str(next(examples))
        base.mkdir()
        layers, (top, bottom) = stacked(base, steps, options)
        expected = shown(layers, [top, bottom], options)
        below = [str(bottom)]
        archive, aufs, plain = (base / name for name in ("layer.tar", "aufs", "plain"))
        export_tar(str(top), str(archive), bottoms=below, family=family)
        export_directory(str(top), str(aufs), AufsNames(), bottoms=below, family=family)
        export_directory(str(top), str(plain), OverlayMarks(), bottoms=below, family=family)
        import_tar(str(archive), str(base / "1"), devices=True)
        import_directory(str(aufs), str(base / "2"), Format.AUFS)
        user = OverlayMarks(MarkFamily.USER, Whiteout.XATTR)
        import_directory(str(plain), str(base / "3"), Format.OVERLAY, style=user)
        for made, how in (("plain", {}), ("1", {}), ("2", {}), ("3", OPTIONS["user"])):
            found = shown(layers, [base / made, bottom], how)
            assert without_sockets(found) == without_sockets(expected), made
        shutil.rmtree(base)

    histories(1, history, 20)


def without_sockets(tree: Tree) -> Tree:
    return {path: thing for path, thing in tree.items() if not stat.S_ISSOCK(thing.ftype)}


@pytest.fixture
def changed(layers: Layers) -> Layers:
    """A top with a whiteout, an opaque directory, links, attributes, odd names, a renamed one."""
    for name in ("gone", "d/one", "d/two", "opaque/old", "moved/inside"):
        (layers.bottom / name).parent.mkdir(exist_ok=True)
        (layers.bottom / name).write_text(name)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, STUBS) as mnt:
        (mnt / "gone").unlink()
        (mnt / "d" / "one").write_bytes(b"\0one" * 300)
        os.setxattr(mnt / "d" / "one", "user.binary", bytes(range(256)))
        os.link(mnt / "d" / "one", mnt / "d" / "linked")
        (mnt / "d" / ("long name " * 15)).write_text("long")
        (mnt / os.fsdecode(b"no text \xff\xfe")).symlink_to("ü" * 60)
        shutil.rmtree(mnt / "opaque")
        (mnt / "opaque").mkdir()
        (mnt / "opaque" / "new").write_text("new")
        (mnt / "moved").rename(mnt / "elsewhere")
        os.mkfifo(mnt / "fifo")
        with open(mnt / "sparse", "wb") as file:
            file.truncate(100_000)
        os.chown(mnt / "sparse", 3_000_000, 4_000_000)
        os.utime(mnt / "sparse", ns=(1, -1_500_000_001))
    return layers


@pytest.mark.parametrize("compression", list(Compression))
def test_the_same_top_gives_the_same_archive(changed: Layers, compression: Compression) -> None:
    made = []
    for name in ("one", "two"):
        path = changed.base / name
        copy = changed.base / f"top-{name}"
        # Another directory, filled in another order.
        subprocess.run(["cp", "-a", changed.top, copy], check=True)
        made.append(
            export_tar(str(copy), str(path), bottoms=[str(changed.bottom)], compression=compression)
        )
        assert made[-1].digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        back = import_tar(str(path), str(changed.base / f"back-{name}"), expected=made[-1].digest)
        assert (back.digest, back.diff_id) == (made[-1].digest, made[-1].diff_id)
        shutil.rmtree(copy)
    assert made[0].digest == made[1].digest
    if compression is Compression.NONE:
        assert made[0].digest == made[0].diff_id


def test_several_processes_write_what_one_would(changed: Layers) -> None:
    """Many directories, a large one, links between parts: against the items one by one."""
    top = changed.top
    for number in range(37):
        (top / f"m{number}" / "below").mkdir(parents=True)
        for name in range(61):
            (top / f"m{number}" / "below" / f"f{name}").write_bytes(b"x" * (name * 37))
        os.link(top / "m0" / "below" / "f7", top / f"m{number}" / "linked")
    (top / "m20" / "large").write_bytes(os.urandom(300_001))
    (top / "z").mkdir()
    for name in range(9_001):
        os.mknod(top / "z" / f"n{name}")
    os.mknod(top / "z" / "n4999-gone", stat.S_IFCHR)
    os.setxattr(top / "z" / "n5000", "user.kept", b"value")
    # Around what a header of 512 bytes holds: 100 bytes of name or target, seconds only.
    for length in range(93, 103):
        (top / f"{'d' * length}").mkdir()
        (top / f"{'f' * length}").symlink_to("t" * length)
        os.mknod(top / f"{'w' * length}", stat.S_IFCHR)
    os.utime(top / "z" / "n1", ns=(0, 7 * 10**9))
    path = changed.base / "layer.tar"
    done = export_tar(str(top), str(path), bottoms=[str(changed.bottom)])
    expected: list[bytes] = []
    with Layer.open(str(top)) as upper, Layer.open(str(changed.bottom)) as lower:
        for item in top_items(View([upper, lower], MarkFamily.TRUSTED)):
            if item.whiteout:
                expected.append(whiteout(item.path))
                continue
            expected.append(headers(item))
            if item.link is None and item.size:
                write_content(item, expected.append)
            if item.opaque:
                expected.append(opaque_mark(item.path))
    assert path.read_bytes() == b"".join(expected) + END
    with tarfile.open(path) as archive:
        assert len(archive.getmembers()) == done.entries > 37 * 64 + 9_001
        assert archive.getmember("m36/linked").linkname == "m0/below/f7"


def test_tar_reads_what_is_written(changed: Layers) -> None:
    path, out = changed.base / "layer.tar.gz", changed.base / "out"
    export_tar(
        str(changed.top), str(path), bottoms=[str(changed.bottom)], compression=Compression.GZIP
    )
    out.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xzpf"]
    done = subprocess.run(["tar", *options, path, "-C", out], capture_output=True, check=True)
    warnings = [line for line in done.stderr.splitlines() if b"implausibly old" not in line]
    assert warnings == []
    with overlay(changed.mnt, [changed.bottom], changed.top, changed.work, STUBS) as mnt:
        expected, links = whole(mnt), groups(mnt)
    found = whole(out)
    marks = {path for path in found if os.path.basename(path).startswith(b".wh.")}
    assert marks == {b".wh.gone", b".wh.moved", b"opaque/.wh..wh..opq", b"elsewhere/.wh..wh..opq"}
    for mark in marks:
        del found[mark]
    assert found == {path: expected[path] for path in found}
    assert b"elsewhere/inside" in found
    assert groups(out) == links
    listed = subprocess.run(["tar", "-tzf", path], capture_output=True, check=True).stdout
    assert listed.splitlines()[:2] == [b"d/", b"d/linked"], "sorted, directories first"


def test_a_top_alone_is_enough_unless_it_reads_from_below(changed: Layers) -> None:
    with pytest.raises(Refused, match="reads from a bottom"):
        export_tar(str(changed.top), str(changed.base / "layer.tar"))
    assert not (changed.base / "layer.tar").exists()
    assert not [path for path in changed.base.iterdir() if path.name.startswith(".fallthru")]
    shutil.rmtree(changed.top / "elsewhere")
    export_tar(str(changed.top), str(changed.base / "layer.tar"))
    with pytest.raises(Refused, match="exists already"):
        export_tar(str(changed.top), str(changed.base / "layer.tar"))


def test_names_that_would_be_whiteouts_are_not_exported(layers: Layers) -> None:
    (layers.top / ".wh.x").write_text("x")
    with pytest.raises(Refused, match=r"\.wh\.x would be read as a whiteout"):
        export_tar(str(layers.top), str(layers.base / "layer.tar"))
    with pytest.raises(Refused, match="whiteout"):
        export_directory(str(layers.top), str(layers.base / "aufs"), AufsNames())
    assert not (layers.base / "aufs").exists()
    export_directory(str(layers.top), str(layers.base / "plain"), OverlayMarks())
    assert (layers.base / "plain" / ".wh.x").read_text() == "x"


# ----------------------------------------------------------------------------- images


class Layout:
    """An OCI layout written by hand, after the image specification."""

    def __init__(self, base: Path) -> None:
        self.path = base / "layout"
        (self.path / "blobs" / "sha256").mkdir(parents=True)
        (self.path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data: bytes) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (self.path / "blobs" / "sha256" / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    def document(self, value: object) -> dict[str, object]:
        return self.blob(json.dumps(value).encode())

    def image(self, layers: list[Path], diff_ids: list[str]) -> None:
        config = self.document({"rootfs": {"type": "layers", "diff_ids": diff_ids}})
        blobs = [self.blob(path.read_bytes()) for path in layers]
        manifest = self.document({"schemaVersion": 2, "config": config, "layers": blobs})
        index = {"schemaVersion": 2, "manifests": [manifest]}
        (self.path / "index.json").write_text(json.dumps(index))


@pytest.fixture
def layout(changed: Layers) -> Layout:
    """An image of two layers: a bottom as a layer of its own, and the top."""
    parts = []
    for top, name, how in (
        (changed.bottom, "0.tar.zst", Compression.ZSTD),
        (changed.top, "1.tar.gz", Compression.GZIP),
    ):
        path = changed.base / name
        bottoms = [] if top == changed.bottom else [str(changed.bottom)]
        done = export_tar(str(top), str(path), bottoms=bottoms, compression=how)
        parts.append((path, done.diff_id))
    made = Layout(changed.base)
    made.image([path for path, _ in parts], [diff_id for _, diff_id in parts])
    return made


def test_an_image_becomes_bottoms(changed: Layers, layout: Layout) -> None:
    with overlay(changed.mnt, [changed.bottom], changed.top, changed.work, STUBS) as mnt:
        expected = whole(mnt)
    image = import_image(str(layout.path), str(changed.base / "image"), OverlayMarks())
    assert [os.path.basename(path) for path in image.bottoms] == ["01", "00"]
    assert shown(changed, [Path(path) for path in image.bottoms], {}) == expected


def test_an_image_that_is_not_what_it_says(changed: Layers, layout: Layout) -> None:
    blobs = layout.path / "blobs" / "sha256"
    for blob in sorted(blobs.iterdir()):
        data = blob.read_bytes()
        blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(FallthruError):
            import_image(str(layout.path), str(changed.base / "image"), OverlayMarks())
        assert not (changed.base / "image").exists()
        blob.write_bytes(data)
    secret = changed.base / "secret"
    victim = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    shutil.copy(victim, secret)
    victim.unlink()
    victim.symlink_to(secret)
    with pytest.raises(Exception, match="no complete OCI layout"):
        import_image(str(layout.path), str(changed.base / "image"), OverlayMarks())
    assert {path.name for path in changed.base.iterdir() if path.name.startswith(".")} == set()


def test_what_python_packs_is_read(layers: Layers) -> None:
    """An archive by another program: GNU format, in no order, with no entries for directories."""
    path = layers.base / "layer.tar"
    (layers.base / "file").write_text("content")
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("b/c/file", "a/" + "n" * 150):
            archive.add(layers.base / "file", name)
        archive.add(layers.base / "file", "./b/.//x")
    done = import_tar(str(path), str(layers.base / "out"))
    assert done.entries == 3
    out = layers.base / "out"
    names = {str(each.relative_to(out)) for each in out.rglob("*") if each.is_file()}
    assert names == {"b/c/file", "a/" + "n" * 150, "b/x"}
