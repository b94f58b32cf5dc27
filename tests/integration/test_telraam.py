"""A real year of hourly counts through the whole worker: both nights of the clock, blind hours, exact sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from streams.territory.files import write
from tests.support.pipeline import broker_in_process, rows, send, succeeded, vigie
from tests.support.telraam import MOBILITY, STATIONS, TIMEZONE, Hour, hours, records, territory

pytestmark = [pytest.mark.integration, pytest.mark.real_data]

_PARIS: Final = ZoneInfo(TIMEZONE)
_STEP: Final = Decimal("0.01")
#: A year that passed long ago is not a broken clock here.
_MAX_AGE_DAYS: Final = 36_500

_STORED: Final = "SELECT count(), countIf(count IS NULL), countIf(count = 0), countIf(late) FROM events_roadway"
_BLIND: Final = (
    "SELECT count(), countIf(count IS NULL), countIf(speed_kmh IS NULL) FROM events_roadway WHERE uptime_ratio = 0"
)
_REFUSED: Final = "SELECT reason, count() FROM rejects GROUP BY reason"
#: Hours by station and local day, from the windows of the cars' events.
_LOCAL_DAYS: Final = f"""
SELECT zone_code, toString(toDate(window_start, '{TIMEZONE}')), toInt64(sum(count)), uniqExact(window_start)
FROM windows WHERE metric = 'traffic.car.events' GROUP BY 1, 2
"""
#: Whole steps of the count's resolution, and how many counts were summed, by station and mobility type.
_SUMS: Final = """
SELECT zone_code, metric, toInt64(sum(sum)), toInt64(sum(count)), any(resolution)
FROM window_rows FINAL WHERE endsWith(metric, '.count') GROUP BY 1, 2
"""
#: The same as readers see it.
_VIEW: Final = "SELECT zone_code, metric, sum(sum) FROM windows WHERE endsWith(metric, '.count') GROUP BY 1, 2"


@dataclass(frozen=True)
class Answers:
    """What ClickHouse says after a run."""

    stored: tuple[Any, ...]
    blind: tuple[Any, ...]
    refused: dict[str, int]
    local_days: dict[tuple[str, str], tuple[int, int]]
    sums: dict[tuple[str, str], tuple[int, int, float]]
    view: dict[tuple[str, str], float]


def run(found: Iterable[Hour], folder: Path) -> Answers:
    """The hours through the worker into ClickHouse."""
    write(territory(), folder / "territory")
    with broker_in_process() as bootstrap:
        send(records(found), bootstrap)
        settings = {
            "kafka_bootstrap": bootstrap,
            "clickhouse_url": f"chdb://{folder / 'clickhouse'}",
            "territories": folder / "territory",
            "max_age_days": _MAX_AGE_DAYS,
            "log_batches": "false",
        }
        succeeded(vigie("worker", "--until-caught-up", folder=folder, settings=settings))
    stored, blind, refused, days, sums, view = rows(
        folder / "clickhouse", _STORED, _BLIND, _REFUSED, _LOCAL_DAYS, _SUMS, _VIEW
    )
    return Answers(
        stored=stored[0],
        blind=blind[0],
        refused=dict(refused),
        local_days={(zone, day): (events, windows) for zone, day, events, windows in days},
        sums={(zone, metric): (steps, count, step) for zone, metric, steps, count, step in sums},
        view={(zone, metric): total for zone, metric, total in view},
    )


def local_day(hour: Hour) -> str:
    return str(hour.start.astimezone(_PARIS).date())


@pytest.fixture(scope="module")
def year() -> list[Hour]:
    return hours()


@pytest.fixture(scope="module")
def answers(year: list[Hour], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return run(year, tmp_path_factory.mktemp("telraam"))


def test_every_row_is_stored(year: list[Hour], answers: Answers) -> None:
    """16 729 hours are 66 916 events: none refused, none a duplicate, none late."""
    assert len(year) == 16_729
    events, _, _, late = answers.stored
    assert events == len(year) * len(MOBILITY) == 66_916
    assert answers.refused == {}
    assert late == 0


def test_blind_is_missing_not_zero(year: list[Hour], answers: Answers) -> None:
    """7 424 hours in which the camera saw nothing have no count, though the file says 0; true zeros stay zeros."""
    blind = [hour for hour in year if hour.uptime == 0]
    assert len(blind) == 7_424
    assert all(count == 0 for hour in blind for count in hour.counts.values()), "the file says 0"
    events = len(blind) * len(MOBILITY)
    assert answers.blind == (events, events, events)
    _, nulls, zeros, _ = answers.stored
    assert nulls == events
    assert zeros == sum(count == 0 for hour in year if hour.uptime > 0 for count in hour.counts.values()) > 0
    counted = sum(count for _, count, _ in answers.sums.values())
    assert counted == (len(year) - len(blind)) * len(MOBILITY), "blind hours add nothing to the windows' counts"


def test_days_of_the_clock(year: list[Hour], answers: Answers) -> None:
    """Each local day has the hours the file has; the day the clock goes forward 23, the day it goes back 25."""
    expected = Counter((STATIONS[hour.station], local_day(hour)) for hour in year)
    assert answers.local_days == {place: (count, count) for place, count in expected.items()}
    for zone in STATIONS.values():
        assert answers.local_days[zone, "2022-03-27"] == (23, 23)
        assert answers.local_days[zone, "2022-10-30"] == (25, 25)
    full = Counter(count for count, _ in answers.local_days.values())
    assert max(count for place, (count, _) in answers.local_days.items() if place[1] != "2022-10-30") == 24
    assert full[24] > 600, "most days have all their hours"


def test_exact_sums(year: list[Hour], answers: Answers) -> None:
    """A year's sum by station and mobility type is that of the file's decimals, each rounded to 0.01 (half to even)."""
    steps: Counter[tuple[str, str]] = Counter()
    number: Counter[tuple[str, str]] = Counter()
    for hour in year:
        if hour.uptime == 0:
            continue
        for mobility, count in hour.counts.items():
            place = (STATIONS[hour.station], f"traffic.{mobility}.count")
            steps[place] += int((count / _STEP).to_integral_value(ROUND_HALF_EVEN))
            number[place] += 1
    assert answers.sums == {place: (steps[place], number[place], float(_STEP)) for place in steps}
    assert len(steps) == len(STATIONS) * len(MOBILITY)
    for place, total in answers.view.items():
        assert total == pytest.approx(steps[place] / 100, rel=1e-12)


def test_upstream_duplicates(tmp_path: Path) -> None:
    """Taken as it is written, 2022-10-30 has one hour twice: the repeat is a duplicate, and the day has 24 hours.

    The rows of a day before and after are enough to see it.
    """
    night = datetime(2022, 10, 30, 1, tzinfo=UTC)
    near = [hour for hour in hours(mended=False) if abs(hour.start - night) < timedelta(days=1)]
    found = run(near, tmp_path)
    repeated = len(STATIONS) * len(MOBILITY)
    assert found.refused == {"duplicate": repeated}
    assert found.stored[0] == len(near) * len(MOBILITY) - repeated
    for zone in STATIONS.values():
        assert found.local_days[zone, "2022-10-30"] == (24, 24)
