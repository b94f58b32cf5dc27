"""What has to be there before a worker starts, and how long to wait for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import polars as pl
import shapely

from processors.territory import Territory
from schemas.registry import RegistryAwayError, Writers
from sinks.clickhouse import Sink, SinkAwayError, connect, migrate
from streams import broker
from streams.broker import BrokerError
from streams.clock import utc_now
from streams.interrupt import undisturbed
from streams.settings import Settings
from streams.territory.files import load

Say = Callable[[str], None]

_OLDEST: Final = pl.CompatLevel.oldest()


class SetupError(RuntimeError):
    """Something a worker needs is missing or wrong; the message says what to do."""


def territories(settings: Settings, say: Say) -> dict[str, Territory]:
    """The territories of the settings, by jurisdiction. Raises SetupError, or TerritoryError for a bad folder."""
    if not settings.territories:
        raise SetupError(
            "no territory: set VIGIE_TERRITORIES to a folder made by `vigie territory build` or `vigie territory synth`"
        )
    found: dict[str, Territory] = {}
    for folder in settings.territories:
        territory, repaired = load(Path(folder))
        for line in repaired:
            say(line)
        if territory.jurisdiction_id in found:
            raise SetupError(f"{folder}: jurisdiction {territory.jurisdiction_id} is already in another folder")
        found[territory.jurisdiction_id] = territory
    return found


def pages(settings: Settings) -> None:
    """Whether the worker's pages can be served: Faust would tell of a taken port only in the midst of its start.

    Raises SetupError.
    """
    if not settings.web_port:
        return
    family = socket.AF_INET6 if ":" in settings.web_host else socket.AF_INET
    try:
        socket.create_server((settings.web_host, settings.web_port), family=family).close()
    except OSError as error:
        raise SetupError(
            f"cannot listen on {settings.web_host}:{settings.web_port} ({error.strerror or error}): set "
            "VIGIE_WEB_PORT, one for each worker of a machine, or 0 for none; VIGIE_WEB_HOST is the address"
        ) from None


def sink(settings: Settings, say: Say) -> Sink:
    """A connection to ClickHouse, waited for. Raises SinkError."""
    url = settings.clickhouse_url.get_secret_value()

    def connected() -> Sink:
        # Opening the embedded engine takes an instant; waiting for a server does not, and Ctrl-C must end it.
        with undisturbed() if url.startswith("chdb:") else nullcontext():
            return connect(
                url,
                retry_budget_s=settings.retry_budget_s,
                on_retry=say,
                timeout_s=settings.clickhouse_timeout_s,
            )

    found: Sink = broker.wait_for(
        "ClickHouse",
        connected,
        (SinkAwayError,),
        timeout_s=settings.start_timeout_s,
        say=say,
    )
    return found


def kafka(settings: Settings, say: Say) -> set[str]:
    """The topics of the broker, waited for. Raises BrokerError."""
    # librdkafka asks again by itself for as long as it may, and says nothing meanwhile.
    once_s = min(5.0, settings.start_timeout_s / 3)
    found: set[str] = broker.wait_for(
        "Kafka", lambda: broker.reach(settings, once_s), (BrokerError,), timeout_s=settings.start_timeout_s, say=say
    )
    return found


def registry(settings: Settings, say: Say) -> None:
    """Wait for the schema registry, if there is one. Raises RegistryAwayError."""
    if settings.schema_registry_url:
        broker.wait_for(
            f"the schema registry at {settings.schema_registry_url}",
            Writers(registry_url=settings.schema_registry_url).check,
            (RegistryAwayError,),
            timeout_s=settings.start_timeout_s,
            say=say,
        )


def missing_topics(settings: Settings, there: set[str]) -> list[str]:
    """Topics of the installation that the broker does not have."""
    return sorted({topic.topic for topic in broker.topics(settings)} - there)


def publish_territories(found: Mapping[str, Territory], to: Sink) -> None:
    """Write zones and assets whose newest version in ClickHouse is another one, if only by what was written last: a
    territory that comes back is the newest again."""
    for jurisdiction, territory in found.items():
        table = "zones" if len(territory.zones) else "assets"
        ((newest,),) = to.rows(
            f"SELECT argMax(territory_version, loaded_at) FROM {table} WHERE jurisdiction_id = {{j:String}}",
            {"j": jurisdiction},
        )
        if newest == territory.version:
            continue
        now = utc_now()
        stamped = [
            pl.lit(jurisdiction).alias("jurisdiction_id"),
            pl.lit(territory.version).alias("territory_version"),
            pl.lit(now).dt.cast_time_unit("ms").alias("loaded_at"),
        ]
        zones = territory.zones.with_columns(pl.Series("wkt", shapely.to_wkt(territory.geometries)), *stamped)
        name = f"{jurisdiction}|{territory.version}|{now}"
        to.insert_whole("assets", territory.assets.with_columns(stamped).to_arrow(compat_level=_OLDEST), name)
        # Last: these are what is looked for, after a start that was cut short.
        to.insert_whole("zones", zones.to_arrow(compat_level=_OLDEST), name)


def tables(to: Sink) -> list[str]:
    """Bring ClickHouse's tables up to date. Returns the migrations applied now."""
    return migrate(to)
