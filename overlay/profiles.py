"""The kernel driver's profiles: every overlayfs option pinned, each with its reason.

An option left to the kernel's default would differ between kernels and
distributions (``CONFIG_OVERLAY_FS_*``, module parameters), and with it what the
mount promises.  Source of the options: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

from overlay.errors import UsageError
from overlay.lighttyping import NamedTuple

__all__ = ["DEFAULT", "PROFILES", "SOURCE_PREFIX", "Profile", "profile_named", "profile_of_source"]

#: The source shown in mountinfo, so that status knows a profile without a registry.
SOURCE_PREFIX = "fallthru:"


class Profile(NamedTuple):
    """A named set of promises.

    ``pinned`` are (key, value, reason); an empty value means a flag.  ``reads_stubs``:
    whether file fallthrus (metacopy stubs) and redirected directories on the top can be
    read, and so may also be written by the kernel.
    """

    name: str
    summary: str
    pinned: tuple[tuple[str, str, str], ...]
    reads_stubs: bool = False

    @property
    def source(self) -> str:
        return SOURCE_PREFIX + self.name


_INDEX = (
    "index",
    "on",
    "the kernel then refuses a top that another overlay uses (EBUSY, L437–L438, L482) or that was "
    "made for other bottoms (ESTALE), and a hard link of the bottom stays one file (L630)",
)
_XINO = (
    "xino",
    "auto",
    "one inode number for a file in stat and readdir, on every layer (L561–L563)",
)
_NFS_EXPORT = ("nfs_export", "off", "an exported union needs an index of directories too (L580)")

_STRICT = (
    _INDEX,
    ("redirect_dir", "nofollow", "rename of a bottom directory is EXDEV (L130 L512)"),
    ("metacopy", "off", "file copyup brings the contents along (L105–L106)"),
    _XINO,
    _NFS_EXPORT,
)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "document",
            "the document's rules: whole-file copyup, directories don't rename (default)",
            _STRICT,
        ),
        Profile(
            "fallthru",
            "reads fallthrus: metadata-only copyup; directories rename (departs from L130)",
            (
                _INDEX,
                ("redirect_dir", "on", "directory fallthrus; metacopy needs it at least followed"),
                ("metacopy", "on", "file fallthrus; chmod and chown copy no data"),
                _XINO,
                _NFS_EXPORT,
            ),
            reads_stubs=True,
        ),
        Profile(
            "throwaway",
            "the document's rules without fsync: the top is lost after a crash",
            (*_STRICT, ("volatile", "", "no fsync in copyup; the top can't be mounted again")),
        ),
    )
}
DEFAULT = "document"


def profile_named(name: str) -> Profile:
    """The profile called ``name``; UsageError naming the ones there are."""
    try:
        return PROFILES[name]
    except KeyError:
        raise UsageError(
            f"no profile is called {name!r}", hint=f"profiles: {', '.join(PROFILES)}"
        ) from None


def profile_of_source(source: str) -> str | None:
    """The profile a mount was made with, from its source in mountinfo; None if not ours."""
    name = source.removeprefix(SOURCE_PREFIX)
    return name if name != source and name in PROFILES else None
