"""``fallthru manpages``: the manual, made from the commands and the tables of this program."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator

import click

from overlay.cli.layers import DIRECTORY
from overlay.cli.roff import Page

__all__ = ["manpages", "pages"]

_EXIT_CODES = (
    ("0", "it worked"),
    ("1", "it worked, and the answer is no: differences, failed clauses, damage"),
    ("2", "the request is wrong"),
    ("3", "the machine lacks something: a privilege, a kernel feature, a package"),
    ("4", "refused to protect data"),
    ("5", "an operation failed"),
)


@click.command(short_help="Write the manual pages.")
@click.option(
    "-o", "directory", type=DIRECTORY, required=True, metavar="DIR", help="Where man1, man5, … go."
)
def manpages(directory: str) -> None:
    """Write fallthru(1), mount.fallthru(8) and fallthru-layer(5) below DIR.

    They are made from the commands themselves, so that they are those of this version.

    \b
    Examples:
      fallthru manpages -o /usr/local/share/man
      fallthru manpages -o /tmp/man && man -M /tmp/man fallthru
    """
    for (name, section), text in pages().items():
        place = os.path.join(directory, f"man{section}")
        os.makedirs(place, exist_ok=True)
        path = os.path.join(place, f"{name}.{section}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        click.echo(path)


def pages() -> dict[tuple[str, int], str]:
    """Every page, by its name and section."""
    return {
        ("fallthru", 1): _commands(),
        ("mount.fallthru", 8): _mount_helper(),
        ("fallthru-layer", 5): _layer(),
    }


# ------------------------------------------------------------------------------ fallthru(1)


def _commands() -> str:
    from overlay.cli.group import command

    page = Page("fallthru", 1, "writable overlays: one writable top over read-only bottoms")
    page.section("Synopsis")
    page.verbatim("fallthru COMMAND [OPTION]... [ARGUMENT]...")
    page.section("Description")
    _prose(page, command.help or "")
    page.section("Commands")
    for path, found, context in _walk(command, ("fallthru",)):
        page.subsection(" ".join(path[1:]))
        page.verbatim(f"{' '.join(path)} {' '.join(found.collect_usage_pieces(context))}")
        _prose(page, found.help or "")
        options = [each for each in found.params if isinstance(each, click.Option)]
        records = [option.get_help_record(context) for option in options]
        page.terms(record for record in records if record is not None)
    page.section("Exit status")
    page.terms(_EXIT_CODES)
    page.section("See also")
    page.paragraph("mount.fallthru(8), fallthru-layer(5), mount(8)")
    return str(page)


def _walk(
    group: click.Group, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command, click.Context]]:
    """Every command that does something, with its words; groups only lead to others."""
    context = click.Context(group, info_name=path[-1])
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from _walk(found, (*path, name))
        elif found is not None:
            yield (*path, name), found, click.Context(found, context, info_name=name)


def _prose(page: Page, text: str) -> None:
    """A command's help: paragraphs, and what click leaves as it is (after ``\\b``)."""
    for block in inspect.cleandoc(text).split("\n\n"):
        if block.startswith("\b"):
            page.verbatim(block.removeprefix("\b").strip("\n"))
        else:
            page.paragraph(block)


# ------------------------------------------------------------------------ mount.fallthru(8)


def _mount_helper() -> str:
    from overlay.mountoptions import MEANINGS
    from overlay.profiles import PROFILES

    page = Page("mount.fallthru", 8, "mount writable overlays from mount(8), fstab and systemd")
    page.section("Synopsis")
    page.verbatim(
        "mount -t fallthru -o bottom=DIR,top=DIR[,OPTION]... none MOUNTPOINT\n"
        "mount -t fallthru -o union TOP MOUNTPOINT\n"
        "mount.fallthru SPEC DIR [-fnrsvw] [-N NAMESPACE] [-o OPTIONS]"
    )
    page.section("Description")
    page.paragraph(
        "mount(8) runs this helper, which `fallthru install-helper` puts in /sbin, for the file "
        "system type fallthru. It checks what `fallthru mount` checks, and mounts with the "
        "kernel's overlayfs. What is mounted there already, of the same layers by the same "
        "profile, is left as it is. umount(8) needs no helper."
    )
    page.section("Options")
    page.terms(MEANINGS.items())
    page.paragraph("The kernel's own options for overlayfs are passed on, over the profile's.")
    page.section("Profiles")
    page.terms((profile.name, profile.summary) for profile in PROFILES.values())
    page.section("Exit status")
    page.terms(
        (
            ("0", "mounted, now or before"),
            ("1", "a wrong invocation, or no privilege"),
            ("8", "interrupted"),
            ("32", "the mount failed"),
        )
    )
    page.section("Example")
    page.verbatim(
        "# /etc/fstab\nnone /srv/www fallthru bottom=/usr/share/www,top=/var/lib/www.top 0 0\n"
        "# the same in two steps, of a bottom on a device\n"
        "/dev/sdb1 /srv/www ext4 ro 0 0\n"
        "/var/lib/www.top /srv/www fallthru union 0 0"
    )
    page.section("See also")
    page.paragraph("fallthru(1), fallthru-layer(5), mount(8), fstab(5), systemd.mount(5)")
    return str(page)


# ------------------------------------------------------------------------ fallthru-layer(5)

_FORMS = (
    ("whiteout", "a character device 0/0: the name is deleted, whatever the bottoms have"),
    (
        "whiteout, second form",
        "an empty file with *.overlay.whiteout, in a directory with *.overlay.opaque=x: the same, "
        "for file systems and archives without device nodes",
    ),
    (
        "opaque",
        "a directory with *.overlay.opaque=y: nothing of the bottoms shows in it",
    ),
    (
        "fallthru, regular file",
        "a sparse file of the right size and attributes, with an empty *.overlay.metacopy and an "
        "absolute *.overlay.redirect: its data is read from the bottom",
    ),
    (
        "fallthru, directory",
        "a directory with an absolute *.overlay.redirect: it merges with that directory of the "
        "bottoms",
    ),
    (
        "fallthru, anything else",
        "the thing itself: a symlink, device, fifo or socket has no data to leave behind",
    ),
)


def _layer() -> str:
    from overlay.marks import MARKS

    page = Page("fallthru-layer", 5, "how the top of an overlay remembers")
    page.section("Description")
    page.paragraph(
        "A top is an ordinary directory tree. Marks in it say how it relates to the bottoms below "
        "it. The format is the one of the kernel's overlayfs: what fallthru writes a mount reads, "
        "and the other way round."
    )
    page.paragraph(
        "In the names below * is trusted for root, and user for overlays that were mounted in a "
        "user namespace (userxattr). A mount reads one family only."
    )
    page.section("Marks")
    page.terms(_FORMS)
    page.section("Attributes")
    page.paragraph("Recognised, and hidden in the union: " + ", ".join(sorted(MARKS)) + ".")
    page.section("Files")
    page.terms(
        (
            (
                "TOP.work",
                "the work directory: what the kernel makes aside, and its index of hard links. It "
                "belongs to its top for good.",
            ),
            ("/run/fallthru", "what is remembered until the next boot"),
            ("/var/lib/fallthru/roots", "roots by name, and their tops"),
        )
    )
    page.section("See also")
    page.paragraph("fallthru(1), mount.fallthru(8), xattr(7)")
    return str(page)
