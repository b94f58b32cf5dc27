"""The windows of a job out of the product's own stages: decode, locate, aggregate, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from processors.aggregate import Codes, Windows
from processors.locate import Locator
from processors.territory import Territory
from schemas.codec import decode
from schemas.contracts import DOMAINS, Domain, contract_of
from schemas.records import Batch
from schemas.writers import own_writers

_NOT_JUDGED: Final = (pl.lit(0, dtype=pl.UInt64).alias("failed"), pl.lit(False).alias("late"))
_TRAFFIC: Final = pl.lit("traffic.") + pl.col("mobility_type")
#: What sort of thing speaks: the first half of a metric's name. In the product `validate` adds it.
_KINDS: Final[Mapping[Domain, pl.Expr]] = {
    "sensor": pl.col("sensor_type"),
    "lighting": pl.lit("lamp"),
    "roadway": pl.when(pl.col("observation_type") == "traffic").then(_TRAFFIC).otherwise(pl.col("observation_type")),
    "report": pl.col("service_code"),
}


class RefusedError(ValueError):
    """A record of the load was refused, and every one is clean."""


def decoded(domain: Domain, batch: Batch) -> pl.DataFrame:
    """The records' frame, with `kind` and the flags of a row that nobody has judged. Raises RefusedError."""
    contract = contract_of(domain)
    found = decode(contract, batch, own_writers(contract))
    if len(found.rejects):
        raise RefusedError(f"{len(found.rejects)} records of {domain} do not decode: {found.rejects.row(0)}")
    return found.frame.with_columns(_KINDS[domain].alias("kind"), *_NOT_JUDGED)


def located(locator: Locator, domain: Domain, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its zone sets. Raises RefusedError."""
    frame, refused = locator.locate(frame, domain)
    if len(refused):
        raise RefusedError(f"{len(refused)} records of {domain} lie outside the territory")
    return frame


class Job:
    """All windows of all domains, in memory, as the peers keep them."""

    def __init__(self, territories: Mapping[str, Territory]) -> None:
        self.locator = Locator(territories)
        self._windows = {domain: Windows(Codes(self.locator.sets)) for domain in DOMAINS}

    def take(self, domain: Domain, batch: Batch) -> pl.DataFrame:
        """Count records of one topic, whatever their partitions; their frame, located. Raises RefusedError."""
        frame = located(self.locator, domain, decoded(domain, batch))
        self.add(domain, frame)
        return frame

    def add(self, domain: Domain, frame: pl.DataFrame) -> None:
        """Count located rows."""
        self._windows[domain].add(frame, contract_of(domain), domain)

    def changed(self) -> pl.DataFrame:
        """The windows changed since the last call, whole, as `wire.encoded` takes them."""
        return pl.concat(_results(domain, windows.take_changed()) for domain, windows in self._windows.items())


def _results(domain: Domain, rows: pl.DataFrame) -> pl.DataFrame:
    """Window rows (WINDOW_SCHEMA) with whole steps as numbers of their unit."""
    step = pl.col("resolution")
    return rows.select(
        pl.lit(domain).alias("domain"),
        "layer",
        "zone_code",
        "metric",
        pl.col("window_start").cast(pl.Int64),
        "count",
        (pl.col("sum") * step).alias("sum"),
        (pl.col("minimum") * step).alias("min"),
        (pl.col("maximum") * step).alias("max"),
    )
