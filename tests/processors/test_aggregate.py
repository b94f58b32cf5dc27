"""The stage `aggregate`: exact totals per minute, zone and metric, whatever the order of the events or their cut."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import polars as pl
import pytest

from processors import aggregate
from processors.aggregate import EVENTS, RECEIVED, WINDOW_SCHEMA, Codes, Windows
from processors.locate import ZoneSets
from processors.quality import failed_bit
from schemas.contracts import DOMAINS, Domain, contract_of
from tests.support.batches import DAY, MINUTE, RECEIVED_MS, frame, raw_bytes
from tests.support.batches import event as ordinary
from tests.support.city import CITY, TOWN, ms

#: The zone sets that the tests use: number → (authority, code by layer).
_SETS: Final[Sequence[tuple[str, tuple[str, str]]]] = (
    (CITY, ("", "")), (CITY, ("Q1", "S1")), (CITY, ("Q2", "S1")), (CITY, ("", "S2")), (TOWN, ("Q1", "S1")),
)  # fmt: skip
_LAYERS: Final = ("quarter", "sector")
_KEY: Final = ("window_start", "jurisdiction_id", "layer", "zone_code", "metric")


def windows() -> Windows:
    sets = ZoneSets()
    sets.add_territory(CITY, _LAYERS)
    for jurisdiction, codes in _SETS[1:4]:
        sets.number(jurisdiction, codes)
    sets.add_territory(TOWN, _LAYERS)
    numbers = [sets.number(jurisdiction, codes) for jurisdiction, codes in _SETS]
    assert numbers[:4] == [0, 1, 2, 3]
    # The second authority has a "no zone" set of its own between them.
    return Windows(Codes(sets))


def set_number(index: int) -> int:
    return index if index < 4 else 5


@dataclass
class Row:
    """One stored event: whole steps of each metric, and what the stages before have said of it."""

    at: int
    zone_set: int = 1
    kind: str = "bin"
    late: bool = False
    steps: Mapping[str, int | None] = field(default_factory=dict)
    failed: Sequence[str] = ()
    status: str = "received"


def stored(rows: Sequence[Row], domain: Domain = "sensor") -> pl.DataFrame:
    """The rows as the frame that `lateness` leaves."""
    contract = contract_of(domain)
    resolutions = {f.name: Fraction(str(f.resolution)) for f in contract.metrics}
    nothing = {f.name: None for f in contract.metrics}
    values: list[dict[str, Any]] = []
    for row in rows:
        value = ordinary(domain) | nothing | {"observed_at": row.at}
        if domain == "report":
            value["status"] = row.status
        for name, steps in row.steps.items():
            exact = None if steps is None else resolutions[name] * steps
            whole = contract.field(name).dtype == pl.Int64()
            value[name] = exact if exact is None else int(exact) if whole else float(exact)
        values.append(value)
    failed = [sum(failed_bit(contract, name) for name in row.failed) for row in rows]
    return frame(values, domain).with_columns(
        pl.Series("zone_set", [set_number(row.zone_set) for row in rows], pl.UInt32),
        pl.Series("kind", [row.kind for row in rows], pl.String),
        pl.Series("late", [row.late for row in rows], pl.Boolean),
        pl.Series("failed", failed, pl.UInt64),
    )


def totals(rows: Sequence[Row], domain: Domain = "sensor", cut: int | None = None) -> pl.DataFrame:
    """Window rows of these events, added in batches of `cut`, in order of their keys: as taken, they have none."""
    made, all_rows = windows(), stored(rows, domain)
    size = cut or max(1, len(rows))
    for start in range(0, len(rows), size):
        made.add(all_rows.slice(start, size), contract_of(domain), domain)
    return made.take_changed().sort(*_KEY)


def by_hand(rows: Sequence[Row], domain: Domain = "sensor") -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Key → count, late, sum, sum of squares, minimum, maximum, last, last_at; in whole numbers, row by row."""
    values: dict[tuple[Any, ...], list[tuple[int, int, bool]]] = defaultdict(list)
    for row in rows:
        said = {name: steps for name, steps in row.steps.items() if steps is not None and name not in row.failed}
        said[EVENTS] = 0
        if domain == "report" and row.status == "received":
            said[RECEIVED] = 0
        jurisdiction, codes = _SETS[row.zone_set]
        for layer, code in zip(_LAYERS, codes, strict=True):
            for name, steps in said.items():
                key = (row.at - row.at % MINUTE, jurisdiction, layer, code, f"{row.kind}.{name}")
                values[key].append((row.at, steps, row.late))
    out = {}
    for key, found in values.items():
        numbers = [number for _, number, _ in found]
        last_at, last = max((at, number) for at, number, _ in found)
        out[key] = (
            len(found), sum(late for _, _, late in found), sum(numbers), sum(number * number for number in numbers),
            min(numbers), max(numbers), last, last_at,
        )  # fmt: skip
    return out


