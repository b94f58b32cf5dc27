"""The stage `validate`: who is refused and why, and how far the values of the rest are trusted."""

from __future__ import annotations

import math
from typing import Any, Final

import polars as pl
import pytest

from processors.quality import Quality, failed_bit, usable
from processors.validate import REMARK_SCHEMA, STAGE, ClockLimits, remarks, validate
from schemas.contracts import DOMAINS, Domain, Field, contract_of, examples
from schemas.rejects import Reason
from tests.support.batches import DAY, MINUTE, RECEIVED_MS, event, frame
from tests.support.city import CITY, TOWN

LIMITS: Final = ClockLimits(max_future_ms=5 * MINUTE, max_age_ms=400 * DAY)
EPOCH_MS: Final = 946_684_800_000  # 2000-01-01

_SUMMED: Final = [(domain, f) for domain in DOMAINS for f in contract_of(domain).metrics]
every_metric = pytest.mark.parametrize(("domain", "field"), _SUMMED, ids=lambda v: getattr(v, "name", v))
every_domain = pytest.mark.parametrize("domain", DOMAINS)


def judged(
    *values: dict[str, Any], domain: Domain = "sensor", received_ms: int | list[int] = RECEIVED_MS
) -> tuple[pl.DataFrame, list[tuple[int, str, str]]]:
    """Events, and (row, reason, detail) of each reject."""
    events, refused = validate(frame(values, domain, received_ms), contract_of(domain), domain, (CITY, TOWN), LIMITS)
    assert refused["stage"].to_list() == [STAGE] * len(refused)
    return events, sorted((row, reason, detail) for row, _, reason, detail in refused.iter_rows())


def reason_of(domain: Domain = "sensor", **changes: Any) -> tuple[str, str] | None:
    """Reason and detail of the refusal of one event with these changes; None when it is taken."""
    received_ms = changes.pop("received_ms", RECEIVED_MS)
    events, refused = judged(event(domain, **changes), domain=domain, received_ms=received_ms)
    assert len(events) + len(refused) == 1
    return refused[0][1:] if refused else None


def quality_of(domain: Domain = "sensor", **changes: Any) -> int:
    events, _ = judged(event(domain, **changes), domain=domain)
    return int(events["quality"][0])


# --- refusals


@every_domain
def test_an_ordinary_event_is_taken(domain: Domain) -> None:
    """Nothing is refused without a reason, and the stage adds a kind, a quality and the failed bits."""
    events, refused = judged(event(domain), domain=domain)
    assert not refused
    assert events.schema["kind"] == pl.String()
    assert events.schema["quality"] == pl.UInt8()
    assert events.schema["failed"] == pl.UInt64()


_TEXTS: Final = [
    (domain, f) for domain in DOMAINS for f in contract_of(domain).fields if f.dtype == pl.String() and not f.symbols
]
every_text = pytest.mark.parametrize(("domain", "field"), _TEXTS, ids=lambda v: getattr(v, "name", v))


@every_text
def test_texts_have_at_most_128_characters(domain: Domain, field: Field) -> None:
    """Every text of every contract is bounded, counted in characters and not in bytes; the detail names the field."""
    too_long = (Reason.CONTRACT, f"{field.name} is longer than 128 characters")
    assert reason_of(domain, **{field.name: "é" * 129}) == too_long
    if field.pattern is None:
        assert reason_of(domain, **{field.name: "é" * 128}) is None


@every_text
def test_required_texts_are_not_empty(domain: Domain, field: Field) -> None:
    """An empty identifier identifies nothing; only a report may leave out its asset; optional texts may be empty."""
    reason = reason_of(domain, **{field.name: ""})
    if field.name == "asset_id" and domain == "report":
        assert reason is None
    elif not field.nullable:
        assert reason == (Reason.CONTRACT, f"{field.name} is empty")
    elif field.pattern:
        assert reason == (Reason.CONTRACT, f"{field.name} does not match {field.pattern}")
    else:
        assert reason is None


@pytest.mark.parametrize(
    "value", ["12345678", "1234567890", "99999999a", "999999999\n", "٩٩٩٩٩٩٩٩٩", "999 999 99", "-99999999"]
)
def test_the_authority_is_nine_digits(value: str) -> None:
    """What does not look like a SIREN breaks the contract, before anybody asks whose it is."""
    reason = reason_of(jurisdiction_id=value)
    assert reason is not None
    assert reason[0] == Reason.CONTRACT
    assert "jurisdiction_id" in reason[1]


