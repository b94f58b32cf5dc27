"""A part of the city that ships, whose assets report every few seconds, so that a run of minutes is full of events.

Event time is the wall clock's: alerts, lateness and silence happen as they would in a real town, only faster. Beside
the simulated assets there are *blinkers*: containers outside the simulation, which burn and are out again by turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import polars as pl

from processors.territory import ASSET_SCHEMA, Silent, Territory
from streams.territory.files import versioned
from streams.territory.synth import synthesize

INTERVAL_S: Final = 5.0
BLINKERS: Final = 8

#: A minute: while nothing is wrong with the town, an outage of the installation must not look like silence, or the end
#: of the records bring an alert for every asset while the last ones are still caught up with.
_SILENT: Final = Silent(intervals=12)

#: Shares of the simulated assets by kind, and the fewest of each: enough for its faults and for sound ones beside.
_SHARE: Final[Mapping[str, tuple[float, int]]] = {
    "lamp": (0.40, 14), "bin": (0.30, 12), "traffic": (0.15, 8), "drop_off": (0.05, 6), "footfall": (0.03, 3),
    "noise": (0.02, 3), "air": (0.02, 2), "pavement": (0.02, 3), "weather": (0.01, 2),
}  # fmt: skip


def town(rate: float) -> Territory:
    """The territory whose simulated assets report about `rate` times a second in all; about 11/s at least."""
    whole = synthesize()
    wanted = rate * INTERVAL_S
    parts = []
    for kind, (share, least) in _SHARE.items():
        there = whole.assets.filter(pl.col("kind") == kind).sort("asset_id")
        parts.append(there.head(max(least, round(share * wanted))))
    # Small kinds run out of assets at high rates; there are always more lamps.
    missing = round(wanted) - sum(map(len, parts))
    if missing > 0:
        lamps = whole.assets.filter(pl.col("kind") == "lamp").sort("asset_id")
        parts.append(lamps.slice(len(parts[0]), missing))
    simulated = pl.concat(parts).with_columns(pl.lit(INTERVAL_S).alias("report_interval_s"))
    where = simulated.filter(pl.col("kind") == "bin").head(BLINKERS)
    # Without an interval: the simulation leaves them alone, and nobody calls them silent.
    blinking = where.with_columns(
        pl.Series("asset_id", blinkers()[: len(where)]), pl.lit(None, pl.Float64).alias("report_interval_s")
    )
    assets = pl.concat([simulated, blinking]).select(list(ASSET_SCHEMA))
    rules = whole.rules.model_copy(update={"silent": _SILENT})
    return versioned(replace(whole, assets=assets, rules=rules))


def blinkers() -> list[str]:
    """Their asset ids."""
    return [f"blinker-{number}" for number in range(1, BLINKERS + 1)]