def as_keyed(made: pl.DataFrame) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    columns = [*_KEY, "count", "late", "sum", "sum_squares", "minimum", "maximum", "last", "last_at"]
    plain = made.select(columns).with_columns(pl.col("window_start", "last_at").dt.epoch("ms"))
    keyed = {row[: len(_KEY)]: row[len(_KEY) :] for row in plain.iter_rows()}
    assert len(keyed) == len(made), "one row per window, zone and metric"
    return keyed


def drawn(count: int, seed: int, domain: Domain = "sensor") -> list[Row]:
    """Random events over two midnights: negative values, ties in time, nulls and failed measures, few windows."""
    rng = random.Random(seed)
    metrics = contract_of(domain).metrics
    start = ms("2026-09-14T23:58:00")
    kinds = {
        "sensor": ("bin", "weather"), "lighting": ("lamp",), "roadway": ("traffic.car", "pavement"),
        "report": ("trash", "noise"),
    }  # fmt: skip
    rows = []
    for _ in range(count):
        steps: dict[str, int | None] = {}
        for f in rng.sample(metrics, k=min(len(metrics), 5)):
            assert f.minimum is not None
            assert f.maximum is not None
            assert f.resolution is not None
            low, high = round(f.minimum / f.resolution), round(f.maximum / f.resolution)
            edges = (low, high, max(low, -1), 0 if low <= 0 else low)
            steps[f.name] = rng.choice((None, rng.choice(edges), rng.randint(low, high)))
        rows.append(
            Row(
                at=start + rng.choice((0, 1, 59_999, rng.randrange(4 * MINUTE))) + rng.choice((0, 0, 0, DAY)),
                zone_set=rng.randrange(5),
                kind=rng.choice(kinds[domain]),
                late=rng.random() < 0.2,
                steps=steps,
                failed=[name for name in steps if rng.random() < 0.1],
                status=rng.choice(("received", "done")),
            )
        )
    return rows


