"""Hot spots of citizen reports: calm on ordinary days, quick on a burst."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from processors.detect.findings import FINDING_SCHEMA
from processors.detect.hot_spot import hot_spots, poisson_tail
from processors.territory import ReportHotSpot
from tests.processors.detect_samples import HOUR, JURISDICTION, MINUTE, ms

T0 = ms("2026-03-01T00:00")
RULES = ReportHotSpot(layer="district")
ZONES = tuple(f"Z{number}" for number in range(8))
CATEGORIES = ("trash", "lighting", "pothole", "graffiti", "noise", "trees", "water")


def _windows(minutes: list[int], zone: str, category: str) -> pl.DataFrame:
    """One request at each of these minutes after T0."""
    return pl.DataFrame(
        {
            "window_start": pl.Series([T0 + minute * MINUTE for minute in minutes], dtype=pl.Int64),
            "zone_code": pl.Series([zone] * len(minutes), dtype=pl.String),
            "category": pl.Series([category] * len(minutes), dtype=pl.String),
            "count": pl.Series([1] * len(minutes), dtype=pl.Int64),
        }
    ).with_columns(pl.col("window_start").cast(pl.Datetime("ms", "UTC")))


def _ordinary(seed: int, days: int, per_hour: float = 1 / 3, day_to_night: float = 5.0) -> pl.DataFrame:
    """Poisson requests of 8 zones and 7 categories; each cell `per_hour` in the mean, the day busier than the night."""
    rng = np.random.default_rng(seed)
    hour = (np.arange(days * 1_440) % 1_440) / 60
    shape = 1 + (day_to_night - 1) * np.clip(np.sin((hour - 6) / 14 * np.pi), 0, None) * ((hour > 6) & (hour < 20))
    rate = per_hour / 60 * shape / shape.mean()
    drawn = [
        _windows(np.repeat(np.arange(len(rate)), rng.poisson(rate)).tolist(), zone, category)
        for zone in ZONES
        for category in CATEGORIES
    ]
    return pl.concat(drawn)


def _raises(windows: pl.DataFrame, first: int, last: int, every: int) -> list[tuple[int, str, str]]:
    """(minute, zone, category) of each raise when judged every so many minutes."""
    raised: set[tuple[str, str]] = set()
    told = []
    for minute in range(first, last + 1, every):
        changes = hot_spots(windows, RULES, JURISDICTION, T0 + minute * MINUTE, raised=raised)
        for zone, category, up in changes.select("zone_code", "category", "raised").iter_rows():
            raised ^= {(zone, category)}
            assert up == ((zone, category) in raised)
            if up:
                told.append((minute, zone, category))
    return told


@pytest.mark.parametrize("seed", [1, 2])
def test_calm_over_two_ordinary_weeks(seed: int) -> None:
    """Fourteen days with days and nights and no hot spot, judged hourly: at most one false finding."""
    assert len(_raises(_ordinary(seed, 14), 60, 14 * 1_440, 60)) <= 1


@pytest.mark.parametrize("seed", range(10, 16))
def test_calm_on_the_first_day(seed: int) -> None:
    """From nothing, judged every ten minutes for a day that begins at midnight: at most one false finding."""
    assert len(_raises(_ordinary(seed, 1, day_to_night=8.0), 10, 1_440, 10)) <= 1


def test_calm_on_busy_first_days() -> None:
    """A busy city's first days, where the night's few reports must not be mistaken for a rate: two false in twelve."""
    false = [len(_raises(_ordinary(seed, 1, 1.0, 8.0), 10, 1_440, 10)) for seed in range(100, 112)]
    assert sum(false) <= 2, false


def test_finds_a_burst() -> None:
    """Thirty requests within two hours in one zone (usually one in three hours) are found within 90 minutes."""
    delays = []
    for seed in range(20):
        rng = np.random.default_rng(1_000 + seed)
        start = 4 * 1_440 + int(rng.integers(0, 1_440))
        burst = _windows(sorted((start + rng.integers(0, 120, 30)).tolist()), "Z3", "noise")
        told = _raises(pl.concat((_ordinary(seed, 5), burst)), start + 10, start + 90, 10)
        delays.append(min((minute - start for minute, *cell in told if cell == ["Z3", "noise"]), default=math.inf))
    assert max(delays) <= 90, delays


def test_a_storm_is_not_a_hot_spot() -> None:
    """A category that surges in every zone at once is the city's affair and raises no zone."""
    rng = np.random.default_rng(5)
    start = 3 * 1_440 + 600
    surge = [_windows(sorted((start + rng.integers(0, 120, 12)).tolist()), zone, "water") for zone in ZONES]
    assert _raises(pl.concat((_ordinary(3, 4), *surge)), start, start + 240, 10) == []


