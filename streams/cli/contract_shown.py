"""What `vigie contract` shows: contracts, problems, how far a file has been read, and what it came to."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from schemas.contracts import Contract
from schemas.framing import single_object_prefix
from schemas.problems import Rule
from streams.contract_files import catalogue
from streams.contract_files.checking import Account, Told
from streams.contract_files.lines import Judged
from streams.contract_files.source import Source

#: Confirmations told to the bar at once: drawing costs more than confirming.
_EVERY: Final = 256


class Progress:
    """A bar on standard error where that is a terminal; nothing elsewhere."""

    def __init__(self, file: Path | None, count: int | None = None) -> None:
        self._total = count if count is not None else file.stat().st_size if file is not None else None
        self._bar: Bar | None = None
        self._counts = count is not None

    @classmethod
    def of(cls, count: int) -> Progress:
        """A bar for so many records."""
        return cls(None, count)

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        if console.is_terminal:
            number = MofNCompleteColumn() if self._counts else TaskProgressColumn()
            columns = (TextColumn("{task.description}"), BarColumn(), number, TimeRemainingColumn())
            self._bar = Bar(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
            self._bar.start()
            self._task = self._bar.add_task("publishing" if self._counts else "reading", total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def print(self, text: str) -> None:
        """Write a line to standard output, above the bar where they share a terminal."""
        if self._bar is not None and sys.stdout.isatty():
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(text)

    def judged(self, part: Sequence[Judged]) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, sum(line.size_bytes + 1 for line in part))

    def confirmed(self, count: int) -> None:
        if self._bar is not None and (count % _EVERY == 0 or count == self._total):
            self._bar.update(self._task, completed=count)


def listed() -> Table:
    """The contracts in a table."""
    table = Table(box=None, pad_edge=False)
    for heading in ("contract", "topic", "fields", "what it is for"):
        table.add_column(heading, justify="right" if heading == "fields" else "left", overflow="fold")
    for each in catalogue.listed():
        sent = "" if each["direction"] == "in" else "You receive it: "
        table.add_row(each["name"], each["topic"], str(each["fields"]), f"{sent}{each['doc']}")
    return table


def shown(contract: Contract, console: Console) -> None:
    """A contract with all its fields."""
    verb = "send it to" if catalogue.is_sent(contract) else "receive it from"
    click.echo(f"{contract.name}: {contract.doc}")
    click.echo(f"{verb} {catalogue.topic(contract)} under the key {catalogue.key(contract)}, in Avro behind the bytes")
    click.echo(f"{single_object_prefix(contract.schema).hex(' ')} (single-object encoding)\n")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for f in contract.fields:
        table.add_row(Text(f.name, style="bold"), Text(f"{catalogue.in_a_line(f)}\n{f.doc}"))
    console.print(table)


def problem_line(told: Told, unit: str) -> str:
    """A problem in a line: where, which rule, what is there, what to do."""
    problem = told.problem
    field = "" if problem.field is None else f", {problem.field}"
    kind = "" if told.is_error else "warning, "
    mend = problem.mend[:1].upper() + problem.mend[1:]
    return f"{unit} {told.number}{field}: [{kind}{problem.rule.value}] {problem.found}. {mend}"


def summary(found: Source, account: Account, *, located: bool, forgot: bool) -> Iterator[str]:
    """What a file came to, in lines."""
    if account.stopped:
        more = f"at least {account.untold_errors:,} more errors" if account.untold_errors else "there may be more"
        yield f"stopped after {found.unit} {account.lines:,}: {more}; --max-problems tells more of them"
    elif account.untold_errors or account.untold_warnings:
        yield f"not told: {account.untold_errors:,} more errors and {account.untold_warnings:,} more warnings"
    warned = f", {account.accepted_with_warnings:,} of them with warnings" if account.accepted_with_warnings else ""
    if account.records:
        yield (
            f"{found.name}: {account.records:,} records of {found.contract.name}: "
            f"{account.accepted:,} good{warned}, {account.refused:,} refused"
        )
    else:
        yield f"{found.name}: no record"
    for what, counts in (("errors", account.errors), ("warnings", account.warnings)):
        if counts:
            yield f"{what}: {_counted(counts)}"
    if not located and account.records:
        yield "authority and area were not judged: no territory is configured (VIGIE_TERRITORIES)"
    if forgot:
        yield "the file is so long that events that are the same were looked for among its last millions only"


def _counted(counts: Counter[Rule]) -> str:
    return ", ".join(f"{rule.value} {count:,}" for rule, count in counts.most_common())
