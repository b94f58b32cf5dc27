"""`vigie check`: is everything there that a worker needs, and if not, what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from schemas.registry import RegistryAwayError, Writers
from sinks.clickhouse import SinkError, connect
from streams import broker, setup
from streams.broker import BrokerError
from streams.cli.errors import Failure, settings, told
from streams.settings import PREFIX, Settings
from streams.setup import SetupError
from streams.territory.remarks import TerritoryError


@dataclass(frozen=True)
class _Answer:
    good: bool
    text: str


@click.command()
@click.option("--print", "show", is_flag=True, help="Show every setting, secrets masked, and check nothing.")
def check(show: bool) -> None:
    """Check settings, broker, registry, ClickHouse and territory, each with what to do when it fails."""
    with told():
        chosen = settings()
        if show:
            _print(chosen)
            return
        table = Table(box=None, pad_edge=False)
        for heading in ("", "what", "answer"):
            table.add_column(heading, overflow="fold")
        good = True
        for name, question in _QUESTIONS:
            answer = question(chosen)
            good = good and answer.good
            table.add_row("[green]ok[/]" if answer.good else "[red]no[/]", name, answer.text)
        Console(soft_wrap=True).print(table)
        if not good:
            raise Failure("not everything is in order")


def _print(chosen: Settings) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("setting", "value", "what it is"):
        table.add_column(heading, overflow="fold")
    for name, value in chosen.shown().items():
        table.add_row(PREFIX + name.upper(), value, type(chosen).model_fields[name].description or "")
    Console(soft_wrap=True).print(table)


def _settings(chosen: Settings) -> _Answer:
    return _Answer(True, f"{len(type(chosen).model_fields)} settings, all valid (`vigie check --print` shows them)")


def _kafka(chosen: Settings) -> _Answer:
    try:
        there = broker.reach(chosen)
        if missing := setup.missing_topics(chosen, there):
            return _Answer(False, f"no topic {', '.join(missing)}: run `vigie init`")
        if wrong := broker.without_broker_time(chosen):
            return _Answer(False, f"{', '.join(wrong)}: set message.timestamp.type=LogAppendTime")
    except BrokerError as error:
        return _Answer(False, str(error))
    return _Answer(True, f"{chosen.kafka_bootstrap}, topics are there and carry the broker's time")


def _registry(chosen: Settings) -> _Answer:
    if chosen.schema_registry_url is None:
        return _Answer(True, "none configured: single-object encoding only")
    try:
        Writers(registry_url=chosen.schema_registry_url).check()
    except RegistryAwayError as error:
        return _Answer(False, f"{error}: start it or set VIGIE_SCHEMA_REGISTRY_URL")
    return _Answer(True, chosen.schema_registry_url)


def _clickhouse(chosen: Settings) -> _Answer:
    try:
        sink = connect(chosen.clickhouse_url.get_secret_value(), retry_budget_s=1.0)
    except SinkError as error:
        return _Answer(False, f"{error}: check VIGIE_CLICKHOUSE_URL")
    try:
        version = sink.rows("SELECT version()")[0][0]
        known = {name for (name,) in sink.rows("SHOW TABLES")}
    except SinkError as error:
        return _Answer(False, str(error))
    finally:
        sink.close()
    if "events_sensor" not in known:
        return _Answer(False, f"ClickHouse {version} has no tables of ours: run `vigie init`")
    return _Answer(True, f"ClickHouse {version}, {len(known)} tables and views")


def _territories(chosen: Settings) -> _Answer:
    repaired: list[str] = []
    try:
        found = setup.territories(chosen, repaired.append)
    except (SetupError, TerritoryError) as error:
        return _Answer(False, str(error))
    described = [
        f"{t.name} ({j}): {len(t.zones)} zones, {len(t.assets)} assets, version {t.version}" for j, t in found.items()
    ]
    return _Answer(True, "; ".join((*described, *repaired)))


_QUESTIONS: tuple[tuple[str, Callable[[Settings], _Answer]], ...] = (
    ("settings", _settings),
    ("Kafka", _kafka),
    ("schema registry", _registry),
    ("ClickHouse", _clickhouse),
    ("territories", _territories),
)
