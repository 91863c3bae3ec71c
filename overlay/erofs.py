"""Writing an erofs image of a tree that has attributes and names, but no data.

A metadata layer's files are stubs: sizes without content.  mkfs.erofs would read and
store all their zeros, and stamps the time of the making into the image.  Here a stub is
a chunk-based file with one hole, and the same tree always gives the same bytes.  Format:
fs/erofs/erofs_fs.h; chunk-based files need Linux 5.15.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from overlay.layer import open_beneath, scan
from overlay.markvalues import NO_XATTR

__all__ = ["write_image"]

_BLOCK_BITS: Final = 12
_BLOCK: Final = 1 << _BLOCK_BITS
_SLOT: Final = 32  # what inode numbers count
_INODE: Final = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT: Final = struct.Struct("<QHBB")
_XATTR_HEAD: Final = struct.Struct("<IB7x")
_XATTR: Final = struct.Struct("<BBH")
_SUPER: Final = struct.Struct("<IIIBBHQQIIII16s16sI44x")

_MAGIC: Final = 0xE0F5E1E2
_COMPAT_MTIME: Final = 0x2
_INCOMPAT_CHUNKED: Final = 0x4
_PLAIN, _INLINE, _CHUNKED = 0, 2, 4
#: The largest chunk there can be, 8 TiB, so that nearly every file is one hole.
_CHUNK_FORMAT: Final = 31
_CHUNK: Final = 1 << (_BLOCK_BITS + _CHUNK_FORMAT)
_HOLE: Final = b"\xff\xff\xff\xff"
_FIRST_SLOT: Final = 2 * 1024 // _SLOT  # behind the super block

_PREFIXES: Final = (
    ("user.", 1),
    ("system.posix_acl_access", 2),
    ("system.posix_acl_default", 3),
    ("trusted.", 4),
    ("security.", 6),
)
_TYPES: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


@dataclass(slots=True)
class _Node:
    """One inode: ``tail`` is a file's chunks, ``names`` a directory's entries, in order."""

    st: os.stat_result
    xattrs: bytes
    tail: bytes = b""
    target: bytes = b""  # a symlink's
    names: list[tuple[bytes, _Node]] = field(default_factory=list)
    nlink: int = 0
    slot: int = 0
    blocks: int = 0  # of data, besides what is stored behind the inode
    first_block: int = 0


def write_image(file: BinaryIO, dirfd: int, name: bytes, *, identity: bytes) -> None:
    """Write an image of the directory ``name``, whose files have no data, to ``file``.

    It ends on a block boundary.  Same names, attributes and ``identity``, same bytes.  By
    the identity, which becomes the UUID, overlayfs knows the bottom of a top again.
    """
    root, nodes = _read_tree(dirfd, name)
    metadata = _lay_out(nodes)
    file.write(bytes(_FIRST_SLOT * _SLOT))
    at = _FIRST_SLOT * _SLOT
    for node in nodes:
        encoded = _encode(node)
        file.write(bytes(node.slot * _SLOT - at) + encoded)
        at = node.slot * _SLOT + len(encoded)
    file.write(bytes(metadata * _BLOCK - at))
    total = metadata
    for node in nodes:
        if node.blocks:
            full = b"".join(_padded(block, _BLOCK) for block in _data(node)[: node.blocks])
            file.write(full)
            total += node.blocks
    file.seek(1024)
    file.write(_super_block(root, len(nodes), total, hashlib.sha256(identity).digest()[:16]))
    file.seek(total * _BLOCK)


def _super_block(root: _Node, inodes: int, blocks: int, uuid: bytes) -> bytes:
    no_name = bytes(16)
    return _SUPER.pack(
        _MAGIC,
        0,
        _COMPAT_MTIME,
        _BLOCK_BITS,
        0,
        root.slot,
        inodes,
        0,
        0,
        blocks,
        0,
        0,
        uuid,
        no_name,
        _INCOMPAT_CHUNKED,
    )


# ---------------------------------------------------------------------------- reading


def _read_tree(dirfd: int, name: bytes) -> tuple[_Node, list[_Node]]:
    """The root and all inodes in a fixed order: directories first met, names in byte order."""
    fd = open_beneath(dirfd, name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        root = _Node(os.fstat(fd), _xattrs(b"/proc/self/fd/%d" % fd, follow=True), nlink=2)
        nodes, linked = [root], dict[int, _Node]()
        pending = [(b"", root, root)]
        while pending:
            path, node, parent = pending.pop()
            here = open_beneath(fd, path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                below = []
                for entry, st in sorted(scan(here), key=lambda found: found[0]):
                    child = linked.get(st.st_ino)
                    if child is None:
                        child = _read_node(here, entry, st)
                        nodes.append(child)
                    node.names.append((entry, child))
                    if stat.S_ISDIR(st.st_mode):
                        child.nlink = 2
                        node.nlink += 1
                        below.append((path + b"/" + entry if path else entry, child, node))
                    else:
                        child.nlink += 1
                        if st.st_nlink > 1:
                            linked[st.st_ino] = child
            finally:
                os.close(here)
            node.names += [(b".", node), (b"..", parent)]
            node.names.sort(key=lambda found: found[0])
            pending += reversed(below)
        return root, nodes
    finally:
        os.close(fd)


def _read_node(dirfd: int, name: bytes, st: os.stat_result) -> _Node:
    node = _Node(st, _xattrs(b"/proc/self/fd/%d/%b" % (dirfd, name)))
    if stat.S_ISLNK(st.st_mode):
        node.target = os.readlink(name, dir_fd=dirfd)
    elif stat.S_ISREG(st.st_mode):
        node.tail = _HOLE * -(-st.st_size // _CHUNK)
    return node


def _xattrs(path: bytes, *, follow: bool = False) -> bytes:
    """The attributes as they are stored behind an inode."""
    try:
        names = sorted(os.listxattr(path, follow_symlinks=follow))
    except OSError as error:
        if error.errno in NO_XATTR:
            return b""
        raise
    stored = b""
    for name in names:
        for prefix, number in _PREFIXES:
            if name.startswith(prefix):
                value = os.getxattr(path, name, follow_symlinks=follow)
                rest = os.fsencode(name[len(prefix) :])
                stored += _padded(_XATTR.pack(len(rest), number, len(value)) + rest + value, 4)
                break
    return _XATTR_HEAD.pack(0, 0) + stored if stored else b""


def _padded(data: bytes, unit: int) -> bytes:
    return data + bytes(-len(data) % unit)


# ---------------------------------------------------------------------------- writing


def _lay_out(nodes: list[_Node]) -> int:
    """Give each inode its slot and its blocks; returns how many blocks the inodes take."""
    at = _FIRST_SLOT * _SLOT
    for node in nodes:
        head = _INODE.size + len(node.xattrs)
        data = _data_sizes(node)
        tail = len(node.tail)
        if data:
            # What fits behind the inode, in one block, need not have a block of its own.
            tail = data[-1] if head % _BLOCK + data[-1] <= _BLOCK else 0
            node.blocks = len(data) - (1 if tail else 0)
        start = at
        if data and tail and (at + head) % _BLOCK + tail > _BLOCK:
            start = -(-at // _BLOCK) * _BLOCK
        node.slot = start // _SLOT
        at = -(-(start + head + tail) // _SLOT) * _SLOT
    metadata = block = -(-at // _BLOCK)
    for node in nodes:
        node.first_block = block
        block += node.blocks
    return metadata


def _encode(node: _Node) -> bytes:
    st = node.st
    kind = stat.S_IFMT(st.st_mode)
    layout, size, where, tail = _PLAIN, 0, 0, node.tail
    if kind in (stat.S_IFDIR, stat.S_IFLNK):
        data = _data(node)
        size, where = sum(map(len, data)), node.first_block
        tail = data[-1] if len(data) > node.blocks else b""
        layout = _INLINE if tail else _PLAIN
    elif kind == stat.S_IFREG:
        size = st.st_size
        if size:
            layout, where = _CHUNKED, _CHUNK_FORMAT
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        major, minor = os.major(st.st_rdev), os.minor(st.st_rdev)
        where = (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
    count = (len(node.xattrs) - _XATTR_HEAD.size) // 4 + 1 if node.xattrs else 0
    core = _INODE.pack(
        1 | layout << 1,
        count,
        st.st_mode,
        0,
        size,
        where,
        node.slot & 0xFFFFFFFF,
        st.st_uid,
        st.st_gid,
        st.st_mtime_ns // 10**9 & 0xFFFFFFFFFFFFFFFF,
        st.st_mtime_ns % 10**9,
        node.nlink,
    )
    return core + node.xattrs + tail


def _split(node: _Node) -> list[list[tuple[bytes, _Node]]]:
    """A directory's entries by blocks, in order."""
    blocks: list[list[tuple[bytes, _Node]]] = [[]] if node.names else []
    used = 0
    for entry in node.names:
        need = _DIRENT.size + len(entry[0])
        if used + need > _BLOCK:
            blocks.append([])
            used = 0
        blocks[-1].append(entry)
        used += need
    return blocks


def _data_sizes(node: _Node) -> list[int]:
    """How many bytes the blocks of a directory or symlink take, the last perhaps in a tail."""
    if stat.S_ISLNK(node.st.st_mode):
        return [len(node.target)]
    return [sum(_DIRENT.size + len(name) for name, _ in block) for block in _split(node)]


def _data(node: _Node) -> list[bytes]:
    """The blocks of a directory or symlink; all but the last are filled up."""
    if stat.S_ISLNK(node.st.st_mode):
        return [node.target]
    encoded = []
    for block in _split(node):
        at = len(block) * _DIRENT.size
        heads, names = b"", b""
        for name, child in block:
            kind = _TYPES[stat.S_IFMT(child.st.st_mode)]
            heads += _DIRENT.pack(child.slot, at + len(names), kind, 0)
            names += name
        encoded.append(heads + names)
    return [_padded(block, _BLOCK) for block in encoded[:-1]] + encoded[-1:]
