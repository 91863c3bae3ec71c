"""``fallthru trace record``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from overlay.cli.quantities import duration, size
from tracer.cli.options import make_session, noun_of, recording_options

if TYPE_CHECKING:
    from tracer.recorder import Outcome

__all__ = ["record"]


@click.command()
@click.option("-o", "--output", metavar="DIR", help="Directory for the trace; new, or empty.")
@recording_options
@click.option("-a", "--all", "everyone", is_flag=True, help="With CMD: trace others, too.")
@click.option("--for", "lasting", type=duration, metavar="T", help="End after this time: 10s, 1h.")
@click.option(
    "--until-spans", type=click.IntRange(min=1), metavar="N", help="End with the Nth span."
)
@click.option("--max-size", type=size, metavar="S", help="End once the trace has this size: 1G.")
@click.option("--rotate-size", type=size, metavar="S", help="Begin a new part at this size.")
@click.option("--rotate-every", type=duration, metavar="T", help="Begin a new part then: 1h.")
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Keep the newest N parts.")
@click.option(
    "--listen",
    metavar="[ADDR:]PORT",
    help="Serve metrics for Prometheus; on this machine only, unless ADDR says otherwise.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
@click.pass_context
def record(
    context: click.Context,
    /,
    output: str | None,
    everyone: bool,
    lasting: int | None,
    until_spans: int | None,
    max_size: int | None,
    rotate_size: int | None,
    rotate_every: int | None,
    keep: int | None,
    listen: str | None,
    command: tuple[str, ...],
    **filters: Any,
) -> None:
    """Record copyups until CMD ends, or until Ctrl-C without one.

    With CMD, its process tree is traced unless --all, --pid or --cgroup says
    otherwise, and the exit code is CMD's own (128 + N when signal N ended it).
    fallthru's own errors come before CMD starts, or are told on standard error.
    A limit (--for, --until-spans, --max-size) ends the recording, not CMD.

    With tracepoints, each of the 11 to 20 events of a copyup costs 120 to 740 ns: 1.1 to
    1.2 times the time where copyup of 4 KiB files on tmpfs is the whole work.  Any other system
    call, of any process, costs 0 ns; 280 ns where a union has metacopy, where its top is not
    on tmpfs, ext4, f2fs, xfs or btrfs, and before Linux 6.13.  The other backends cost
    next to nothing outside of unions.

    \b
    Examples:
      fallthru trace record -o /tmp/t -- sed -i s/a/b/ /mnt/etc/*.conf
      fallthru trace record -o /tmp/t --mount /mnt --for 30s
      fallthru trace record -o /tmp/t --pid $(pgrep -o nginx) --min-duration 1ms
      fallthru trace record -o /tmp/t --container web --for 1h
      fallthru trace record -o /var/log/copyups --rotate-every 1h --keep 24
      fallthru trace record --listen 9435
    """
    from tracer.footprint import keep_nothing, stay_small
    from tracer.recorder import Limits
    from tracer.recorder import record as run
    from tracer.service import notify
    from tracer.tracefile import Rotation

    if output is None and listen is None:
        raise click.UsageError("say where to: -o DIR, --listen PORT, or both")
    stay_small()
    rotation = Rotation(
        rotate_size,
        rotate_every / 1e9 if rotate_every else None,
        None if rotate_size or rotate_every else Rotation.rows,
        keep,
    )
    with ExitStack() as stack:
        watchers, told = [], []
        if listen is not None:
            from tracer.listen import Endpoint, parse_address
            from tracer.metrics import CONTENT_TYPE, Metrics

            metrics = Metrics()
            endpoint = Endpoint(parse_address(listen), metrics.render, CONTENT_TYPE)
            stack.enter_context(endpoint)
            watchers.append(metrics.watch)
            told.append(f"fallthru: metrics at {endpoint.url}")
        if not command:
            told.append("fallthru: tracing; Ctrl-C ends it")

        def started() -> None:
            keep_nothing()
            for line in told:
                click.echo(line, err=True)
            notify("READY=1")

        outcome = run(
            output,
            session=lambda watched: make_session(filters, watched, command),
            command=command,
            everyone=everyone,
            rotation=rotation,
            limits=Limits(lasting / 1e9 if lasting else None, until_spans, max_size),
            watchers=watchers,
            started=started,
        )
        notify("STOPPING=1")
    _tell(outcome, output, noun_of(filters))
    if outcome.failure is not None:
        raise outcome.failure
    context.exit(outcome.status)


def _tell(outcome: Outcome, output: str | None, noun: str) -> None:
    from overlay.text import printable

    metadata = outcome.metadata
    where = f" in {printable(output)}" if output is not None else " seen"
    click.echo(f"fallthru: {metadata.spans - outcome.unsaved} spans{where}", err=True)
    if outcome.unsaved:
        click.echo(f"  {outcome.unsaved} more were seen and could not be stored", err=True)
    if metadata.lost:
        click.echo(f"  {metadata.lost} records were lost: the trace is incomplete", err=True)
    if metadata.unmatched:
        click.echo(f"  {metadata.unmatched} copyups were begun but not seen to end", err=True)
