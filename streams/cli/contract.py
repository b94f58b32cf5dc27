"""`vigie contract`: what integrators may send, and whether what they have is that."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import click
from rich.console import Console

from processors.locate import Locator
from schemas.contracts import RAW_TOPICS, Contract
from schemas.registry import Writers
from schemas.writers import Writer, own_writers
from streams import setup
from streams.cli import options
from streams.cli.contract_shown import Progress, listed, problem_line, shown, summary
from streams.cli.errors import Failure, say, settings, told
from streams.clock import WallClock
from streams.contract_files import catalogue, pages, samples, source
from streams.contract_files.checking import Account, Told, checked, is_good
from streams.contract_files.judge import Basis
from streams.contract_files.publishing import Kept, UnconfirmedError, kept, send
from streams.contract_files.source import FORMATS, Format, Source, UnclearError
from streams.intake import limits
from streams.interrupt import undisturbed
from streams.settings import Settings
from streams.setup import SetupError

_MOST: Final = 100


class _File(click.Path):
    """A file that exists, or `-` for standard input (None)."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, exists=True, dir_okay=False, allow_dash=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = Path(str(super().convert(value, param, ctx)))
        return None if str(found) == "-" else found


class _Name(click.ParamType):
    """A contract of a raw topic."""

    name = "contract"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Contract:
        try:
            return source.named(value)
        except UnclearError as error:
            self.fail(str(error), param, ctx)


_FILE = click.argument("file", metavar="FILE", type=_File())
_CONTRACT = click.option(
    "--contract", "chosen", type=_Name(), help="Name or domain; default: the file's own fields tell."
)
_FORMAT = click.option("--format", "form", type=click.Choice(FORMATS), help="Default: as the file's name says.")
_STRICT = click.option("--strict", is_flag=True, help="Take warnings for errors.")
_MAX_PROBLEMS = click.option(
    "--max-problems",
    default=_MOST,
    show_default=True,
    type=click.IntRange(min=1),
    help="Stop after so many errors; tell so many warnings.",
)


@click.group()
def contract() -> None:
    """What may be sent, and whether what you have is that: for those who publish to the raw topics.

    FILE is JSON Lines, CSV, an Avro container file, or hexadecimal values (one a line, as a device encodes them); - is
    standard input. Exit codes: 0 all good, 1 problems, 2 wrong usage.
    """


@contract.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_contracts(as_json: bool) -> None:
    """List the contracts: topic, what each is for, number of fields."""
    with told():
        if as_json:
            click.echo(json.dumps(catalogue.listed(), indent=2, ensure_ascii=False))
        else:
            Console(soft_wrap=True).print(listed())


@contract.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--avsc", is_flag=True, help="Print the Avro schema, as it is.")
def show(name: str, as_json: bool, avsc: bool) -> None:
    """Show every field of a contract: type, unit, range, meaning."""
    if as_json and avsc:
        raise click.UsageError("--json and --avsc: choose one")
    with told():
        found = catalogue.named(name)
        if found is None:
            known = ", ".join(each.name for each in catalogue.every())
            raise click.UsageError(f"{name} is no contract: there are {known}")
        if avsc:
            click.echo(catalogue.avsc(found), nl=False)
        elif as_json:
            click.echo(json.dumps(catalogue.described(found), indent=2, ensure_ascii=False))
        else:
            shown(found, Console(soft_wrap=True))


@contract.command()
@click.argument("wanted", metavar="NAME", type=_Name())
@click.option("--count", default=10, show_default=True, type=click.IntRange(1, 10_000_000), help="How many records.")
@click.option("--format", "form", default="jsonl", show_default=True, type=click.Choice(FORMATS))
@options.seed
def sample(wanted: Contract, count: int, form: Format, seed: int) -> None:
    """Write valid records of a contract to standard output, of the configured territory if there is one."""
    out = cast(BinaryIO, sys.stdout.buffer)
    if form == "avro" and sys.stdout.isatty():
        raise click.UsageError("an Avro file is no text: send it to a file, … --format avro > readings.avro")
    with told():
        configured = settings()
        locator = _locator(configured)
        place = next(iter(locator.territories.values())) if locator else None
        if place is None:
            say(
                f"{samples.PLACEHOLDER} stands for your authority's SIREN, and the positions are in Montpellier: "
                "no territory is configured (VIGIE_TERRITORIES)"
            )
        domain = source.domain_of(wanted)
        basis = Basis(wanted, domain, limits(configured), own_writers(wanted))
        records = samples.samples(domain, count, seed, WallClock().now_ms(), basis, place)
        samples.write(wanted, records, form, out)
        out.flush()


@contract.command()
@_FILE
@_CONTRACT
@_FORMAT
@_STRICT
@_MAX_PROBLEMS
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each problem.")
def validate(
    file: Path | None, chosen: Contract | None, form: Format | None, strict: bool, max_problems: int, as_json: bool
) -> None:
    """Say what a worker would refuse in FILE, line by line and field by field, and how to mend it.

    Each record goes through the codec and the stages of a worker. Warnings are stored all the same, as they are or with
    a flag. With VIGIE_TERRITORIES authority and place are judged too.
    """
    account = Account(strict, max_problems)
    with told():
        configured = settings()
        with _opened(file, form, chosen, configured) as (found, basis):
            with Progress(file) as progress:
                for part in checked(found, basis, account, WallClock().now_ms, _teller(found, as_json, progress)):
                    progress.judged(part)
            _sum_up(found, basis, account)
        if not account.is_good:
            raise click.exceptions.Exit(1)


