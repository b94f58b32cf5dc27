"""Panels in few words: what is shown, by which named query, in which unit and colours.

Every text that tells how bad something is has a sign before it, so that nobody needs to see colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from deploy.grafana.targets import DATASOURCE, TABLE, TIME_SERIES, Json, target
from sinks.queries import query

#: Neither good nor bad: of the theme's text, and of what is out of date.
NEUTRAL: Final = "text"
STALE: Final = "#808080"

SEVERITIES: Final[Mapping[str, tuple[str, str]]] = {
    "critical": ("◆ critical", "red"),
    "error": ("▲ error", "orange"),
    "warning": ("● warning", "yellow"),
    "info": ("○ info", "blue"),
}
ALERT_STATES: Final[Mapping[str, tuple[str, str]]] = {
    "pending": ("… pending", NEUTRAL),
    "firing": ("! firing", "orange"),
    "acknowledged": ("✓ acknowledged", "purple"),
    "resolved": ("– resolved", STALE),
    "expired": ("– expired", STALE),
}
AGES: Final[Mapping[str, tuple[str, str]]] = {
    "fresh": ("● fresh", "green"),
    "late": ("◐ late", "yellow"),
    "stale": ("○ stale", STALE),
    "never": ("– never heard", STALE),
}
WORKER_STATES: Final[Mapping[str, tuple[str, str]]] = {
    "ready": ("● ready", "green"),
    "waiting": ("◐ waiting", "yellow"),
    "not ready": ("▲ not ready", "orange"),
    "silent": ("○ silent", STALE),
}

#: A tile of one transparent pixel: with it no map asks anybody for tiles.
NO_TILES: Final = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"

Steps = Sequence[tuple[float | None, str]]


@dataclass(frozen=True)
class Panel:
    """A panel without its id and place. `unit` is Grafana's; `min_interval` the shortest time one point stands for."""

    kind: str
    title: str
    description: str
    targets: Sequence[Json]
    unit: str
    options: Json
    custom: Json = field(default_factory=dict)
    steps: Steps = ((None, NEUTRAL),)
    color: str = "thresholds"
    min_interval: str = "15s"
    display_name: str | None = None
    no_value: str | None = None
    bounds: tuple[float, float] | None = None
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()

    def at(self, number: int, x: int, y: int, width: int, height: int) -> Json:
        """The panel as Grafana's JSON, at its place in the grid of 24 columns."""
        defaults: Json = {
            "unit": self.unit,
            "color": {"mode": self.color},
            "thresholds": steps(*self.steps),
            "mappings": [],
            "custom": self.custom,
        }
        if self.display_name is not None:
            defaults["displayName"] = self.display_name
        if self.no_value is not None:
            defaults["noValue"] = self.no_value
        if self.bounds is not None:
            defaults["min"], defaults["max"] = self.bounds
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": width, "h": height},
            "interval": self.min_interval,
            "targets": list(self.targets),
            "fieldConfig": {"defaults": defaults, "overrides": list(self.overrides)},
            "options": self.options,
            "transformations": list(self.transformations),
        }

    def but(self, **changes: Any) -> Panel:
        """The same panel with these changes."""
        return replace(self, **changes)


def about(*names: str, note: str = "") -> str:
    """A description: the note, then what each query says of itself."""
    told = [f"{query(name).doc} (query `{name}`)" for name in names]
    return "\n\n".join(filter(None, [note, *told]))


# --- overrides: how one column is shown


def column(name: str, **properties: Any) -> Json:
    """An override of one column; `custom_width` stands for `custom.width`."""
    found = [{"id": key.replace("_", ".", 1) if key.startswith("custom_") else key, "value": value}
             for key, value in properties.items()]  # fmt: skip
    return {"matcher": {"id": "byName", "options": name}, "properties": found}