def test_an_authority_that_is_not_ours_is_refused() -> None:
    """Each authority has its own territory; a stranger's events are not counted anywhere."""
    reason = reason_of(jurisdiction_id="123456789")
    assert reason is not None
    assert reason[0] == Reason.UNKNOWN_JURISDICTION
    assert reason_of(jurisdiction_id=TOWN) is None


@pytest.mark.parametrize(
    ("observed_ms", "reason"),
    [
        (RECEIVED_MS + 5 * MINUTE, None),
        (RECEIVED_MS + 5 * MINUTE + 1, Reason.FUTURE),
        (RECEIVED_MS - 400 * DAY, None),
        (RECEIVED_MS - 400 * DAY - 1, Reason.QUALITY),
        (EPOCH_MS - 1, Reason.QUALITY),
        (0, Reason.QUALITY),
        (-1, Reason.QUALITY),
        (2**63 - 1, Reason.FUTURE),
        (-(2**63), Reason.QUALITY),
    ],
)
def test_clocks_are_judged_against_the_brokers_time(observed_ms: int, reason: Reason | None) -> None:
    """The limits are exact to the millisecond: 5 minutes ahead and 400 days behind are taken, one more is not."""
    found = reason_of(observed_at=observed_ms)
    assert (found and found[0]) == reason


def test_the_year_2000_is_the_first_one_believed() -> None:
    """The first millisecond of 2000 is taken from a broker of that day, the one before it is a dead battery's clock."""
    assert reason_of(received_ms=EPOCH_MS, observed_at=EPOCH_MS) is None
    assert reason_of(received_ms=EPOCH_MS, observed_at=EPOCH_MS - 1) == (
        Reason.QUALITY, "observed_at is before 2000-01-01",
    )  # fmt: skip


def test_each_row_is_held_against_its_own_arrival() -> None:
    """A replayed batch is judged as it was when it was live: by the broker's time of each record."""
    old = RECEIVED_MS - 1_000 * DAY
    events, refused = judged(event(observed_at=old), event(observed_at=old), received_ms=[old, RECEIVED_MS])
    assert events["row"].to_list() == [0]
    assert [(row, reason) for row, reason, _ in refused] == [(1, Reason.QUALITY)]


def test_the_first_reason_that_holds_is_given() -> None:
    """A row that breaks several rules has one reason: contract in field order, authority, then its clock."""
    wrong: dict[str, Any] = {"event_id": "", "source": "", "jurisdiction_id": "1", "observed_at": 0}
    assert reason_of(**wrong) == (Reason.CONTRACT, "event_id is empty")
    del wrong["event_id"]
    assert reason_of(**wrong) == (Reason.CONTRACT, "source is empty")
    del wrong["source"]
    assert reason_of(**wrong) == (Reason.CONTRACT, "jurisdiction_id does not match ^[0-9]{9}$")
    wrong["jurisdiction_id"] = "123456789"
    found = reason_of(**wrong)
    assert found is not None
    assert found[0] == Reason.UNKNOWN_JURISDICTION
    wrong["jurisdiction_id"] = CITY
    assert reason_of(**wrong) == (Reason.QUALITY, "observed_at is before 2000-01-01")


def test_refused_rows_keep_their_number_and_do_not_touch_their_neighbours() -> None:
    """`row` of a reject is its record's index in the batch, and the others are judged as if it were not there."""
    values = [
        event(event_id="a"), event(event_id=""), event(event_id="c"), event(observed_at=0), event(event_id=""),
    ]  # fmt: skip
    events, refused = judged(*values)
    assert events["row"].to_list() == [0, 2]
    assert [(row, reason) for row, reason, _ in refused] == [
        (1, Reason.CONTRACT), (3, Reason.QUALITY), (4, Reason.CONTRACT),
    ]  # fmt: skip
    alone, _ = judged(values[2])
    assert events.drop("row", "offset").row(1) == alone.drop("row", "offset").row(0)


def test_details_never_hold_values() -> None:
    """A reject's text names field and rule; the value could be somebody's data."""
    secret = "jeanne.martin@example.org"
    for name in ("reporter_pseudonym", "service_code"):
        found = reason_of("report", **{name: secret})
        assert found is not None
        assert secret not in found[1]
        assert name in found[1]