@contract.command()
@_FILE
@_CONTRACT
@_FORMAT
@_STRICT
@_MAX_PROBLEMS
@click.option("--skip-errors", is_flag=True, help="Publish the good records of a file that has bad ones too.")
@click.option("--dry-run", is_flag=True, help="Say what would be published, and publish nothing.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Records per second at the most.")
@click.option("--from-line", default=1, show_default=True, type=click.IntRange(min=1), help="Leave out what is before.")
def publish(
    file: Path | None,
    chosen: Contract | None,
    form: Format | None,
    strict: bool,
    max_problems: int,
    skip_errors: bool,
    dry_run: bool,
    rate: float | None,
    from_line: int,
) -> None:
    """Validate FILE, then publish its records, each confirmed by the broker.

    Nothing is published when there is an error. Records are keyed <jurisdiction_id>|<asset_id>. Exit code 1 when there
    was an error or a record was not confirmed; the message says which line to go on from.
    """
    account = Account(strict, max_problems)
    with told():
        configured = settings()
        with kept() as records, _opened(file, form, chosen, configured) as (found, basis):
            with Progress(file) as progress:
                for part in checked(found, basis, account, WallClock().now_ms, _teller(found, False, progress)):
                    progress.judged(part)
                    for line in part:
                        if is_good(line, strict) and line.number >= from_line:
                            records.add(line)
            _sum_up(found, basis, account)
            if not account.is_good and (not skip_errors or account.stopped):
                raise Failure("nothing was published: mend the file" + _hint(account, skip_errors))
            topic = RAW_TOPICS[found.domain]
            if dry_run:
                click.echo(f"would publish {records.records:,} records ({records.size_bytes:,} bytes) to {topic}")
            else:
                _publish(records, topic, configured, rate, found.unit)
        if not account.is_good:
            raise click.exceptions.Exit(1)


@contract.command("pages")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def write_pages(folder: Path) -> None:
    """Write the contracts as Markdown pages to DIR."""
    with told():
        folder.mkdir(parents=True, exist_ok=True)
        written = pages.pages()
        for name, text in written.items():
            (folder / name).write_text(text, "utf-8")
        click.echo(f"{folder}: {', '.join(written)}")


def _hint(account: Account, skip_errors: bool) -> str:
    if account.stopped:
        return ", or read it to its end with a higher --max-problems"
    return "" if skip_errors or not account.accepted else ", or publish the good records alone with --skip-errors"


class _Resolving:
    """The writers that a worker with these settings knows, for one contract."""

    def __init__(self, known: Writers, contract: Contract) -> None:
        self._known, self._contract = known, contract

    def get(self, prefix: bytes, /) -> Writer | None:
        return self._known.resolve(self._contract, prefix)


@contextmanager
def _opened(
    file: Path | None, form: Format | None, chosen: Contract | None, configured: Settings
) -> Iterator[tuple[Source, Basis]]:
    allowed = limits(configured)
    try:
        with source.opened(file, form, chosen, allowed.max_record_bytes) as found:
            try:
                known = Writers(older=configured.older_schemas, registry_url=configured.schema_registry_url)
            except ValueError as error:
                raise SetupError(f"VIGIE_OLDER_SCHEMAS: {error}") from error
            writers = _Resolving(known, found.contract)
            yield found, Basis(found.contract, found.domain, allowed, writers, _locator(configured), found.unit)
    except UnclearError as error:
        raise click.UsageError(str(error)) from None


def _locator(configured: Settings) -> Locator | None:
    if not configured.territories:
        return None
    with undisturbed():
        return Locator(setup.territories(configured, say))


def _teller(found: Source, as_json: bool, progress: Progress) -> Any:
    def tell(problem: Told) -> None:
        if as_json:
            progress.print(json.dumps(problem.to_dict(found.unit), ensure_ascii=False))
        else:
            progress.print(problem_line(problem, found.unit))

    return tell


def _sum_up(found: Source, basis: Basis, account: Account) -> None:
    sys.stdout.flush()
    for line in summary(found, account, located=basis.locator is not None, forgot=basis.seen.forgot):
        say(line)


def _publish(records: Kept, topic: str, configured: Settings, rate: float | None, unit: str) -> None:
    there = setup.kafka(configured, say)
    if topic not in there:
        raise SetupError(f"Kafka at {configured.kafka_bootstrap} has no topic {topic}: run `vigie init` first")
    halt = threading.Event()

    def stop(number: int, frame: Any) -> None:
        halt.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Progress.of(records.records) as progress:
            sent = send(
                records,
                topic,
                configured,
                rate=rate,
                stop=halt.is_set,
                on_confirmed=progress.confirmed,
                unit=unit,
            )
    except UnconfirmedError as error:
        raise Failure(str(error)) from None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    for name, count in {topic: 0, **sent.confirmed}.items():
        click.echo(f"{name}: {count:,} records, each confirmed")
