"""Named queries on a bad day's database: what they say is what the stored rows say when read one by one."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
import shapely

from sinks.clickhouse import Sink
from sinks.queries import ask, query
from tests.streams.simulation.town import SIREN
from tests.support import samples
from tests.support.loaded import AWKWARD, END, GHOST, MUTE, NEIGHBOUR, SHARED, SOMEBODY, START, territories

Rows = list[dict[str, Any]]

_GIVEN: Final[dict[str, Any]] = {
    "since": START, "until": END, "now": END, "bucket_s": 900,
    "jurisdictions": [], "layer": "quartier", "districts": [],
}  # fmt: skip


def asked(sink: Sink, name: str, **changes: Any) -> Rows:
    """The rows of a query over the whole load, with these changes of its parameters."""
    given = _GIVEN | changes
    return ask(sink, name, **{key: given[key] for key in query(name).parameters})


def stored(sink: Sink, sql: str) -> list[tuple[Any, ...]]:
    return sink.rows(sql)


# --- versions, duplicates, chunks


def test_the_load_has_what_makes_reading_hard(loaded: Sink) -> None:
    """Rows that were written twice and not merged, two versions of a territory, several chunks' worth of owners."""
    for table in ("events_sensor", "rejects", "window_rows", "alert_transitions", "asset_state"):
        ((rows, merged),) = stored(loaded, f"SELECT count(), (SELECT count() FROM {table} FINAL) FROM {table}")
        assert rows > merged, table
    assert stored(loaded, f"SELECT uniqExact(territory_version) FROM zones WHERE jurisdiction_id = '{SIREN}'") == [(2,)]


def test_names_are_those_of_the_newest_territory(loaded: Sink) -> None:
    """A district that was renamed has its new name everywhere, and one name."""
    told = [row["text"] for row in asked(loaded, "districts", jurisdictions=[SIREN])]
    assert told == sorted({zone for layer, zone in _zones() if layer == "quartier"})
    assert not any("former" in str(row) for row in asked(loaded, "service_levels"))


def _zones(jurisdiction: str = SIREN) -> list[tuple[str, str]]:
    return list(territories()[jurisdiction].zones.select("layer", "name").iter_rows())


def test_assets_that_left_the_registry_are_not_supervised(loaded: Sink) -> None:
    """The newest registry counts, and only what it holds or what speaks."""
    registered = {row["source"]: row["registered"] for row in asked(loaded, "data_age", jurisdictions=[SIREN])}
    wanted = Counter(territories()[SIREN].assets.select("domain", "kind").iter_rows())
    assert {f"{domain} / {kind}": count for (domain, kind), count in wanted.items()} == {
        source: count for source, count in registered.items() if source != "report"
    }


def test_reports_are_counted_once(loaded: Sink) -> None:
    """As many by category and district as requests were received, and as many over time."""
    received = stored(
        loaded,
        "SELECT jurisdiction_id, zones['quartier'], service_code, count() FROM events_report FINAL "
        f"WHERE status = 'received' AND observed_at >= '{START:%F %T}' GROUP BY 1, 2, 3",
    )
    wanted: Counter[tuple[str, str]] = Counter()
    for jurisdiction, zone, category, count in received:
        wanted[f"{zone or 'in no district'}, {jurisdiction}", category] += count
    counted = {(row["district"], row["category"]): row["reports"] for row in asked(loaded, "reports_by_category")}
    assert counted == wanted
    hours = asked(loaded, "reports_over_time", until=END + timedelta(hours=1))
    assert round(sum(row["per_hour"] for row in hours) / 4) == wanted.total()


def test_rejects_are_counted_once(loaded: Sink) -> None:
    """By reason and by detail as they are stored; duplicates are no curve, and a line of the table."""
    stored_rejects = dict(stored(loaded, "SELECT reason, count() FROM rejects FINAL GROUP BY reason"))
    by_detail: Counter[str] = Counter()
    for row in asked(loaded, "reject_reasons"):
        by_detail[row["reason"]] += row["records"]
    over_time: Counter[str] = Counter()
    for row in asked(loaded, "rejects_over_time"):
        over_time[row["reason"]] += row["rejected"]
    assert by_detail == stored_rejects
    assert by_detail.pop("duplicate") > 0
    assert over_time == by_detail


