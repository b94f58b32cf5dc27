"""A territory: what the stages know of one authority. Read elsewhere, handed in as an argument, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["critical", "error", "warning", "info"]

#: Zone table. Row i belongs to `geometries[i]`. Bounds are UTC instants; null is open.
ZONE_SCHEMA: Final[dict[str, pl.DataType]] = {
    "layer": pl.String(),
    "code": pl.String(),
    "name": pl.String(),
    "valid_from": pl.Datetime("ms", "UTC"),
    "valid_to": pl.Datetime("ms", "UTC"),
}

#: Asset registry. Positions are WGS84 degrees. `report_interval_s` is how often the asset is expected to speak.
#: The last columns are null where they do not apply: container depth in millimetres; circuit and cabinet of a lamp;
#: mean daily and peak-hour vehicles of a counting station.
ASSET_SCHEMA: Final[dict[str, pl.DataType]] = {
    "asset_id": pl.String(),
    "domain": pl.String(),
    "kind": pl.String(),
    "name": pl.String(),
    "longitude": pl.Float64(),
    "latitude": pl.Float64(),
    "report_interval_s": pl.Float64(),
    "depth_mm": pl.Float64(),
    "circuit_id": pl.String(),
    "cabinet_id": pl.String(),
    "daily_flow": pl.Float64(),
    "morning_peak_flow": pl.Float64(),
    "evening_peak_flow": pl.Float64(),
}

#: What `kind` may be, by domain. Sensors and lamps: as in the contracts. Roadway: what the station measures.
ASSET_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "sensor": ("bin", "drop_off", "weather", "air", "noise", "footfall"),
    "lighting": ("lamp",),
    "roadway": ("traffic", "pavement"),
}

Ratio = Annotated[float, Field(ge=0, le=1)]


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BinFull(_Rule):
    """A container is full from `raise_at` until it falls to `clear_at` (ratios)."""

    raise_at: Ratio = 0.80
    clear_at: Ratio = 0.60
    severity: Severity = "warning"


class BinFire(_Rule):
    """A container burns from `raise_at_c` until it falls to `clear_at_c` (degrees Celsius)."""

    raise_at_c: float = 70.0
    clear_at_c: float = 50.0
    severity: Severity = "critical"


class LampDefective(_Rule):
    """The lamp's controller reports a defect."""

    severity: Severity = "warning"


class LampDark(_Rule):
    """A lamp is off while the sun stands below `sun_below_deg` (degrees above the horizon), for `hold_s` seconds."""

    sun_below_deg: float = -8.0
    hold_s: float = 600.0
    severity: Severity = "warning"


class LampLitByDay(_Rule):
    """A lamp is on while the sun stands above `sun_above_deg` (degrees above the horizon), for `hold_s` seconds."""

    sun_above_deg: float = 5.0
    hold_s: float = 600.0
    severity: Severity = "info"


class Silent(_Rule):
    """An asset has said nothing for `intervals` of its reporting interval; dead after `dead_after_s` seconds."""

    intervals: Annotated[float, Field(gt=1)] = 4.0
    dead_after_s: float = 30 * 86_400.0
    severity: Severity = "warning"


class ReportHotSpot(_Rule):
    """A zone receives more reports of a category in `window_s` than its own past explains.

    Past is `history_s` long; fewer than `min_history_s` of it and the rule only learns. The count must reach
    `min_count` and be less probable than `p_value` under a Poisson law with the expected number.
    """

    layer: str | None = None
    window_s: float = 3 * 3_600.0
    history_s: float = 28 * 86_400.0
    min_history_s: float = 6 * 3_600.0
    min_count: int = 6
    p_value: float = 1e-6
    severity: Severity = "warning"


class Rules(_Rule):
    """Thresholds of a territory. A rule set to null in `territory.yaml` is off."""

    bin_full: BinFull | None = BinFull()
    bin_fire: BinFire | None = BinFire()
    lamp_defective: LampDefective | None = LampDefective()
    lamp_dark: LampDark | None = LampDark()
    lamp_lit_by_day: LampLitByDay | None = LampLitByDay()
    silent: Silent | None = Silent()
    report_hot_spot: ReportHotSpot | None = ReportHotSpot()
    #: A report that names no asset is joined to the nearest one within this distance, in metres; 0 joins none.
    nearest_asset_m: Annotated[float, Field(ge=0)] = 30.0


@dataclass(frozen=True)
class Territory:
    """One authority's zones, assets and rules.

    `area` is (west, south, east, north) in WGS84 degrees: a position outside cannot be this authority's.
    `geometries` are valid shapely polygons or multipolygons, one per row of `zones`. `version` is a hash of the files.
    """

    jurisdiction_id: str
    name: str
    timezone: str
    version: str
    area: tuple[float, float, float, float]
    zones: pl.DataFrame
    geometries: npt.NDArray[Any]
    assets: pl.DataFrame
    rules: Rules

    @property
    def layers(self) -> tuple[str, ...]:
        """Layer names, in the order of the territory's files."""
        return tuple(self.zones["layer"].unique(maintain_order=True).to_list())

    @cached_property
    def report_intervals(self) -> Mapping[str, Mapping[str, float]]:
        """How often assets that are to report do so, in seconds, by domain and asset. Shared by whoever asks."""
        listed = self.assets.filter(pl.col("report_interval_s") > 0).select("domain", "asset_id", "report_interval_s")
        found: dict[str, dict[str, float]] = {}
        for domain, asset, interval_s in listed.iter_rows():
            found.setdefault(domain, {})[asset] = interval_s
        return found

    @property
    def centre(self) -> tuple[float, float]:
        """Longitude and latitude of the middle of the area, in degrees."""
        west, south, east, north = self.area
        return float(np.mean((west, east))), float(np.mean((south, north)))
