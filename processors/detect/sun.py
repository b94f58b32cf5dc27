"""How high the sun stands over a territory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

import numpy as np
from astral import Observer
from astral.sun import elevation

from processors.detect.rows import Floats, Ints

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE_MS: Final = 60_000


# The sun moves a quarter of a degree a minute. Live batches hold few distinct minutes; a replay holds many, once each.
@lru_cache(maxsize=16_384)
def _elevation_deg(longitude: float, latitude: float, minute: int) -> float:
    return elevation(Observer(latitude, longitude, 0.0), _EPOCH + timedelta(minutes=minute))


def elevations_deg(centre: tuple[float, float], at_ms: Ints) -> Floats:
    """Degrees of the sun above the horizon at `centre` (longitude, latitude) at the minute of each instant."""
    minutes, which = np.unique(at_ms // _MINUTE_MS, return_inverse=True)
    heights = [_elevation_deg(*centre, minute) for minute in minutes.tolist()]
    return np.asarray(heights, dtype=np.float64)[which]