def test_means_are_those_of_the_readings(loaded: Sink) -> None:
    """Summed over kinds, chunks and owners: the mean of a quarter of an hour is that of its stored events."""
    readings = stored(
        loaded,
        "SELECT toStartOfInterval(observed_at, INTERVAL 900 SECOND), zones['quartier'], avg(fill_level) "
        f"FROM events_sensor FINAL WHERE jurisdiction_id = '{SIREN}' AND kind IN ('bin', 'drop_off') "
        "AND fill_level BETWEEN 0 AND 1 "
        f"AND observed_at >= '{START:%F %T}' GROUP BY 1, 2",
    )
    wanted = {(at, zone or "in no district"): mean for at, zone, mean in readings}
    metrics = ["bin.fill_level", "drop_off.fill_level"]
    found = asked(loaded, "means_by_district", jurisdictions=[SIREN], metrics=metrics)
    assert {(row["time"], row["district"]) for row in found} == wanted.keys()
    for row in found:
        # A window keeps whole steps of 0.0001.
        assert row["mean"] == pytest.approx(wanted[row["time"], row["district"]], abs=1e-4)


def test_passages_are_those_of_whole_hours(loaded: Sink) -> None:
    """What all counters counted in each hour, once; the last hour only when the counts of its end have come."""
    counted = "kind LIKE 'traffic%' AND count IS NOT NULL AND mobility_type = 'vehicle'"
    sql = (
        f"SELECT toStartOfHour(observed_at) AS hour, sum(count) FROM events_roadway FINAL WHERE {counted} GROUP BY hour"
    )
    whole = {_utc(hour): count for hour, count in stored(loaded, sql) if count > 0}
    hour = END.replace(minute=0, second=0, microsecond=0)
    for until, last in ((hour + timedelta(minutes=14), 1), (hour + timedelta(minutes=15), 0)):
        rows = asked(loaded, "hourly_by_metric", metrics=["traffic.vehicle.count"], bucket_s=3_600, until=until)
        found = {_utc(row["time"]): row["per_hour"] for row in rows}
        begin, end = START.replace(minute=0, second=0, microsecond=0), hour - timedelta(hours=last)
        assert found == {at: pytest.approx(count) for at, count in whole.items() if begin <= at < end}
        assert len(found) > 3


def test_curves_of_several_authorities_are_told_apart(loaded: Sink) -> None:
    """Two towns have a district of the same code: with both chosen each curve says whose it is."""
    both = {row["district"] for row in asked(loaded, "means_by_district", metrics=["lamp.power_w"], districts=[SHARED])}
    assert both == {f"{SHARED}, {SIREN}", f"{SHARED}, {NEIGHBOUR}"}
    one = {
        row["district"] for row in asked(loaded, "means_by_district", metrics=["lamp.power_w"], jurisdictions=[SIREN])
    }
    assert SHARED in one


# --- alerts and their places


def test_open_alerts_are_counted_listed_and_shown_alike(loaded: Sink) -> None:
    """The numbers on top are those of the list, the most severe stand first, and of equal ones the oldest."""
    rows = [row for row in asked(loaded, "open_alert_list") if row["state"] != "pending"]
    assert stored(loaded, "SELECT count() FROM alerts WHERE ends_at IS NULL AND state != 'pending'") == [(len(rows),)]
    (counts,) = asked(loaded, "open_alert_counts")
    severities = Counter(row["severity"] for row in rows)
    assert {name: counts[name] for name in ("critical", "error", "warning", "info")} == {
        name: severities[name] for name in ("critical", "error", "warning", "info")
    }
    ranks = [(("critical", "error", "warning", "info").index(row["severity"]), row["starts_at"]) for row in rows]
    assert ranks == sorted(ranks)
    for row in rows:
        assert row["age_s"] == pytest.approx((END - _utc(row["starts_at"])).total_seconds(), abs=1)


def _utc(at: datetime) -> datetime:
    return at.replace(tzinfo=END.tzinfo) if at.tzinfo is None else at


