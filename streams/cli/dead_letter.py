"""`vigie dead-letter`: what was refused and why, and what would be accepted now back to where it came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from processors.locate import Locator
from processors.pipeline import Reference
from schemas.contracts import DEAD_LETTER_TOPIC, RAW_TOPICS
from schemas.registry import RegistryAwayError, Writers
from schemas.rejects import Reason
from sinks.clickhouse import Sink, SinkError
from sinks.replays import retried, unsettled_retries
from streams import setup
from streams.broker import BrokerError
from streams.cli import options, patience, printed
from streams.cli.errors import Failure, say, told
from streams.cli.replay import RATE
from streams.cli.under_way import UnderWay, until_stopped
from streams.clock import WallClock, monotonic_s
from streams.intake import Intake, limits
from streams.replay import ReplayError
from streams.replay.hope import Hope
from streams.replay.letters import Letter, Reading, Stats, Wanted, letters, newest
from streams.replay.offsets import Offsets
from streams.replay.retry import Outlook, begin, outlook, retry
from streams.replay.runs import failing
from streams.settings import Settings

_AGAIN: Final = "start the retry again: it finds out what this one has sent"


def _choices(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose dead letters."""
    for option in (
        click.option("--to", "to_ms", type=options.INSTANT, help="Of records the broker received before that instant."),
        click.option("--from", "from_ms", type=options.INSTANT, help="Of records the broker received then or later."),
        click.option(
            "--topic",
            "topics",
            multiple=True,
            type=click.Choice(list(RAW_TOPICS.values())),
            help="From these topics only.",
        ),
        click.option(
            "--reason",
            "reasons",
            multiple=True,
            type=click.Choice([str(one) for one in Reason]),
            help="Of these reasons only.",
        ),
    ):
        command = option(command)
    return command


@click.group(name="dead-letter")
def dead_letter() -> None:
    """Records that were refused: which, why, and again.

    Neither values nor keys are shown, which may hold anything: the position says where they are.
    """


@dead_letter.command()
@_choices
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def stats(as_json: bool, **choices: Any) -> None:
    """Count refused records by why.

    By reason, topic, and how often they were retried; each record once, however often its dead letter came.
    """
    with told():
        chosen, wanted = _begun(choices)
        found, met = Stats(), Reading()
        with UnderWay(DEAD_LETTER_TOPIC) as under_way:
            for letter in letters(chosen, Offsets(chosen), wanted, met, under_way.show):
                found.add(letter)
        if as_json:
            click.echo(json.dumps(_of_stats(found, met), indent=2))
            return
        table = printed.table(("reason", "topic"), ("retried", "records"), ("first", "last"))
        for (reason, topic, retries), group in sorted(found.groups.items()):
            span = printed.moment(group.first_ms), printed.moment(group.last_ms)
            table.add_row(reason, topic, f"{retries}", f"{group.records:,}", *span)
        out = printed.console()
        out.print(table)
        out.print(f"{found.records:,} records refused: {printed.counts(found.by_reason()) or 'none'}")
        _tell_met(met)


@dead_letter.command(name="list")
@_choices
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Most records shown.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_(limit: int, as_json: bool, **choices: Any) -> None:
    """Show refused records, the newest first.

    Each with its position, why it was refused, and how often it was retried.
    """
    with told():
        chosen, wanted = _begun(choices)
        met = Reading()
        with UnderWay(DEAD_LETTER_TOPIC) as under_way:
            shown = newest(letters(chosen, Offsets(chosen), wanted, met, under_way.show), limit)
        if as_json:
            for letter in shown:
                click.echo(json.dumps(_of_letter(letter)))
            return
        table = printed.table(("received", "position", "reason", "stage"), ("retried",), ("message",))
        for letter in shown:
            one = letter.told
            position = f"{one.topic}/{one.partition}/{one.offset}"
            table.add_row(printed.moment(letter.at_ms), position, one.reason, one.stage, f"{one.retries}", one.message)
        printed.console().print(table)
        _tell_met(met)