def test_an_empty_frame_stays_empty() -> None:
    """No rows, no events, no rejects, and the columns the next stages need are there."""
    events, refused = validate(frame([]), contract_of("sensor"), "sensor", (CITY,), LIMITS)
    assert events.is_empty()
    assert refused.is_empty()
    assert {"kind", "quality", "failed"} <= set(events.columns)


# --- flags


def _wrong_values(field: Field) -> list[float]:
    assert field.minimum is not None
    assert field.maximum is not None
    out = [field.minimum - 1, field.maximum + 1]
    return out if field.dtype == pl.Int64() else [*out, math.nan, math.inf, -math.inf]


@every_metric
def test_implausible_values_are_flagged_and_kept_out_of_sums(domain: Domain, field: Field) -> None:
    """Below, above, NaN and infinity: stored as FAIL, exactly the metric's bit is set, and `usable` is null."""
    contract = contract_of(domain)
    wrong = _wrong_values(field)
    events, refused = judged(
        *(event(domain, event_id=str(i), **{field.name: v}) for i, v in enumerate(wrong)), domain=domain
    )
    assert not refused
    assert events["quality"].to_list() == [Quality.FAIL] * len(wrong)
    assert events["failed"].to_list() == [failed_bit(contract, field.name)] * len(wrong)
    assert events.select(usable(contract, field.name))[field.name].null_count() == len(wrong)
    kept = [float(v) if math.isfinite(v) else None for v in wrong]
    assert events[field.name].cast(pl.Float64).to_list() == kept


@every_metric
def test_the_bounds_themselves_are_plausible(domain: Domain, field: Field) -> None:
    """A full bin is 1 and an empty one 0: neither fails."""
    contract = contract_of(domain)
    edges = [field.minimum, field.maximum]
    events, _ = judged(*(event(domain, event_id=str(i), **{field.name: v}) for i, v in enumerate(edges)), domain=domain)
    assert events["quality"].to_list() == [Quality.GOOD] * 2
    assert events["failed"].to_list() == [0, 0]
    assert events.select(usable(contract, field.name))[field.name].to_list() == edges


def test_one_failed_measure_does_not_spoil_the_others_of_its_row() -> None:
    """The worst flag is the event's, but a bin whose thermometer is broken still says how full it is."""
    contract = contract_of("sensor")
    events, _ = judged(event(fill_level=0.5, temperature_c=-999.0, battery_ratio=2.0))
    assert events["quality"].to_list() == [Quality.FAIL]
    assert events["failed"][0] == failed_bit(contract, "temperature_c") | failed_bit(contract, "battery_ratio")
    measured = events.select(usable(contract, name) for name in ("fill_level", "temperature_c", "battery_ratio"))
    assert measured.row(0) == (0.5, None, None)


def test_bits_belong_to_measures_in_contract_order() -> None:
    """The bit of a measure is its place among the measures, as the DDL says, summed or not; a text has none."""
    for domain in DOMAINS:
        contract = contract_of(domain)
        count = len(contract.measures)
        assert [failed_bit(contract, f.name) for f in contract.measures] == [1 << i for i in range(count)]
        assert set(contract.metrics) <= set(contract.measures)
        assert count <= 64
    with pytest.raises(ValueError, match="asset_id"):
        failed_bit(contract_of("sensor"), "asset_id")


def test_a_measure_that_is_not_summed_is_judged_too() -> None:
    """A drop-off point that sends only a raw distance is GOOD, and FAIL when the distance cannot be."""
    assert quality_of(fill_level=None, distance_mm=800.0) == Quality.GOOD
    assert quality_of(fill_level=None, distance_mm=65_535.0) == Quality.FAIL


def test_quality_of_rows_without_a_measure() -> None:
    """A sensor that measured nothing is MISSING; a lamp's state or a report says something without a number."""
    assert quality_of(fill_level=None) == Quality.MISSING
    assert quality_of("roadway", count=None) == Quality.MISSING
    assert quality_of("lighting", power_w=None) == Quality.UNKNOWN
    assert quality_of("report") == Quality.UNKNOWN
    assert quality_of(fill_level=0.0) == Quality.GOOD


def test_a_measure_that_is_not_a_number_is_missing_after_it_has_failed() -> None:
    """NaN is stored as null, so that no sum, comparison or JSON body meets it, and coordinates too."""
    events, _ = judged(event(fill_level=math.nan, longitude=math.nan, latitude=math.inf, distance_mm=-math.inf))
    row = events.select("fill_level", "longitude", "latitude", "distance_mm").row(0)
    assert row == (None, None, None, None)
    assert events["quality"][0] == Quality.FAIL