def test_an_alert_that_cannot_be_placed_is_never_hidden(loaded: Sink) -> None:
    """Whatever districts are chosen it is listed and counted; it is on no map."""
    for districts in ([], [SHARED], ["Q12"]):
        listed = asked(loaded, "open_alert_list", districts=districts)
        assert GHOST in {row["fingerprint"] for row in listed}
        assert asked(loaded, "open_alert_counts", districts=districts)[0]["critical"] == 1
        assert GHOST not in {row["place"] for row in asked(loaded, "open_alert_map", districts=districts)}


def test_alerts_of_assets_are_where_the_assets_are(loaded: Sink) -> None:
    """With a district chosen only its own alerts are left, and they lie in it."""
    everywhere = asked(loaded, "open_alert_list", jurisdictions=[SIREN])
    for district in {row["district_code"] for row in everywhere if row["district_code"]}:
        here = asked(loaded, "open_alert_list", jurisdictions=[SIREN], districts=[district])
        assert {row["district_code"] for row in here if row["fingerprint"] != GHOST} == {district}
    west, south, east, north = territories()[SIREN].area
    for row in asked(loaded, "open_alert_map", jurisdictions=[SIREN]):
        assert west <= row["longitude"] <= east
        assert south <= row["latitude"] <= north


def test_an_alert_of_a_zone_lies_in_its_middle(loaded: Sink) -> None:
    """A hot spot has no asset; it is shown in its district, and with every district of another layer."""
    found = [row for row in asked(loaded, "open_alert_map") if row["alertname"] == "report_hot_spot"]
    assert found
    middles = [middle for (middle,) in stored(loaded, "SELECT middle FROM zone_names WHERE layer = 'quartier'")]
    for row in found:
        assert any((row["longitude"], row["latitude"]) == pytest.approx(middle) for middle in middles)
    halves = asked(loaded, "open_alert_list", layer="half", districts=["E"])
    assert {row["alertname"] for row in halves} >= {"report_hot_spot"}


def test_who_has_taken_on_an_alert_is_told(loaded: Sink) -> None:
    """An acknowledged alert is still open: it is counted with its severity and by itself, and bears a name."""
    taken = [row for row in asked(loaded, "open_alert_list") if row["state"] == "acknowledged"]
    assert [row["acknowledged_by"] for row in taken] == [SOMEBODY]
    assert asked(loaded, "open_alert_counts")[0]["acknowledged"] == 1
    assert {row["acknowledged_by"] for row in asked(loaded, "open_alert_list")} == {None, SOMEBODY}
    assert "acknowledged" in {row["state"] for row in asked(loaded, "open_alert_map")}


def test_alert_history_is_cut_to_the_period(loaded: Sink) -> None:
    """What fired and lasted into the period, ended ones among them; what is still open ends with it."""
    until = START + timedelta(hours=6)
    rows = asked(loaded, "alert_history", since=START + timedelta(hours=3), until=until)
    lives = stored(
        loaded,
        "SELECT severity, alertname FROM alerts WHERE fired "
        f"AND starts_at <= '{until:%F %T}' AND (ends_at IS NULL OR ends_at >= '{START + timedelta(hours=3):%F %T}')",
    )
    assert Counter(row["title"] for row in rows) == Counter(f"{severity}: {name}" for severity, name in lives)
    assert all(row["time"] <= row["timeEnd"] for row in rows)
    assert max(_utc(row["timeEnd"]) for row in rows) == until


# --- service and age


