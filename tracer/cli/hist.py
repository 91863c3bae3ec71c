"""``fallthru trace hist``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from overlay.cli.layers import emit_json
from tracer.cli.options import selection_options
from tracer.cli.reading import finish, open_traces, traces_argument

if TYPE_CHECKING:
    import pyarrow as pa

    from tracer.histogram import Histogram
    from tracer.reading import Reading

__all__ = ["hist"]

_TIMES = ("dur", "create", "data", "sync", "meta", "link")
_SIZES = ("size", "bytes")
_BAR = 40


@click.command()
@traces_argument
@selection_options
@click.option(
    "--of",
    "what",
    type=click.Choice([*_TIMES, *_SIZES]),
    default="dur",
    show_default=True,
    help="What is counted: a time, or a size.",
)
@click.option("--by", metavar="COLUMN", help="A histogram for each value: op, how, comm, mount, …")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="With --by: the N values with the greatest sum.",
)
@click.option(
    "--kept",
    is_flag=True,
    help="What the kernel counted of operations without rows: lookups, readdirs, opens, …",
)
@click.option(
    "--fine",
    type=click.Choice(["1", "2", "4", "8", "16"]),
    default="1",
    show_default=True,
    help="Bars to a power of two.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
@click.pass_context
def hist(
    context: click.Context,
    /,
    traces: tuple[str, ...],
    what: str,
    by: str | None,
    top: int,
    kept: bool,
    fine: str,
    as_json: bool,
    **filters: Any,
) -> None:
    """Show how times or sizes of spans are distributed.

    Bars are between powers of two, or parts of them.  Spans for which the tracer could
    not tell the time are left out, and counted.

    \b
    Examples:
      fallthru trace hist /tmp/t
      fallthru trace hist /tmp/t --of sync --by mount --fine 4
      fallthru trace hist /tmp/t --of bytes --how copy --by comm --top 3
      fallthru trace hist /tmp/t --kept --kind lookup
      fallthru trace hist /tmp/t --json | jq '.histograms[0].p99'
    """
    reading = open_traces(traces, filters)
    table = reading.table
    if by is not None and by not in table.column_names:
        raise click.UsageError(
            f"a trace has no column {by}; its columns are: {', '.join(table.column_names)}"
        )
    if kept:
        groups, unknown, what = _kept(reading, filters), 0, "dur"
    else:
        groups, unknown = _histograms(table, what, by, top)
    if as_json:
        made = [_as_data(name, one, int(fine)) for name, one in groups.items()]
        emit_json({"of": what, "by": by, "unknown": unknown, "histograms": made})
    else:
        for name, one in groups.items():
            _print(name, one, int(fine), what)
        if unknown:
            click.echo(f"{unknown:,} spans without: the tracer could not tell", err=True)
    finish(context, reading)


def _histograms(
    table: pa.Table, what: str, by: str | None, top: int
) -> tuple[dict[str, Histogram], int]:
    """By value, the greatest sum first; and how many spans have no such figure."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from tracer.histogram import Histogram

    column = table.column(what).cast(pa.int64())
    known = pc.is_valid(column)
    values = column.filter(known).to_numpy()
    groups: dict[str, Histogram] = {}
    if by is None:
        groups[""] = Histogram()
        groups[""].add(values)
    else:
        key = table.column(by).filter(known)
        texts = pc.fill_null(key.cast(pa.string()), "unknown").combine_chunks().dictionary_encode()
        codes = texts.indices.to_numpy()
        for code, text in enumerate(texts.dictionary.to_pylist()):
            groups[text] = Histogram()
            groups[text].add(values[codes == code])
    best = sorted(groups.items(), key=lambda item: (-item[1].sum, item[0]))[:top]
    return dict(best), len(column) - len(values)


def _kept(reading: Reading, filters: dict[str, Any]) -> dict[str, Histogram]:
    """Those in the metadata, by kind, outcome, and number of layers that were asked."""
    from tracer.histogram import Histogram

    groups: dict[str, Histogram] = {}
    for run in reading.runs:
        for one in run.metadata.latencies:
            if filters["kinds"] and one["kind"] not in filters["kinds"]:
                continue
            if filters["mounts"] and one["mount"] not in filters["mounts"]:
                continue
            layers = f" ({one['layers']} layers)" if one["layers"] else ""
            name = " ".join(filter(None, (one["kind"], one["outcome"]))) + layers
            buckets = {int(index): count for index, count in one["buckets"].items()}
            groups.setdefault(name, Histogram()).merge(Histogram.counted(buckets, one["sum_ns"]))
    return dict(sorted(groups.items()))


def _as_data(name: str, one: Histogram, fine: int) -> dict[str, Any]:
    return {
        "value": name or None,
        "count": one.total,
        "sum": one.sum,
        "min": one.least,
        "max": one.greatest,
        **{f"p{share}": one.quantile(share / 100) for share in (50, 90, 99)},
        "buckets": [[bucket.low, bucket.high, bucket.count] for bucket in one.buckets(fine)],
    }


def _print(name: str, one: Histogram, fine: int, what: str) -> None:
    from tracer.figures import amount, bar

    show = amount(what in _TIMES)
    title = f"{name}: " if name else ""
    click.echo(f"\n{title}{one.total:,} spans, {what} {show(one.sum)} in all")
    if not one.total:
        return
    marks = ", ".join(f"p{share} {show(one.quantile(share / 100))}" for share in (50, 90, 99))
    click.echo(f"  least {show(one.least)}, {marks}, greatest {show(one.greatest)}")
    buckets = list(one.buckets(fine))
    most = max(bucket.count for bucket in buckets)
    empty = 0
    for bucket, following in zip(buckets, [*buckets[1:], None], strict=True):
        empty = empty + 1 if not bucket.count else 0
        if empty > 1 and following and not following.count:
            continue  # of a long gap its ends are enough
        low, high = show(bucket.low) if empty < 2 else "…", show(bucket.high)
        line = f"  {low:>9} – {high:<9} {bucket.count:>9,} {bar(bucket.count / most, _BAR)}"
        click.echo(line.rstrip())