@pytest.mark.parametrize(
    ("uptime", "count"), [(0.0, None), (0.001, 0.0), (1.0, 0.0), (None, 0.0), (-0.5, None), (math.nan, 0.0)]
)
def test_a_blind_counter_counted_nothing(uptime: float | None, count: float | None) -> None:
    """Uptime 0 makes the count missing, whatever it says; a count of 0 with any uptime stays a count."""
    one = event("roadway", count=0.0, speed_kmh=0.0, occupancy_ratio=0.0, uptime_ratio=uptime)
    events, _ = judged(one, domain="roadway")
    assert events.select("count", "speed_kmh", "occupancy_ratio").row(0) == (count, count, count)


@pytest.mark.parametrize(
    ("domain", "changes", "kind"),
    [
        ("sensor", {"sensor_type": "footfall"}, "footfall"),
        ("sensor", {"sensor_type": "unknown"}, "unknown"),
        ("lighting", {}, "lamp"),
        ("roadway", {"observation_type": "traffic", "mobility_type": "bicycle"}, "traffic.bicycle"),
        ("roadway", {"observation_type": "pavement", "mobility_type": "bicycle"}, "pavement"),
        ("roadway", {"observation_type": "closure"}, "closure"),
        ("report", {"service_code": "graffiti"}, "graffiti"),
    ],
)
def test_kind_says_what_sort_of_thing_speaks(domain: Domain, changes: dict[str, Any], kind: str) -> None:
    """Each domain names its metrics in its own way: sensor type, lamp, what is counted, category of the request."""
    events, _ = judged(event(domain, **changes), domain=domain)
    assert events["kind"].to_list() == [kind]


# --- everything there is to say


def test_remarks_name_every_rule_that_a_row_breaks() -> None:
    """For whoever mends a record: not the first refusal alone, and what is stored with a flag beside it."""
    rows = frame(
        [
            event(),
            event(event_id="", jurisdiction_id="1", observed_at=0, fill_level=62.0, temperature_c=math.nan),
            event(source="s" * 129, observed_at=RECEIVED_MS + DAY),
        ]
    )
    found = remarks(rows, contract_of("sensor"), "sensor", [CITY], ClockLimits())
    assert found.schema == REMARK_SCHEMA
    assert sorted(found.select("row", "field", "rule", "reason").rows(), key=str) == sorted(
        [
            (1, "event_id", "empty", "contract"),
            (1, "jurisdiction_id", "pattern", "contract"),
            (1, "jurisdiction_id", "jurisdiction", "unknown_jurisdiction"),
            (1, "observed_at", "past", "quality"),
            (1, "observed_at", "past", "quality"),
            (1, "fill_level", "range", None),
            (1, "temperature_c", "not_a_number", None),
            (2, "source", "length", "contract"),
            (2, "observed_at", "future", "future"),
        ],
        key=str,
    )


@every_domain
def test_remarks_agree_with_the_verdict(domain: Domain) -> None:
    """A row is refused exactly when a remark has a reason, for the first of them; flagged exactly when one has none."""
    contract = contract_of(domain)
    blank = {f.name: f.symbols[0] if f.symbols else None for f in contract.fields}
    shown = [*examples(contract.name, "good"), *examples(contract.name, "bad")]
    rows = frame([blank | example["value"] for example in shown if "value" in example], domain)
    events, refused = validate(rows, contract, domain, [CITY], ClockLimits())
    found = remarks(rows, contract, domain, [CITY], ClockLimits())
    against = found.filter(pl.col("reason").is_not_null())
    first = against.unique("row", keep="first", maintain_order=True).sort("row")
    assert (
        first.select("row", "reason", "detail").rows() == refused.sort("row").select("row", "reason", "detail").rows()
    )
    flagged = found.join(against, on="row", how="anti")["row"].unique().sort().to_list()
    assert flagged == events.filter(pl.col("failed") != 0)["row"].sort().to_list()


def test_any_authority_is_ours_where_none_is_named() -> None:
    """Who checks a file without a territory is not told that every authority is unknown; a SIREN it must be."""
    rows = frame([event(jurisdiction_id="123456789"), event(jurisdiction_id="1")])
    events, refused = validate(rows, contract_of("sensor"), "sensor", None, ClockLimits())
    assert events["row"].to_list() == [0]
    assert refused["reason"].to_list() == ["contract"]