def test_raised_and_cleared_with_evidence() -> None:
    """A burst is raised once, kept quiet while it lasts, and cleared with the count and what was expected."""
    end = T0 + 2 * 24 * HOUR
    burst = _windows([2 * 1_440 - 100 + number for number in range(40)], "Z1", "trash")
    windows = pl.concat((_ordinary(4, 3), burst))
    begun = hot_spots(windows, RULES, JURISDICTION, end)
    assert dict(begun.schema) == FINDING_SCHEMA
    row = begun.row(0, named=True)
    assert (row["rule"], row["domain"], row["zone_layer"], row["zone_code"], row["category"]) == (
        "report_hot_spot",
        "report",
        "district",
        "Z1",
        "trash",
    )
    assert row["raised"] and row["value"] >= 40 and row["threshold"] < 10
    hot = {("Z1", "trash")}
    assert hot_spots(windows, RULES, JURISDICTION, end, raised=hot).is_empty()
    ended = hot_spots(windows, RULES, JURISDICTION, end + 6 * HOUR, raised=hot)
    assert ended.select("zone_code", "category", "raised").rows() == [("Z1", "trash", False)]
    assert ended["value"][0] < 10


def test_a_raised_cell_without_rows_is_cleared() -> None:
    """A cell that is raised and has vanished from the windows ends with a count of zero."""
    ended = hot_spots(_ordinary(4, 2), RULES, JURISDICTION, T0 + 40 * HOUR, raised={("gone", "trash")})
    assert ended.select("zone_code", "raised", "value").rows() == [("gone", False, 0.0)]


def test_learning_says_nothing() -> None:
    """With less history than `min_history_s` a burst is only learned from, and nothing raised is cleared."""
    windows = pl.concat((_ordinary(4, 1), _windows([480] * 40, "Z1", "trash")))
    for hours, expected in ((8.9, 0), (9.1, 1)):
        assert hot_spots(windows, RULES, JURISDICTION, T0 + round(hours * HOUR)).height == expected
    early = T0 + 4 * HOUR
    assert hot_spots(windows, RULES, JURISDICTION, early, raised={("Z1", "trash")}).is_empty()
    assert hot_spots(windows.clear(), RULES, JURISDICTION, early, raised={("Z1", "trash")}).is_empty()


def test_few_requests_are_no_hot_spot() -> None:
    """Below `min_count` nothing is raised, however unusual; at it, it is."""
    usual = _windows(list(range(0, 20_000, 100)), "Z1", "trash")
    end = T0 + 20_000 * MINUTE
    for count, expected in ((5, 0), (6, 1)):
        rare = _windows([19_990] * count, "Z2", "water")
        assert hot_spots(pl.concat((usual, rare)), RULES, JURISDICTION, end).height == expected


def test_windows_beyond_the_instant_and_without_a_zone_are_passed_over() -> None:
    """Rows from `end_ms` on do not count, nor do requests that lie in no zone."""
    usual = _windows(list(range(0, 20_000, 100)), "Z1", "trash")
    end = T0 + 20_000 * MINUTE
    later = _windows([20_000] * 50, "Z2", "water")
    nowhere = _windows([19_990] * 50, "", "water").with_columns(pl.lit(None, pl.String).alias("zone_code"))
    assert hot_spots(pl.concat((usual, later, nowhere)), RULES, JURISDICTION, end).is_empty()


def test_order_and_granularity_do_not_matter() -> None:
    """Shuffled rows, and rows merged by the hour, give the same findings."""
    windows = pl.concat((_ordinary(4, 2), _windows([2_700] * 40, "Z1", "trash")))
    end = T0 + 48 * HOUR
    merged = (
        windows.with_columns(pl.col("window_start").dt.truncate("1h"))
        .group_by("window_start", "zone_code", "category")
        .agg(pl.col("count").sum())
    )
    expected = hot_spots(windows, RULES, JURISDICTION, end).select("zone_code", "category", "value")
    assert expected.height == 1
    for other in (windows.sample(fraction=1, shuffle=True, seed=1), merged):
        assert hot_spots(other, RULES, JURISDICTION, end).select("zone_code", "category", "value").equals(expected)


def test_needs_a_layer() -> None:
    """Without a layer the finding could name no zone: the error says where to set it."""
    with pytest.raises(ValueError, match=r"territory\.yaml"):
        hot_spots(_ordinary(1, 1), ReportHotSpot(), JURISDICTION, T0 + 24 * HOUR)
    assert hot_spots(_ordinary(1, 1), ReportHotSpot(), JURISDICTION, T0 + 24 * HOUR, layer="iris").is_empty()


@pytest.mark.parametrize(
    ("count", "expected", "tail"),
    [
        (0, 3.0, 1.0),
        (1, 0.0, 0.0),
        (1, 2.0, 1 - math.exp(-2)),
        (2, 2.0, 1 - 3 * math.exp(-2)),
        (6, 0.5, 1.4165e-05),
        (20, 2.0, 4.1805e-14),
    ],
)
def test_poisson_tail(count: int, expected: float, tail: float) -> None:
    """The upper tail agrees with closed forms and published tables, far into the tail."""
    assert poisson_tail(count, expected) == pytest.approx(tail, rel=1e-4)


def test_poisson_tail_is_one_minus_the_rest() -> None:
    """Both ways of summing agree where they meet, and the tail falls with the count."""
    for mean in (0.3, 4.0, 60.0):
        tails = [poisson_tail(count, mean) for count in range(100)]
        assert tails == sorted(tails, reverse=True)
        for count in range(99):
            step = math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))
            assert tails[count] - tails[count + 1] == pytest.approx(step, abs=1e-12)
    with pytest.raises(ValueError, match="finite"):
        poisson_tail(3, math.inf)
