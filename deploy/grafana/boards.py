"""Dashboards: variables, annotations, and rows of panels laid out in Grafana's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deploy.grafana.panels import Panel
from deploy.grafana.targets import ALL, DATASOURCE, PLUGIN, PLUGIN_VERSION, TABLE, Json, render

_COLUMNS: Final = 24
_TAG: Final = "vigie"
_SCHEMA_VERSION: Final = 39
#: Choices are asked again whenever the period moves, so that a new authority appears without a reload.
_ON_TIME_RANGE: Final = 2


@dataclass(frozen=True)
class Line:
    """Panels side by side, `height` grid units high, `widths` of the 24 columns wide (none given: all the same)."""

    height: int
    panels: Sequence[Panel]
    widths: Sequence[int] = ()


@dataclass(frozen=True)
class Row:
    """Lines of panels under a heading."""

    title: str
    lines: Sequence[Line]


def choice(name: str, label: str, asked: str, *, multiple: bool) -> Json:
    """A variable whose choices a query gives, as value and text. One of several values begins with All."""
    every: Json = {"text": ["All"], "value": ["$__all"], "selected": True}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"editorType": "sql", "rawSql": render(asked), "format": TABLE, "refId": name},
        "definition": f"query {asked}",
        "refresh": _ON_TIME_RANGE,
        "sort": 0,
        "hide": 0,
        "multi": multiple,
        "includeAll": multiple,
        **({"allValue": ALL, "current": every} if multiple else {"current": {}}),
    }


def source() -> Json:
    """The variable that chooses the data source."""
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": PLUGIN,
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "current": {},
    }


def annotation(name: str, asked: str, color: str) -> Json:
    """Regions of time over every curve, from a query with `time` and `timeEnd`."""
    return {
        "name": name,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "datasource": DATASOURCE,
        "target": {
            "refId": "Annotation",
            "editorType": "sql",
            "queryType": "table",
            "format": TABLE,
            "rawSql": render(asked),
            "pluginVersion": PLUGIN_VERSION,
            "meta": {},
        },
    }


def dashboard(
    uid: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    *,
    variables: Sequence[Json] = (),
    annotations: Sequence[Json] = (),
    since: str = "now-6h",
) -> Json:
    """A dashboard as Grafana's JSON. Panels are numbered as they stand. Raises ValueError where a line is too wide."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [_TAG],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "timezone": "browser",
        "time": {"from": since, "to": "now"},
        "links": [
            {
                "type": "dashboards",
                "title": "vigie",
                "tags": [_TAG],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
            }
        ],
        "templating": {"list": [source(), *variables]},
        "annotations": {"list": list(annotations)},
        "panels": _laid_out(rows),
    }


def _laid_out(rows: Sequence[Row]) -> list[Json]:
    panels: list[Json] = []
    y = 0
    for row in rows:
        panels.append(_heading(row.title, len(panels) + 1, y))
        y += 1
        for line in row.lines:
            widths = line.widths or [_COLUMNS // len(line.panels)] * len(line.panels)
            if sum(widths) > _COLUMNS:
                raise ValueError(f"a line of {row.title} is {sum(widths)} columns wide; there are {_COLUMNS}")
            x = 0
            for width, panel in zip(widths, line.panels, strict=True):
                panels.append(panel.at(len(panels) + 1, x, y, width, line.height))
                x += width
            y += line.height
    return panels


def _heading(title: str, number: int, y: int) -> Json:
    place = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