# --- exactness


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("is_dense", [False, True])
def test_totals_are_those_of_counting_by_hand(
    domain: Domain, seed: int, is_dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count, late, sum, sum of squares, least, greatest and last of each window, zone and metric: all exact, on either
    way to them."""
    monkeypatch.setattr(aggregate, "_is_dense", lambda read, plan: is_dense)
    rows = drawn(300, seed, domain)
    made = totals(rows, domain)
    assert dict(made.schema) == WINDOW_SCHEMA
    assert as_keyed(made) == by_hand(rows, domain)


@pytest.mark.parametrize(("count", "missing", "is_dense"), [(4_096, 0, True), (4_095, 0, False), (8_192, 8_000, False)])
def test_which_way_is_taken(count: int, missing: int, is_dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are grouped before their values where both are many; the totals are the same."""
    taken: list[bool] = []
    asked = aggregate._is_dense

    def told(*given: Any) -> bool:
        taken.append(asked(*given))
        return taken[-1]

    monkeypatch.setattr(aggregate, "_is_dense", told)
    names = ("power_w", "voltage_v", "current_a", "dimming_ratio")
    steps = [{name: row % 50 for name in names} if row >= missing else {} for row in range(count)]
    rows = [Row(RECEIVED_MS + 20 * row, steps=one) for row, one in enumerate(steps)]
    assert as_keyed(totals(rows, "lighting")) == by_hand(rows, "lighting")
    assert taken == [is_dense]


def test_sums_are_exact_decimals() -> None:
    """A tenth ten thousand times is a thousand: steps times resolution, without the rounding of floats."""
    rows = [Row(RECEIVED_MS, steps={"pm10_ug_m3": 1}) for _ in range(10_000)]
    (total,) = totals(rows).filter(metric="bin.pm10_ug_m3", layer="quarter").iter_rows(named=True)
    assert Fraction(total["sum"]) * Fraction(str(total["resolution"])) == 1_000


@pytest.mark.parametrize("domain", ["sensor", "lighting", "roadway"])
def test_each_value_is_off_by_half_a_step_at_most(domain: Domain) -> None:
    """A value between two steps goes to the nearer one: what a sum loses is known and small."""
    rng = random.Random(3)
    contract = contract_of(domain)
    for f in contract.metrics:
        if f.dtype == pl.Int64():
            continue
        assert f.minimum is not None
        assert f.maximum is not None
        resolution = Fraction(str(f.resolution))
        values = [rng.uniform(f.minimum, f.maximum) for _ in range(50)]
        rows = stored([Row(RECEIVED_MS)] * 50, domain).with_columns(pl.Series(f.name, values, pl.Float64))
        made = windows()
        made.add(rows, contract, domain)
        total = made.take_changed().filter(metric=f"bin.{f.name}", layer="quarter")["sum"][0]
        off = abs(total * resolution - sum(map(Fraction, values)))
        # The division by the resolution is itself rounded: a relative 2^-52 of the value.
        assert off <= 50 * resolution / 2 + Fraction(1, 10**6) * resolution, f.name


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_largest_values_of_a_whole_chunk_do_not_overflow(domain: Domain) -> None:
    """65 536 readings at the end of their ranges, squared and summed, still fit."""
    metrics = contract_of(domain).metrics
    steps = {f.name: round((f.maximum or 0) / (f.resolution or 1)) for f in metrics}
    made = windows()
    made.add(pl.concat([stored([Row(RECEIVED_MS, steps=steps)], domain)] * 65_536), contract_of(domain), domain)
    rows = made.take_changed().filter(layer="quarter").select("metric", "sum", "sum_squares").rows()
    expected = {f"bin.{name}": (65_536 * value, 65_536 * value**2) for name, value in steps.items()}
    assert {metric: sums for metric, *sums in rows if metric.split(".")[1] in steps} == {
        metric: list(sums) for metric, sums in expected.items()
    }


# --- order and cut


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_cut_of_the_batches_does_not_change_a_byte(domain: Domain) -> None:
    """Batches of 1, 7 and 5000 rows give the same rows, byte for byte."""
    rows = drawn(600, 9, domain)
    whole = raw_bytes(totals(rows, domain, cut=5_000))
    for size in (1, 7):
        assert raw_bytes(totals(rows, domain, cut=size)) == whole, size


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_order_of_the_events_does_not_change_totals(domain: Domain) -> None:
    """Shuffled events have the same totals; only which of them are late is a matter of order."""
    rows = drawn(600, 10, domain)
    mixed = rows.copy()
    random.Random(1).shuffle(mixed)
    assert raw_bytes(totals(mixed, domain, cut=50).drop("late")) == raw_bytes(totals(rows, domain).drop("late"))


def test_taking_in_between_does_not_change_what_is_there_at_the_end() -> None:
    """However often rows are taken, the newest of each are those of adding everything at once."""
    rows = drawn(400, 11)
    made, taken, start = windows(), [], 0
    frame_of_all, rng = stored(rows), random.Random(2)
    while start < len(rows):
        size = rng.randrange(1, 60)
        made.add(frame_of_all.slice(start, size), contract_of("sensor"), "sensor")
        start += size
        if rng.random() < 0.5:
            taken.append(made.take_changed())
    taken.append(made.take_changed())
    newest = pl.concat(taken).unique(_KEY, keep="last", maintain_order=True).sort(*_KEY)
    assert raw_bytes(newest) == raw_bytes(totals(rows))


# --- windows


def test_windows_begin_on_the_minute_and_end_before_the_next() -> None:
    """The last millisecond of a day and the first of the next are in different windows and different days."""
    midnight = ms("2026-09-15T00:00:00")
    made = totals([Row(midnight - 1), Row(midnight), Row(midnight + 59_999), Row(midnight + 60_000)])
    found = made.filter(layer="quarter", metric="bin.events").select(pl.col("window_start").dt.epoch("ms"), "count")
    assert found.rows() == [(midnight - MINUTE, 1), (midnight, 2), (midnight + MINUTE, 1)]


def test_last_is_the_latest_and_the_highest_of_equals() -> None:
    """Not the one that arrived last: among equal event times the highest value counts, negative ones too."""
    at = RECEIVED_MS
    rows = [
        Row(at + 5, steps={"temperature_c": -300}),
        Row(at + 5, steps={"temperature_c": -200}),
        Row(at + 5, steps={"temperature_c": -250}),
        Row(at + 4, steps={"temperature_c": 9_000}),
    ]
    made = totals(rows).filter(metric="bin.temperature_c", layer="quarter").row(0, named=True)
    assert (made["last"], made["minimum"], made["maximum"]) == (-200, -300, 9_000)
    assert made["last_at"].microsecond == 5_000


def test_every_event_is_counted_once_in_each_layer() -> None:
    """The sum of `events` over one layer, "no zone" included, is the number of stored events, failed ones too."""
    for domain in DOMAINS:
        rows = drawn(500, 21, domain)
        made = totals(rows, domain).filter(pl.col("metric").str.ends_with(".events"))
        assert dict(made.group_by("layer").agg(pl.col("count").sum()).iter_rows()) == {"quarter": 500, "sector": 500}
        assert made.filter(zone_code="")["count"].sum() > 0


def test_new_requests_are_counted_apart() -> None:
    """`received` counts the step that opens a request; the other steps are events only."""
    rows = [Row(RECEIVED_MS, kind="trash", status=status) for status in ("received", "done", "received", "assigned")]
    made = totals(rows, "report").filter(layer="quarter").select("metric", "count").rows()
    assert sorted(made) == [("trash.events", 4), ("trash.received", 2)]


# --- what is taken


def test_only_changed_rows_are_taken_and_whole() -> None:
    """A flush writes what changed since the last one, as new totals that replace the old ones."""
    at = RECEIVED_MS
    made, contract = windows(), contract_of("sensor")
    rows = [Row(at, steps={"fill_level": 10}), Row(at + MINUTE, steps={"fill_level": 20})]
    made.add(stored(rows), contract, "sensor")
    assert len(made.take_changed().filter(layer="quarter")) == 4
    assert made.take_changed().is_empty()
    made.add(stored([Row(at, steps={"fill_level": 5})]), contract, "sensor")
    again = made.take_changed().filter(layer="quarter").select("metric", "count", "sum", "last").rows()
    assert sorted(again) == [("bin.events", 2, 0, 0), ("bin.fill_level", 2, 15, 10)]
    assert dict(made.take_changed().schema) == WINDOW_SCHEMA


def test_no_events_make_no_rows() -> None:
    """A batch of rejects leaves the windows as they are."""
    made = windows()
    made.add(stored([]), contract_of("sensor"), "sensor")
    assert made.take_changed().is_empty()


def test_a_chunk_of_reports_has_room_for_as_many_categories() -> None:
    """Service codes are the city's own business: 65 536 different ones in one chunk are counted like any other."""
    count = 65_536
    reports = stored([Row(RECEIVED_MS)], "report")
    reports = pl.concat([reports] * count).with_columns(pl.Series("kind", [f"c{i}" for i in range(count)]))
    made = windows()
    made.add(reports, contract_of("report"), "report")
    rows = made.take_changed().filter(layer="quarter")
    assert rows["metric"].n_unique() == 2 * count
    assert rows["count"].sum() == 2 * count
