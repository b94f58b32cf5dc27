"""The dashboard City: what operations staff look at all day."""

from __future__ import annotations

from typing import Final

from deploy.grafana.boards import Line, Row, annotation, choice, dashboard
from deploy.grafana.panels import (
    AGES,
    ALERT_STATES,
    NEUTRAL,
    SEVERITIES,
    STALE,
    Panel,
    about,
    column,
    curves,
    geomap,
    hidden,
    markers,
    stat,
    steps,
    table,
    worded,
)
from deploy.grafana.targets import TABLE, Json, target

UID: Final = "vigie-city"
_DISTRICT_LINK: Final[Json] = {
    "title": "Look at this district",
    "url": f"/d/{UID}?${{layer:queryparam}}&var-jurisdiction=${{__data.fields.jurisdiction_id}}"
    "&var-district=${__data.fields.district_code:percentencode}&${__url_time_range}",
    "targetBlank": False,
}
#: Windows are of one minute, but assets speak every few; counts need longer to be more than noise.
_WINDOWS: Final = "5m"
_QUARTER: Final = "15m"
#: Counters tell what has passed in six minutes, a quarter or an hour: a bucket must hold whole ones.
_HOUR: Final = "1h"
_AIR: Final = ("air.no2_ug_m3", "air.pm10_ug_m3", "air.pm2_5_ug_m3", "air.o3_ug_m3")
_PASSING: Final = ("vehicle", "car", "heavy", "bus", "bicycle", "scooter", "pedestrian", "unknown")


def _open_alerts() -> Panel:
    shown = [
        column(severity, displayName=text, thresholds=steps((None, NEUTRAL), (1, color)))
        for severity, (text, color) in SEVERITIES.items()
    ]
    return stat(
        "Open alerts",
        "open_alert_counts",
        "short",
        overrides=[*shown, column("acknowledged", displayName="✓ acknowledged")],
        note="None is no colour, never green: whether anything is heard at all is told beside it.",
    )


def _newest() -> Panel:
    return stat(
        "Age of the newest data",
        "data_age",
        "s",
        fields="/^age_s$/",
        reducer="min",
        thresholds=[(None, NEUTRAL), (900, STALE)],
        overrides=[column("age_s", displayName="of any source")],
        note="Grey from a quarter of an hour on: what the other panels show is then that old.",
        no_value="never heard",
    )


def _ages() -> Panel:
    return table(
        "Age of the data by source",
        "data_age",
        [
            worded("state", AGES, "State", 120),
            column("jurisdiction_id", displayName="Authority", custom_width=110),
            column("source", displayName="Source"),
            column("age_s", displayName="Age", unit="s", noValue="–", custom_width=100),
            column("registered", displayName="Registered", custom_width=100),
            column("heard", displayName="Ever heard", custom_width=100),
            column("in_time", displayName="In time", custom_width=90),
            *hidden("newest"),
        ],
        no_value="no authority is known: has a worker been started with a territory?",
    )


def _list() -> Panel:
    return table(
        "Open alerts, the most severe first",
        "open_alert_list",
        [
            worded("severity", SEVERITIES, "Severity", 105),
            worded("state", ALERT_STATES, "State", 125),
            column("age_s", displayName="For", unit="s", custom_width=85),
            column("alertname", displayName="Alert", custom_width=130),
            column("place", displayName="Where", links=[_DISTRICT_LINK]),
            column("district", displayName="District", links=[_DISTRICT_LINK]),
            column("category", displayName="Category", noValue="–"),
            column("value", displayName="Value", decimals=2, noValue="–", custom_width=75),
            column("threshold", displayName="Limit", decimals=2, noValue="–", custom_width=75),
            column("summary", displayName="What"),
            column("acknowledged_by", displayName="Taken on by", noValue="–"),
            column("starts_at", displayName="Since", custom_width=160),
            column("jurisdiction_id", displayName="Authority", custom_width=105),
            *hidden("district_code", "fingerprint"),
        ],
        note="What is open now, whatever period is chosen.",
        no_value="no open alert – look at the age of the data before you believe it",
    )


