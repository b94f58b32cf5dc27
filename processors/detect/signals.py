"""The rules of an asset's readings: what each row of a batch says to each of them. No state here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from processors.detect.rows import Bools, Floats, Rows
from processors.detect.sun import elevations_deg
from processors.detect.switch import Signals
from processors.quality import usable
from processors.territory import Rules, Territory
from schemas.contracts import Domain, contract_of


class Parameters:
    """The rules of several territories as arrays: entry i is territory i, the last entry an unknown authority.

    An unknown authority has no rules, and a rule set to null is off: `enabled` is False and numbers are NaN.
    """

    def __init__(self, territories: Sequence[Territory]) -> None:
        self.territories = tuple(territories)
        self._rules: tuple[Rules | None, ...] = (*(territory.rules for territory in territories), None)

    def least(self, rule: str, name: str) -> float:
        """The lowest number of all territories; infinite where the rule is off everywhere."""
        return float(np.nanmin(np.append(self.numbers(rule, name), np.inf)))

    def enabled(self, rule: str) -> Bools:
        return np.asarray([getattr(rules, rule, None) is not None for rules in self._rules], dtype=np.bool_)

    def numbers(self, rule: str, name: str) -> Floats:
        values = [getattr(getattr(rules, rule, None), name, np.nan) for rules in self._rules]
        return np.asarray(values, dtype=np.float64)

    def severity(self, rule: str, territory: int) -> str:
        return str(getattr(getattr(self._rules[territory], rule, None), "severity", "unknown"))

    def hold_s(self, rule: str, territory: int) -> float:
        return float(getattr(getattr(self._rules[territory], rule, None), "hold_s", 0.0))


Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Reader:
    """One rule: the expressions over a stored event that it judges by, by name, and how. Rules of one domain that name
    the same thing mean the same.

    `raises`: what an event must at least show to raise the condition in any of the territories; None for a rule whose
    conditions may have to last before anybody is told.
    """

    reads: Mapping[str, pl.Expr]
    judge: Callable[[Columns, Rows, Parameters], Signals]
    raises: Callable[[Parameters], pl.Expr] | None = None


def _signs(up: Bools, down: Bools) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    return up.astype(np.int8) - (down & ~up).astype(np.int8)


def _container(rule: str, measure: str, raise_name: str, clear_name: str) -> Reader:
    read = pl.when(pl.col("kind").is_in(["bin", "drop_off"])).then(usable(contract_of("sensor"), measure))

    def judge(columns: Columns, rows: Rows, parameters: Parameters) -> Signals:
        value = columns[measure]
        raise_at = parameters.numbers(rule, raise_name)[rows.territory]
        clear_at = parameters.numbers(rule, clear_name)[rows.territory]
        says = ~np.isnan(value) & parameters.enabled(rule)[rows.territory]
        return Signals(says, _signs(value >= raise_at, value <= clear_at), value, raise_at, clear_at)

    return Reader(
        {measure: read.cast(pl.Float64).fill_null(np.nan)},
        judge,
        lambda parameters: read >= parameters.least(rule, raise_name),
    )


def _lamp_defective(columns: Columns, rows: Rows, parameters: Parameters) -> Signals:
    """A defect the controller names raises, `ok` clears, `unknown` says nothing."""
    known, healthy = columns["known"], columns["healthy"]
    nothing = np.full(len(known), np.nan)
    says = known & parameters.enabled("lamp_defective")[rows.territory]
    return Signals(says, _signs(known & ~healthy, healthy), nothing, nothing, nothing)


def _lamp_against_sun(
    columns: Columns, rows: Rows, parameters: Parameters, rule: str, name: str
) -> tuple[Bools, Bools, Bools, Floats, Floats]:
    """`says`, `off`, `lit`, the sun and its threshold, per row. The sun is NaN where the rule needs none."""
    off, lit = columns["off"], columns["lit"]
    says = (off | lit) & rows.good & parameters.enabled(rule)[rows.territory]
    needed = says & (off if rule == "lamp_dark" else lit)
    sun = np.full(len(off), np.nan)
    for number, territory in enumerate(parameters.territories):
        here = needed & (rows.territory == number)
        if here.any():
            sun[here] = elevations_deg(territory.centre, rows.at[here])
    return says, off, lit, sun, parameters.numbers(rule, name)[rows.territory]


def _lamp_dark(columns: Columns, rows: Rows, parameters: Parameters) -> Signals:
    """Off in the dark raises; lit, or off while the sun is not below the threshold, clears."""
    says, off, lit, sun, limit = _lamp_against_sun(columns, rows, parameters, "lamp_dark", "sun_below_deg")
    dark = sun < limit
    return Signals(says, _signs(off & dark, lit | (off & ~dark)), sun, limit, limit)


def _lamp_lit_by_day(columns: Columns, rows: Rows, parameters: Parameters) -> Signals:
    """Lit while the sun is above the threshold raises; off, or lit while it is not, clears."""
    says, off, lit, sun, limit = _lamp_against_sun(columns, rows, parameters, "lamp_lit_by_day", "sun_above_deg")
    bright = sun > limit
    return Signals(says, _signs(lit & bright, off | (lit & ~bright)), sun, limit, limit)


_STATUS: Final = {
    "known": (pl.col("lamp_status") != "unknown").fill_null(False),
    "healthy": (pl.col("lamp_status") == "ok").fill_null(False),
}
_POWER: Final = {
    "off": (pl.col("power_state") == "off").fill_null(False),
    "lit": pl.col("power_state").is_in(["on", "low"]).fill_null(False),
}

#: Who speaks, when, and whether it can be trusted: what silence reads.
_SPEAKER: Final = ("jurisdiction_id", "asset_id", "observed_at", "quality")
#: What the detectors read of a row, by domain. A report is about an asset and no word of its own: nothing is read.
COLUMNS: Final[Mapping[Domain, tuple[str, ...]]] = {
    "sensor": (*_SPEAKER, "kind", "failed", "fill_level", "temperature_c"),
    "lighting": (*_SPEAKER, "lamp_status", "power_state"),
    "roadway": _SPEAKER,
    "report": (),
}

#: Rules by domain, in the order of their findings. A domain without an entry has none.
READERS: Final[Mapping[str, Mapping[str, Reader]]] = {
    "sensor": {
        "bin_fire": _container("bin_fire", "temperature_c", "raise_at_c", "clear_at_c"),
        "bin_full": _container("bin_full", "fill_level", "raise_at", "clear_at"),
    },
    "lighting": {
        "lamp_dark": Reader(_POWER, _lamp_dark),
        "lamp_defective": Reader(_STATUS, _lamp_defective, lambda _: _STATUS["known"] & ~_STATUS["healthy"]),
        "lamp_lit_by_day": Reader(_POWER, _lamp_lit_by_day),
    },
}


def columns_of(readers: Iterable[Reader]) -> dict[str, pl.Expr]:
    """All that these rules read, each thing once."""
    return {name: expression.alias(name) for reader in readers for name, expression in reader.reads.items()}