def test_the_service_level_is_that_of_the_assets_one_by_one(loaded: Sink) -> None:
    """Heard within four reporting intervals and without an alert that fires, of all ever heard in the district."""
    intervals = {
        (jurisdiction, asset): interval
        for jurisdiction, territory in territories().items()
        for asset, interval in territory.assets.select("asset_id", "report_interval_s").iter_rows()
    }
    alerting = set(
        stored(
            loaded,
            "SELECT jurisdiction_id, asset_id FROM alerts "
            "WHERE ends_at IS NULL AND state != 'pending' AND asset_id != ''",
        )
    )
    newest: dict[tuple[str, str], tuple[datetime, str]] = {}
    for jurisdiction, asset, at, zone in stored(
        loaded,
        "SELECT jurisdiction_id, asset_id, observed_at, zones['quartier'] FROM asset_state FINAL "
        "WHERE domain != 'report' AND kind != 'closure' ORDER BY observed_at",
    ):
        newest[jurisdiction, asset] = (_utc(at), zone)
    wanted: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for asset, (at, zone) in newest.items():
        late = END - at > timedelta(seconds=4 * (intervals[asset] or 3_600))
        wanted[asset[0], zone].append(not late and asset not in alerting)
    rows = asked(loaded, "service_levels")
    assert {(row["jurisdiction_id"], row["district_code"]): (row["in_service"], row["assets"]) for row in rows} == {
        place: (sum(served), len(served)) for place, served in wanted.items()
    }
    levels = [row["service_level"] for row in rows]
    assert levels == sorted(levels)
    assert 0 < min(levels) < max(levels) <= 1


def test_no_news_is_no_service(loaded: Sink) -> None:
    """When everything falls silent the level goes to zero, though no new alert is made by whoever is not there."""
    later = asked(loaded, "service_levels", now=END + timedelta(days=1))
    assert {row["service_level"] for row in later} == {0.0}


def test_stale_data_say_so(loaded: Sink) -> None:
    """Fresh at the end of the load, then late, then stale; reports are looked for in the last 30 days only."""

    def states(after: timedelta) -> set[str]:
        return {row["state"] for row in asked(loaded, "data_age", jurisdictions=[SIREN], now=END + after)}

    assert states(timedelta()) == {"fresh"}
    assert "late" in states(timedelta(minutes=30))
    assert states(timedelta(days=2)) == {"stale"}
    assert states(timedelta(days=40)) == {"stale", "never"}


def test_what_was_never_heard_is_listed(loaded: Sink) -> None:
    """A kind of the registry that has never spoken has a line that says so, no age, and a place on the map."""
    rows = asked(loaded, "data_age", jurisdictions=[NEIGHBOUR])
    (mute,) = [row for row in rows if row["source"] == "sensor / noise"]
    assert (mute["state"], mute["age_s"], mute["registered"], mute["heard"]) == ("never", None, 1, 0)
    assert rows[0] == mute
    (shown,) = [row for row in asked(loaded, "asset_map", jurisdictions=[NEIGHBOUR]) if row["asset"] == MUTE]
    assert (shown["state"], shown["heard"], shown["mark"]) == ("never heard", 0, "–")
    lamps = next(row for row in asked(loaded, "data_age") if row["source"] == "lighting / lamp")
    assert lamps["registered"] > lamps["heard"] >= lamps["in_time"] > 0


def test_assets_on_the_map_are_all_there_are(loaded: Sink) -> None:
    """Those that have never spoken too, where the registry has them; with a district only those that are in it."""
    shown = asked(loaded, "asset_map")
    assert len(shown) == sum(len(territory.assets) for territory in territories().values())
    assert {row["state"] for row in shown} >= {"in time", "never heard"}
    awkward = asked(loaded, "asset_map", districts=[AWKWARD])
    assert 0 < len(awkward) < len(shown)
    assert min(row["longitude"] for row in awkward) > 4.5


def test_outlines_follow_the_zones(loaded: Sink) -> None:
    """Points lie on the borders at even distances, and each name stands once."""
    rows = asked(loaded, "zone_map", jurisdictions=[SIREN])
    assert sorted(row["label"] for row in rows if row["label"]) == sorted(
        name for layer, name in _zones() if layer == "quartier"
    )
    found = territories()[SIREN]
    borders = shapely.union_all([shape.boundary for shape in found.geometries[: len(found.geometries) - 2]])
    points = shapely.points([(row["longitude"], row["latitude"]) for row in rows if not row["label"]])
    assert 2_500 < len(points) < 3_500
    assert float(shapely.distance(borders, points).max()) < 1e-5


# --- what workers say