def _map() -> Panel:
    names = "zone_map", "asset_map", "open_alert_map"
    ranked = list(enumerate(color for _, color in SEVERITIES.values()))
    return geomap(
        "Open alerts and assets",
        about(
            *names,
            note="No tiles: the lines are the districts. Signs by severity: ◆ critical, ▲ error, ● warning, ○ info. "
            "Small squares are assets: × is overdue, – was never heard. The view fits itself to the data at each "
            "refresh.",
        ),
        [target(name, TABLE, ref) for name, ref in zip(names, "ABC", strict=True)],
        [
            markers(
                "districts",
                "A",
                text="label",
                size={"fixed": 1, "min": 1, "max": 1},
                color={"fixed": STALE},
                symbol="circle",
                tooltip=False,
            ),
            markers(
                "assets",
                "B",
                text="mark",
                size={"fixed": 3, "min": 3, "max": 3},
                color={"field": "heard", "fixed": STALE},
                symbol="square",
            ),
            markers(
                "alerts",
                "C",
                text="mark",
                size={"field": "weight", "fixed": 8, "min": 6, "max": 14},
                color={"field": "weight", "fixed": "orange"},
                symbol="circle",
            ),
        ],
        [
            column("heard", thresholds=steps((None, STALE), (2, "blue"))),
            column("weight", thresholds=steps((None, STALE), *((4 - rank, color) for rank, color in reversed(ranked)))),
            column("age_s", displayName="for", unit="s"),
        ],
    )


def _levels() -> Panel:
    return table(
        "Service level by district",
        "service_levels",
        [
            column("district", displayName="District", links=[_DISTRICT_LINK]),
            column(
                "service_level",
                displayName="Service level",
                unit="percentunit",
                min=0,
                max=1,
                decimals=0,
                thresholds=steps((None, "red"), (0.8, "orange"), (0.95, "green")),
                custom_cellOptions={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
            ),
            column("assets", displayName="Assets", custom_width=80),
            column("in_service", displayName="In service", custom_width=95),
            column("in_alert", displayName="In alert", custom_width=85),
            column("overdue", displayName="Overdue", custom_width=85),
            column("jurisdiction_id", displayName="Authority", custom_width=110),
            *hidden("district_code"),
        ],
        note="As things stand now, whatever period is chosen. Where nothing is heard any more the level falls to 0.",
        no_value="no asset has been heard in a zone of this layer",
    )


def _reports() -> Panel:
    return table(
        "Citizen reports by category and district",
        "reports_by_category",
        [],
        note="New requests of the period.",
        no_value="no report in this period",
        transformations=[
            {
                "id": "groupingToMatrix",
                "options": {"columnField": "category", "rowField": "district", "valueField": "reports"},
            }
        ],
    ).but(
        color="continuous-blues",
        custom={
            "align": "auto",
            "cellOptions": {"type": "color-background", "mode": "gradient"},
            "filterable": False,
        },
    )


def _means(title: str, unit: str, *metrics: str, bounds: tuple[float, float] | None = None) -> Panel:
    return curves(
        title, "means_by_district", unit, series="district", min_interval=_WINDOWS, bounds=bounds, metrics=metrics
    )


def _hourly(title: str, *metrics: str) -> Panel:
    return curves(title, "hourly_by_metric", "short", series="metric", min_interval=_HOUR, metrics=metrics)


def _readings() -> list[Line]:
    full = _means("How full containers are", "percentunit", "bin.fill_level", "drop_off.fill_level", bounds=(0, 1))
    lamps = _means("Power of a lamp", "watt", "lamp.power_w")
    passing = _hourly("Passages per hour, all counters", *(f"traffic.{who}.count" for who in _PASSING))
    people = _hourly("People counted per hour, all counters", "footfall.motion_count")
    air = curves("Air quality", "means_by_metric", "conμgm3", series="metric", min_interval=_WINDOWS, metrics=_AIR)
    return [Line(8, [full, lamps]), Line(8, [passing, air, people])]


def city() -> Json:
    """The dashboard."""
    reports = curves(
        "New citizen reports per hour",
        "reports_over_time",
        "short",
        series="category",
        min_interval=_QUARTER,
        stacked=True,
    )
    return dashboard(
        UID,
        "City",
        "Alerts, service and readings of a town, by district. What is open or stale is so now; the period moves the "
        "curves and the reports.",
        [
            Row("Now", [Line(4, [_open_alerts(), _newest()], (16, 8)), Line(14, [_map(), _list()], (10, 14))]),
            Row("Service", [Line(10, [_levels(), _ages()], (11, 13))]),
            Row("Citizens", [Line(9, [_reports(), reports])]),
            Row("Readings", _readings()),
        ],
        variables=[
            choice("jurisdiction", "Authority", "authorities", multiple=True),
            choice("layer", "Districts are", "layers", multiple=False),
            choice("district", "District", "districts", multiple=True),
        ],
        annotations=[annotation("Alerts", "alert_history", "orange")],
    )
