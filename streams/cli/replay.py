"""`vigie replay`: a topic, or a part of it, into another topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click

from sinks.clickhouse import SinkError
from streams.broker import BrokerError
from streams.cli import options, patience, printed
from streams.cli.errors import Failure, say, told
from streams.cli.under_way import UnderWay, until_stopped
from streams.clock import WallClock, monotonic_s
from streams.ledger import Place
from streams.replay import ReplayError
from streams.replay.forward import Preview, expired, preview
from streams.replay.journal import Cut
from streams.replay.offsets import Offsets, Span, check_target, spans
from streams.replay.runs import Begun, Pacing, begin, carry_out, command, found, job_of, pacing_of, resume
from streams.replay.selection import Selection
from streams.settings import Settings


class _Speed(click.ParamType):
    """How many times as fast as the records came; 0 for as fast as can be."""

    name = "1x|10x|max"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if value == "max":
            return 0.0
        try:
            factor = float(value.removesuffix("x"))
        except ValueError:
            factor = 0.0
        if not 0 < factor < float("inf"):
            self.fail(f"{value!r} is no speed: one like 1x or 10x is expected, or max", param, ctx)
        return factor


class _Rate(click.ParamType):
    """Records a second."""

    name = "N/s"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            rate = float(value.removesuffix("/s"))
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf"):
            self.fail(f"{value!r} is no rate: records a second above zero are expected, like 500 or 500/s", param, ctx)
        return rate


RATE: Final = _Rate()


@click.command()
@click.option("--topic", help="Topic to read.")
@click.option("--from", "from_ms", type=options.INSTANT, help="Records the broker received at that instant or later.")
@click.option("--to", "to_ms", type=options.INSTANT, help="Records the broker received before that instant.")
@click.option("--partition", "partitions", type=click.IntRange(min=0), multiple=True, help="These partitions only.")
@click.option("--key", "keys", multiple=True, help="Records of these keys only, like 213400017|lamp-00001.")
@click.option("--jurisdiction", "jurisdictions", multiple=True, metavar="SIREN", help="Of these authorities only.")
@click.option("--to-topic", "target", help="Topic to send to: one of VIGIE_REPLAY_TOPICS.")
@click.option("--rate", type=RATE, metavar="N/s", help="Most records a second.")
@click.option(
    "--speed",
    type=_Speed(),
    metavar="1x|10x|max",
    help="With the original spacing (1x), 10 times as fast (10x), or max: the default.",
)
@click.option("--dry-run/--no-dry-run", default=True, show_default=True, help="Say what would be sent, no more.")
@click.option("--resume", "run_id", metavar="RUN", help="Go on with a run that was cut short.")
def replay(
    topic: str | None,
    from_ms: int | None,
    to_ms: int | None,
    partitions: tuple[int, ...],
    keys: tuple[str, ...],
    jurisdictions: tuple[str, ...],
    target: str | None,
    rate: float | None,
    speed: float | None,
    dry_run: bool,
    run_id: str | None,
) -> None:
    """Send a topic, or a part of it, to another topic.

    The same records in the same order, up to the last one there is when the run begins.

    Records keep key, value, headers, time and the number of their partition; two headers say which run sent them and
    where they come from. The consumer group of the workers is not touched. A run that is cut short, by Ctrl-C, SIGKILL
    or a broker that stays away, is gone on with by --resume: nothing is missing then, and nothing there twice. Each run
    that sends has a row in ClickHouse (replay_runs), which must be reachable.
    """
    selection = Selection(topic or "", from_ms, to_ms, partitions, keys, jurisdictions)
    _check_usage(selection, target, dry_run, run_id)
    with told():
        chosen = patience.kafka()
        offsets = Offsets(chosen)
        if run_id is not None:
            _resume(chosen, offsets, run_id, Pacing(speed, rate), dry_run)
        elif dry_run:
            if target is not None:
                _check_target(chosen, offsets, selection.topic, target)
            look = _looked_at(chosen, offsets, selection, spans(offsets, selection), target)
            _show(look, f"{selection.topic}{f' into {target}' if target else ''}: dry run, nothing is sent", target)
        else:
            assert target is not None
            _check_target(chosen, offsets, selection.topic, target)
            with patience.clickhouse(chosen) as sink:
                pacing = Pacing(speed or None, rate)
                found_spans = spans(offsets, selection)
                _send(chosen, offsets, begin(chosen, sink, offsets, selection, target, found_spans, pacing), pacing)


def _check_usage(selection: Selection, target: str | None, dry_run: bool, run_id: str | None) -> None:
    if run_id is not None:
        if target is not None or selection != Selection(""):
            raise click.UsageError("--resume goes on with what the run was to send: leave the other choices out")
        return
    if not selection.topic:
        raise click.UsageError("--topic is missing: which topic is to be read?")
    if target is None and not dry_run:
        raise click.UsageError("--to-topic is missing: which topic is to be written to?")
    if selection.from_ms is not None and selection.to_ms is not None and selection.from_ms >= selection.to_ms:
        raise click.UsageError("--from must be before --to")


def _check_target(chosen: Settings, offsets: Offsets, source: str, target: str) -> None:
    try:
        notes = check_target(offsets, source, target, chosen.replay_topics)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    for note in notes:
        say(note)


def _resume(chosen: Settings, offsets: Offsets, run_id: str, asked: Pacing, dry_run: bool) -> None:
    with patience.clickhouse(chosen) as sink:
        run = found(run_id, sink)
        job = job_of(run)
        _check_target(chosen, offsets, job.selection.topic, job.target)
        if dry_run:
            start = Cut.of_run(run)
            left = {place: Span(start.next[place], span.end) for place, span in job.spans.items()}
            title = f"run {run_id} ({run.state}): {job.selection.topic} into {job.target}, {run.sent:,} sent"
            look = _looked_at(chosen, offsets, job.selection, left, job.target)
            _show(look, f"{title}; behind what its row tells of", job.target)
            return
        pacing = pacing_of(run, asked.speed, asked.rate)
        _send(chosen, offsets, resume(chosen, sink, offsets, run, say), pacing)


def _send(chosen: Settings, offsets: Offsets, begun: Begun, pacing: Pacing) -> None:
    job, again = begun.job, command(begun.job.run_id)
    say(f"run {job.run_id}: {job.selection.topic} into {job.target}")
    began_s = monotonic_s()
    try:
        with until_stopped() as stop, UnderWay(f"{job.selection.topic} into {job.target}") as under_way:
            ended = carry_out(chosen, offsets, begun, pacing, under_way.show, stop)
    except KeyboardInterrupt:
        raise Failure(f"interrupted, and not all that was under way is confirmed; go on with `{again}`") from None
    except (ReplayError, BrokerError, SinkError) as error:
        raise Failure(f"{error}; go on with `{again}`") from None
    run, seconds = begun.journal.run, monotonic_s() - began_s
    if not ended:
        raise Failure(f"interrupted; {run.sent:,} records are sent; go on with `{again}`")
    rate = (run.sent - begun.start.sent - begun.found) / max(seconds, 0.001)
    click.echo(f"read {run.read:,} records, sent {run.sent:,}{_left_out(run.left_out)}")
    click.echo(f"{seconds:,.1f} s, {rate:,.0f} records/s; run {job.run_id}")


def _looked_at(
    chosen: Settings, offsets: Offsets, selection: Selection, wanted: Mapping[Place, Span], target: str | None
) -> Preview:
    expired_ms = {} if target is None else {"expired_ms": offsets.expired_ms(target, WallClock().now_ms())}
    with UnderWay(selection.topic) as under_way:
        return preview(chosen, selection, wanted, under_way.show, **expired_ms)


def _show(found: Preview, title: str, target: str | None) -> None:
    table = printed.table(("partition",), ("records", "first", "last"), ("from", "to"))
    for place, part in sorted(found.parts.items()):
        row = [str(place.partition), f"{part.records:,}"]
        if part.records:
            row += [f"{part.first_offset:,}", f"{part.last_offset:,}"]
            row += [printed.moment(part.first_ms), printed.moment(part.last_ms)]
        table.add_row(*row)
    out = printed.console()
    out.print(title)
    out.print(table)
    size = sum(part.size_bytes for part in found.parts.values()) / 1_048_576
    out.print(f"{found.records:,} records would be sent, {size:,.1f} MiB{_left_out(found.left_out)}")
    if found.expired:
        say(f"{found.expired:,} of them are too old: {expired(target or '')}")


def _left_out(counts: Mapping[str, int]) -> str:
    return f"; left out: {printed.counts(counts)}" if counts else ""