def test_the_account_adds_up_over_a_restart(loaded: Sink) -> None:
    """In = stored + rejected + duplicates, to the record that the workers' samples end with."""
    last: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
    for sample in samples.samples(END):
        last[sample.worker, sample.metric, sample.labels] = sample.value
    wanted: Counter[tuple[str, str]] = Counter()
    for (_, metric, labels), value in last.items():
        if labels and labels[0][0] == "topic":
            wanted[dict(labels)["topic"].removeprefix("city.raw."), metric] += int(value)
    for row in asked(loaded, "account"):
        topic = row["topic"]
        assert row["records"] == wanted[topic, "vigie_records_total"] > 0
        assert row["stored"] == wanted[topic, "vigie_events_stored_total"]
        assert row["rejected"] == wanted[topic, "vigie_rejects_total"]
        assert row["duplicates"] == wanted[topic, "vigie_duplicates_total"]
        assert (row["difference"], row["unaccounted"]) == (0, 0)
    rates = asked(loaded, "account_rates", bucket_s=60, until=END + timedelta(hours=1))
    assert sum(row["records"] for row in rates) * 60 == pytest.approx(
        sum(count for (_, metric), count in wanted.items() if metric == "vigie_records_total")
    )
    assert all(row["records"] == pytest.approx(row["stored"] + row["rejected"] + row["duplicates"]) for row in rates)


def test_a_counter_that_appears_counts_from_nothing(loaded: Sink) -> None:
    """The first alert of a worker makes its counter: before that it was 0, not unknown."""
    last: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in samples.samples(END):
        if sample.metric == "vigie_notifications_total":
            last[sample.worker, sample.labels] = sample.value
    rows = asked(loaded, "sample_rates", metrics=["vigie_notifications_total"], until=END + timedelta(hours=1))
    assert round(sum(row["per_s"] for row in rows) * 900) == sum(last.values()) > 0
    assert {row["series"] for row in rows} == {"delivered"}


def test_a_partition_that_moves_lags_once(loaded: Sink) -> None:
    """When a worker has left, each of its partitions is counted once, with the lag that its new holder tells."""
    moved = END - timedelta(seconds=samples.STEP_S * (samples.STEPS - samples.GONE.start))
    rows = asked(loaded, "lag", since=moved - timedelta(minutes=2), until=moved + timedelta(minutes=2), bucket_s=60)
    newest: dict[tuple[datetime, str, str], float] = {}
    over = (moved + timedelta(minutes=2)).replace(second=0, microsecond=0)
    for sample in samples.samples(END):
        is_asked_for = moved - timedelta(minutes=2) <= sample.at < over
        if sample.metric == "vigie_lag_records" and is_asked_for:
            labels = dict(sample.labels)
            minute = sample.at.replace(second=0, microsecond=0)
            newest[minute, labels["topic"].removeprefix("city.raw."), labels["partition"]] = sample.value
    wanted: Counter[tuple[datetime, str]] = Counter()
    for (at, topic, _), value in newest.items():
        wanted[at, topic] += int(value)
    assert {(_utc(row["time"]), row["topic"]): int(row["lag"]) for row in rows} == wanted


def test_workers_that_are_gone_are_silent_and_then_forgotten(loaded: Sink) -> None:
    """One that has left is told for ten minutes; when all are gone the last ones stay, silent, for a day."""

    def states(at: datetime) -> dict[str, str]:
        return {row["worker"]: row["state"] for row in asked(loaded, "worker_states", now=at)}

    assert states(END) == {samples.SECOND: "ready", samples.THIRD: "ready"}
    assert states(END + timedelta(hours=3)) == {samples.SECOND: "silent", samples.THIRD: "silent"}
    assert states(END + timedelta(days=2)) == {}


def test_each_partition_has_one_snapshot(loaded: Sink) -> None:
    """Two owners have written them; the newest owner's is told, and what zone detectors keep is no partition."""
    rows = asked(loaded, "snapshot_ages", now=END + timedelta(seconds=30))
    places = [(row["topic"], row["part"]) for row in rows]
    assert len(set(places)) == len(places) == 8
    assert {row["owner"] for row in rows} == {"worker-2"}
    assert {row["age_s"] for row in rows} == {30}
