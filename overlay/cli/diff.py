"""``fallthru diff``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

import click

from overlay.cli.changelines import COLOURS, LETTERS, plain_lines, record
from overlay.cli.layers import (
    DIRECTORY,
    NamedLayers,
    bottoms_option,
    emit_json,
    json_option,
    named_layers,
    unmounted_top_option,
    userxattr_option,
)
from overlay.errors import EXIT_ANSWER_IS_NO, cannot_read
from overlay.text import human_bytes, printable

if TYPE_CHECKING:
    from overlay.differences.changes import Change, Difference
    from overlay.view import View


@dataclass(slots=True)
class Counts:
    """How many changes of each kind there were, and bytes that came and went."""

    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LETTERS, 0))
    bytes_added: int = 0
    bytes_deleted: int = 0

    def add(self, change: Change) -> None:
        self.kinds[change.kind] += 1
        if change.kind == "deleted":
            self.bytes_deleted += change.gone_bytes
        elif change.kind == "added":
            self.bytes_added += change.size

    def add_all(self, changes: list[Change]) -> None:
        """Add many, in half the time."""
        for kind, count in Counter([change.kind for change in changes]).items():
            self.kinds[kind] += count
        self.bytes_added += sum([each.size for each in changes if each.kind == "added"])
        self.bytes_deleted += sum([each.gone_bytes for each in changes if each.kind == "deleted"])

    def join(self, other: Counts) -> None:
        """Add what was counted elsewhere."""
        for kind, count in other.kinds.items():
            self.kinds[kind] += count
        self.bytes_added += other.bytes_added
        self.bytes_deleted += other.bytes_deleted

    @property
    def total(self) -> int:
        return sum(self.kinds.values())

    def line(self) -> str:
        """The counts as one line of text."""
        if not self.total:
            return "no changes"
        counted = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items() if count)
        sizes = f"+{human_bytes(self.bytes_added)}, -{human_bytes(self.bytes_deleted)}"
        return f"{counted} ({sizes})"


@click.command(short_help="Show what the top changes of its bottoms.")
@json_option
@click.option("--stat", "only_counts", is_flag=True, help="The same as --format summary.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["summary", "tree", "lines", "jsonl", "unified", "mtree"]),
    help="How to print it.  [default: a tree on a terminal, else lines]",
)
@click.option("--checksum", is_flag=True, help="Compare content even where size and time agree.")
@click.option(
    "--against",
    type=DIRECTORY,
    metavar="TOP",
    help="Compare with what another top shows over the same bottoms.",
)
@unmounted_top_option
@bottoms_option
@userxattr_option
@click.argument("mount_point", metavar="[MOUNTPOINT]", type=DIRECTORY, required=False)
@click.pass_context
def diff(
    context: click.Context,
    mount_point: str | None,
    top: str | None,
    bottoms: tuple[str, ...],
    userxattr: bool,
    checksum: bool,
    against: str | None,
    only_counts: bool,
    form: str | None,
    as_json: bool,
) -> None:
    """Show what was added (A), changed (C), deleted (D) and replaced (R) on the top.

    The layers are those of the overlay at MOUNTPOINT, or --top and --bottom. Exits with 0
    if there are no differences and 1 if there are. On a terminal this prints a tree;
    elsewhere one line a change with tabs between: letter, type, size, what changed, path.
    A diff can be had as one JSON array (--json) or an object a line (jsonl), for patch(1)
    (unified), or as the new state of what changed (mtree).

    \b
    Examples:
      fallthru diff /mnt
      fallthru diff --stat /mnt
      fallthru diff --top /srv/top --bottom /usr
      fallthru diff --format unified /mnt | less
      fallthru diff --top /srv/today --against /srv/yesterday --bottom /usr
      fallthru diff --json /mnt | jq -r '.[] | select(.kind == "added").path'
    """
    trees = named_layers("diff", mount_point, top, bottoms, userxattr=userxattr)
    if as_json and form not in (None, "summary"):
        raise click.UsageError("--json is a format of its own: leave out --format")
    form = "summary" if only_counts else form
    counts = Counts()
    with _view(trees, against) as view:
        if form in ("unified", "mtree"):
            _show_content(view, form, checksum, counts)
        elif form == "summary":
            _count(view, checksum, counts)
            _show_counts(counts, as_json)
        elif as_json:
            _show_json(_counted(_changes(view, checksum), counts))
        elif form == "tree" or (form is None and sys.stdout.isatty()):
            _show_tree(_counted(_changes(view, checksum), counts))
            click.echo(counts.line())
        else:
            _show_lines(view, form == "jsonl", checksum, counts)
    if counts.total:
        context.exit(EXIT_ANSWER_IS_NO)


@contextmanager
def _view(trees: NamedLayers, against: str | None) -> Iterator[View]:
    from overlay.layer import Layer
    from overlay.marks import MarkFamily
    from overlay.view import TwoTops, View

    with ExitStack() as stack:

        def opened(path: str) -> Layer:
            return stack.enter_context(Layer.open(path, private=True))

        layers = [opened(trees.top)]
        if against is not None:
            layers.append(opened(against))
        layers += [opened(path) for path in trees.bottoms]
        data = [opened(path) for path in trees.data_bottoms]
        kind = View if against is None else TwoTops
        try:
            yield kind(layers, MarkFamily(trees.family), data)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise cannot_read(error) from error


def _changes(view: View, checksum: bool) -> Iterator[Change]:
    from overlay.differences.changes import chosen

    def plain(found: list[Difference]) -> list[Change]:
        return [each.change for each in found]

    for changes in chosen(view, plain, checksum=checksum):
        yield from changes


def _count(view: View, checksum: bool, counts: Counts) -> None:
    from overlay.differences.changes import chosen

    def counted(found: list[Difference]) -> Counts:
        part = Counts()
        part.add_all([each.change for each in found])
        return part

    for part in chosen(view, counted, checksum=checksum):
        counts.join(part)


def _show_lines(view: View, as_json: bool, checksum: bool, counts: Counts) -> None:
    """One line a change, made by the processes that find them."""
    from overlay.differences.changes import chosen

    def rendered(found: list[Difference]) -> tuple[str, Counts]:
        changes = [each.change for each in found]
        part = Counts()
        part.add_all(changes)
        if not as_json:
            return plain_lines(changes), part
        return "".join(json.dumps(record(each)) + "\n" for each in changes), part

    for text, part in chosen(view, rendered, checksum=checksum):
        counts.join(part)
        click.echo(text, nl=False)


def _show_content(view: View, form: str, checksum: bool, counts: Counts) -> None:
    """Formats that look into what changed."""
    from overlay.differences import difftext, mtree
    from overlay.differences.changes import chosen

    def rendered(found: list[Difference]) -> tuple[bytes, Counts]:
        part = Counts()
        pieces = []
        for each in found:
            part.add(each.change)
            if form == "mtree":
                pieces.append(mtree.line(view, each).encode())
            else:
                pieces.append(difftext.unified(view, each))
        return b"".join(pieces), part

    if form == "mtree":
        click.echo(mtree.HEADER, nl=False)
    for text, part in chosen(view, rendered, checksum=checksum):
        counts.join(part)
        click.echo(text, nl=False)


def _counted(changes: Iterable[Change], counts: Counts) -> Iterator[Change]:
    for change in changes:
        counts.add(change)
        yield change


def _show_counts(counts: Counts, as_json: bool) -> None:
    if not as_json:
        click.echo(counts.line())
        return
    emit_json(
        {
            **counts.kinds,
            "bytes_added": counts.bytes_added,
            "bytes_deleted": counts.bytes_deleted,
        }
    )


def _show_json(changes: Iterable[Change]) -> None:
    """One array, written as it is found: a million changes take no memory."""
    separator = "["
    for change in changes:
        click.echo(separator + "\n  " + json.dumps(record(change)), nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


def _show_tree(changes: Iterable[Change]) -> None:
    """The changes below their directories, printed as they are found."""
    shown: list[bytes] = []
    for change in changes:
        *above, name = change.path.split(b"/")
        same = takewhile(lambda pair: pair[0] == pair[1], zip(shown, above, strict=False))
        common = sum(1 for _ in same)
        for depth in range(common, len(above)):
            click.echo("  " * depth + "  " + click.style(printable(above[depth]) + "/", dim=True))
        letter = LETTERS[change.kind]
        ftype = change.old_ftype if letter == "D" else change.ftype
        text = printable(name) + ("/" if ftype == "directory" else "")
        shown = [*above, name]
        click.echo(
            click.style(letter, fg=COLOURS[letter])
            + " "
            + "  " * len(above)
            + click.style(text, fg=COLOURS[letter])
            + click.style(_remarks(change), dim=True)
        )


def _remarks(change: Change) -> str:
    """What a person wants to know beside the name."""
    notes = []
    if change.ftype == "file" and change.kind != "changed":
        notes.append(human_bytes(change.size))
    if change.kind == "changed":
        notes.append(", ".join(sorted(change.what)))
        if change.size != change.old_size:
            notes.append(f"{human_bytes(change.old_size)} → {human_bytes(change.size)}")
    if change.kind == "replaced" and change.ftype != change.old_ftype:
        notes.append(f"was a {change.old_ftype}")
    if change.gone > 1:
        notes.append(f"{change.gone} entries, {human_bytes(change.gone_bytes)} gone")
    elif change.kind == "deleted" and change.old_ftype == "file":
        notes.append(human_bytes(change.old_size))
    if change.moved_from is not None:
        notes.append(f"from {printable(change.moved_from)}")
    if change.metadata_only:
        notes.append("data still on the bottom")
    return "  " + "; ".join(notes) if notes else ""
