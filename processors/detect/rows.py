"""The rows of one batch as arrays, each with the dense number of its series."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Before every instant, and far enough from the limit of 64 bits to be subtracted from.
NEVER: Final = -(1 << 62)
#: After every instant.
NO_END: Final = 1 << 62

_DISTRUSTED: Final = (3, 4)  # SUSPECT, FAIL

_KEY: Final = pl.concat_str("jurisdiction_id", pl.lit("|"), "asset_id").alias("key")


@dataclass(frozen=True)
class Rows:
    """One batch, n rows in the order of `processors.order`.

    `series` is the dense number of (jurisdiction, asset), `territory` the number of its territory; `at` and `watermark`
    are milliseconds since 1970, UTC, `watermark` how far event time has come with the row: never less than `at`, never
    less than at the row before. `good` is False for a reading flagged SUSPECT or FAIL.
    """

    series: Ints
    territory: Ints
    at: Ints
    good: Bools
    watermark: Ints


class Series:
    """Dense numbers for (jurisdiction, asset) pairs, in order of appearance.

    A dictionary of joined keys: measured on 5 000 rows against 30 000 known assets, 0.11 us a row, where a Polars join
    takes 0.14 us and a cast to an enumeration 0.48 us.
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._number: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def known(self, key: str) -> int | None:
        """The number of a key, if it has one."""
        return self._number.get(key)

    def numbers(self, keys: list[str]) -> Ints:
        """The number of each key `<jurisdiction_id>|<asset_id>`; a new key gets the next one."""
        numbers = np.fromiter(map(self._number.get, keys, repeat(-1)), np.int64, len(keys))
        for row in np.flatnonzero(numbers < 0).tolist():
            key = keys[row]
            number = self._number.setdefault(key, len(self.keys))
            if number == len(self.keys):
                self.keys.append(key)
            numbers[row] = number
        return numbers


#: What detectors read of every row, beside what the rules of its domain read. An unknown quality is trusted.
READ: Final = (
    pl.when(pl.col("asset_id") != "").then(_KEY).alias("key"),
    pl.col("observed_at").dt.epoch("ms").alias("at_ms"),
    pl.col("watermark").dt.epoch("ms").alias("watermark_ms"),
    (~pl.col("quality").is_in(_DISTRUSTED)).fill_null(True).alias("good"),
)


def identified(read: pl.DataFrame) -> pl.DataFrame:
    """Of what was read, the rows that name an asset and an instant."""
    if read["key"].null_count() or read["at_ms"].null_count():
        return read.drop_nulls(["key", "at_ms"])
    return read


def grown(values: npt.NDArray[Any], size: int, fill: int | bool) -> npt.NDArray[Any]:
    """`values` with room for `size` entries, new ones set to `fill`; doubles, so growth costs little per series."""
    if len(values) >= size:
        return values
    larger = np.full(max(size, 2 * len(values), 1_024), fill, values.dtype)
    larger[: len(values)] = values
    return larger