@dead_letter.command(name="retry")
@_choices
@click.option("--rate", type=RATE, metavar="N/s", help="Most records a second.")
@click.option("--dry-run/--no-dry-run", default=True, show_default=True, help="Say what would be sent, no more.")
def retry_(rate: float | None, dry_run: bool, **choices: Any) -> None:
    """Send refused records again that are good now.

    Those that would be accepted with today's territories and settings are sent, each once. They go to the topic they
    came from, with their key, value and headers, and take the way of every record there. One that is refused again is a
    dead letter again; after two retries it is left alone. What was sent is in ClickHouse (dead_letter_retries, and a
    row for the run in replay_runs), which must be reachable.
    """
    with told():
        chosen, wanted = _begun(choices)
        setup.registry(chosen, say)
        reference = Reference(Locator(setup.territories(chosen, say)), limits(chosen))
        intake = Intake(chosen, reference, Writers(older=chosen.older_schemas, registry_url=chosen.schema_registry_url))
        offsets = Offsets(chosen)
        with patience.clickhouse(chosen) as sink:
            if dry_run:
                for run in unsettled_retries(sink, ""):
                    say(f"retry {run.run_id} was not finished: what it sent last counts here as not sent")
                met, hope = Reading(), _hope(chosen, intake, sink, wanted)
                with UnderWay(DEAD_LETTER_TOPIC) as under_way:
                    found = outlook(hope, letters(chosen, offsets, wanted, met, under_way.show))
                _show(found, "dry run, nothing is sent", "good now")
                _tell_met(met)
            else:
                _retry(chosen, intake, sink, offsets, wanted, rate)


def _retry(chosen: Settings, intake: Intake, sink: Sink, offsets: Offsets, wanted: Wanted, rate: float | None) -> None:
    journal = begin(chosen, sink, offsets, wanted, rate, say)
    run_id, met, began_s = journal.run.run_id, Reading(), monotonic_s()
    say(f"retry {run_id}")
    try:
        with failing(journal):
            # Only now is it known what was sent before.
            hope = _hope(chosen, intake, sink, wanted)
        with until_stopped() as stop, UnderWay(DEAD_LETTER_TOPIC) as under_way:
            done = retry(chosen, sink, offsets, wanted, hope, journal, met, rate, under_way.show, stop)
    except KeyboardInterrupt:
        raise Failure(f"interrupted, and not all that was under way is confirmed; {_AGAIN}") from None
    except (ReplayError, BrokerError, SinkError, RegistryAwayError) as error:
        raise Failure(f"{error}; {_AGAIN}") from None
    _show(done.outlook, f"retry {run_id}, {monotonic_s() - began_s:,.1f} s", "sent")
    _tell_met(met)
    if not done.ended:
        raise Failure("interrupted; what was sent is written down: start the retry again for the rest")


def _begun(choices: dict[str, Any]) -> tuple[Settings, Wanted]:
    wanted = Wanted(**choices)
    if wanted.from_ms is not None and wanted.to_ms is not None and wanted.from_ms >= wanted.to_ms:
        raise click.UsageError("--from must be before --to")
    return patience.kafka(), wanted


def _hope(chosen: Settings, intake: Intake, sink: Sink, wanted: Wanted) -> Hope:
    before = retried(wanted.topics or RAW_TOPICS.values(), sink)
    tries_sink = Reason.SINK in wanted.reasons
    return Hope(intake, sink, WallClock(), before, chunk=chosen.chunk_records, tries_sink=tries_sink)


def _show(found: Outlook, title: str, sent: str) -> None:
    table = printed.table(("refused for",), ("records", sent), ("left out",))
    for reason in found.reasons:
        left: Mapping[str, int] = found.left.get(reason, {})
        count = found.sent[reason] + sum(left.values())
        table.add_row(reason, f"{count:,}", f"{found.sent[reason]:,}", printed.counts(left))
    out = printed.console()
    out.print(title)
    out.print(table)
    out.print(f"{found.sent.total():,} records {sent}, {found.left_out.total():,} left out")


def _tell_met(met: Reading) -> None:
    if met.repeated:
        say(f"{met.repeated:,} dead letters came more than once; each record counts once")
    if met.strange:
        say(f"{met.strange:,} records of {DEAD_LETTER_TOPIC} are no dead letters of vigie, and are passed over")


def _of_stats(found: Stats, met: Reading) -> dict[str, Any]:
    groups = [
        {
            "reason": reason,
            "topic": topic,
            "retried": retries,
            "records": group.records,
            "first": printed.moment(group.first_ms),
            "last": printed.moment(group.last_ms),
        }
        for (reason, topic, retries), group in sorted(found.groups.items())
    ]
    return {"records": found.records, "groups": groups, "repeated": met.repeated, "strange": met.strange}


def _of_letter(letter: Letter) -> dict[str, Any]:
    one = letter.told
    return {
        "received": printed.moment(letter.at_ms),
        "topic": one.topic,
        "partition": one.partition,
        "offset": one.offset,
        "reason": one.reason,
        "stage": one.stage,
        "retried": one.retries,
        "message": one.message,
    }