def worded(name: str, words: Mapping[str, tuple[str, str]], title: str, width: int | None = None) -> Json:
    """A column of states, each with its words, sign and colour."""
    options = {
        value: {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(words.items())
    }
    properties: Json = {
        "displayName": title,
        "mappings": [{"type": "value", "options": options}],
        "custom_cellOptions": {"type": "color-text"},
    }
    return column(name, **properties, **({"custom_width": width} if width else {}))


def steps(*found: tuple[float | None, str]) -> Json:
    """Thresholds: the value from which a colour holds, None for the first."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in found]}


def hidden(*names: str) -> list[Json]:
    """Columns that only links need."""
    return [column(name, custom_hidden=True) for name in names]


# --- kinds of panels


def curves(
    title: str,
    name: str,
    unit: str,
    *,
    series: str | None = None,
    note: str = "",
    min_interval: str = "15s",
    stacked: bool = False,
    overrides: Sequence[Json] = (),
    bounds: tuple[float, float] | None = None,
    **constants: Sequence[str],
) -> Panel:
    """A time series; `series` is the column of text that names the curves (None: the columns of numbers do)."""
    return Panel(
        kind="timeseries",
        title=title,
        description=about(name, note=note),
        targets=[target(name, TIME_SERIES, constants=constants)],
        unit=unit,
        color="palette-classic",
        min_interval=min_interval,
        display_name=f"${{__field.labels.{series}}}" if series else None,
        overrides=overrides,
        bounds=bounds,
        no_value="no data in this period",
        custom={
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if stacked else 5,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        },
        options={
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def table(
    title: str,
    name: str,
    overrides: Sequence[Json],
    *,
    note: str = "",
    unit: str = "none",
    no_value: str = "nothing",
    transformations: Sequence[Json] = (),
    **constants: Sequence[str],
) -> Panel:
    """A table of a query's rows."""
    return Panel(
        kind="table",
        title=title,
        description=about(name, note=note),
        targets=[target(name, TABLE, constants=constants)],
        unit=unit,
        no_value=no_value,
        overrides=overrides,
        transformations=transformations,
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True},
        options={"showHeader": True, "cellHeight": "sm"},
    )


def stat(
    title: str,
    name: str,
    unit: str,
    *,
    fields: str = "",
    reducer: str = "lastNotNull",
    thresholds: Steps = ((None, NEUTRAL),),
    note: str = "",
    overrides: Sequence[Json] = (),
    no_value: str = "no data",
    **constants: Sequence[str],
) -> Panel:
    """Large numbers. `fields` is a pattern of the columns that are shown (all of numbers where it is empty)."""
    return Panel(
        kind="stat",
        title=title,
        description=about(name, note=note),
        targets=[target(name, TABLE, constants=constants)],
        unit=unit,
        steps=thresholds,
        no_value=no_value,
        overrides=overrides,
        options={
            "reduceOptions": {"values": False, "calcs": [reducer], "fields": fields},
            "textMode": "value_and_name",
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
        },
    )


def markers(name: str, ref: str, *, text: str, size: Json, color: Json, symbol: str, tooltip: bool = True) -> Json:
    """A layer of a map: a marker for each row of the query with that refId. `text` is the column written beside it."""
    return {
        "type": "markers",
        "name": name,
        "filterData": {"id": "byRefId", "options": ref},
        "location": {"mode": "coords", "latitude": "latitude", "longitude": "longitude"},
        "tooltip": tooltip,
        "config": {
            "showLegend": False,
            "style": {
                "size": size,
                "color": color,
                "opacity": 0.7,
                "symbol": {"mode": "fixed", "fixed": f"img/icons/marker/{symbol}.svg"},
                "text": {"mode": "field", "field": text, "fixed": ""},
                "textConfig": {
                    "fontSize": 14,
                    "offsetX": 0,
                    "offsetY": -10,
                    "textAlign": "center",
                    "textBaseline": "middle",
                },
            },
        },
    }


def geomap(
    title: str, description: str, targets: Sequence[Json], layers: Iterable[Json], overrides: Sequence[Json]
) -> Panel:
    """A map without tiles."""
    return Panel(
        kind="geomap",
        title=title,
        description=description,
        targets=targets,
        unit="none",
        overrides=overrides,
        options={
            "view": {"id": "fit", "lat": 0, "lon": 0, "zoom": 16, "allLayers": True},
            "controls": {
                "showZoom": True,
                "mouseWheelZoom": True,
                "showAttribution": False,
                "showScale": True,
                "showMeasure": False,
                "showDebug": False,
            },
            "basemap": {"type": "xyz", "name": "no tiles", "config": {"url": NO_TILES, "attribution": ""}},
            "layers": list(layers),
            "tooltip": {"mode": "details"},
        },
    )
