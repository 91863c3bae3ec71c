"""``fallthru trace``: record copyups, watch them, show them, turn them into other forms."""

from __future__ import annotations

import click

from overlay.cli.lazy import LazyGroup

__all__ = ["SUBCOMMANDS", "trace"]

SUBCOMMANDS = {
    "record": ("Record copyups until a command ends, or for as long as told.", "record:record"),
    "top": ("Watch who copies up what, live.", "top:top"),
    "show": ("Print the spans of traces.", "show:show"),
    "hist": ("Show how times or sizes are distributed.", "hist:hist"),
    "merge": ("Make one trace of several.", "merge:merge"),
    "export": ("Turn a trace into other tools' formats.", "export:export"),
    "doctor": ("Tell whether tracing works on this machine.", "doctor:doctor"),
}


@click.group(
    cls=LazyGroup,
    table={name: (line, f"tracer.cli.{place}") for name, (line, place) in SUBCOMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
    short_help="Record and show what copyup costs.",
)
def trace() -> None:
    """Record copyups in the kernel, with process, path, bytes and time by phase.

    \b
    fallthru trace record -o /tmp/t -- chmod -R g+w /mnt/doc
    fallthru trace show /tmp/t
    fallthru trace top
    """
