"""`vigie audit`: is everything stored or rejected once, counted once and told?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from processors.locate import Locator
from processors.pipeline import Reference
from schemas.contracts import RAW_TOPICS
from streams import setup
from streams.audit import report
from streams.audit.run import Audit, Scope, mended
from streams.audit.run import audit as look
from streams.cli import options
from streams.cli.errors import Failure, say, settings, told
from streams.intake import limits
from streams.settings import Settings

#: Done, and there is nothing wrong; something is; the command line is; it could not be done.
_NOT_DONE: Final = 3
#: Somebody waits for the answer: what stays away longer is told instead of being waited for.
_PATIENCE_S: Final = 30.0


@click.command()
@click.option("--from", "from_ms", type=options.INSTANT, help="Records the broker received at that instant or later.")
@click.option("--to", "to_ms", type=options.INSTANT, help="Records the broker received before that instant.")
@click.option("--topic", type=click.Choice(sorted(RAW_TOPICS.values())), help="One topic only.")
@click.option("--partition", type=click.IntRange(min=0), help="That partition only, of each topic.")
@click.option("--without-kafka", is_flag=True, help="Ask ClickHouse alone; what only Kafka knows is left out.")
@click.option("--strict-end", is_flag=True, help="Workers have stopped: whatever Kafka has must have been processed.")
@click.option("--repair", is_flag=True, help="Write window rows that differ from the stored events again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit(
    from_ms: int | None,
    to_ms: int | None,
    topic: str | None,
    partition: int | None,
    without_kafka: bool,
    strict_end: bool,
    repair: bool,
    as_json: bool,
) -> None:
    """Compare what Kafka has been given with what is stored, counted and told.

    Every record must be stored as one event or rejected once, every window total must be that of the stored events, and
    every alert must follow from them. Exit codes: 0 no difference, 1 differences, 2 wrong usage, 3 it could not be
    done. An embedded ClickHouse (chdb://) can be audited while no worker has it open.
    """
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise click.UsageError("--from must be before --to")
    scope = Scope(
        from_ms=from_ms,
        to_ms=to_ms,
        topic=topic,
        partition=partition,
        kafka=not without_kafka,
        strict_end=strict_end,
    )
    with _not_done():
        found = _audit(settings(), scope, repair)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2, default=str))
    else:
        report.show(found)
    sys.stdout.flush()
    if found.differences:
        raise click.exceptions.Exit(1)


def _audit(chosen: Settings, scope: Scope, repair: bool) -> Audit:
    patience = {name: min(_PATIENCE_S, getattr(chosen, name)) for name in ("retry_budget_s", "start_timeout_s")}
    patient = chosen.model_copy(update=patience)
    if scope.kafka:
        setup.kafka(patient, say)
    sink = setup.sink(patient, say)
    try:
        if not sink.rows("EXISTS TABLE owners")[0][0]:
            raise setup.SetupError("ClickHouse has no tables of ours: run `vigie init`")
        reference = None
        if patient.territories:
            reference = Reference(Locator(setup.territories(patient, say)), limits(patient))
        found = look(patient, sink, scope, reference)
        return mended(found, patient, sink, reference) if repair else found
    finally:
        sink.close()


@contextmanager
def _not_done() -> Iterator[None]:
    """Tell failures as everywhere, with an exit code that is not taken for differences."""
    try:
        with told():
            yield
    except Failure as failure:
        code = _NOT_DONE if failure.exit_code == 1 else failure.exit_code
        raise Failure(*failure.problems, exit_code=code) from failure.__cause__
