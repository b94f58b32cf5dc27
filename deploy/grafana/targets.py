"""Named queries as Grafana asks them: typed parameters become macros and variables of its ClickHouse plugin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sinks.queries import VOCABULARY, query

Json = dict[str, Any]

PLUGIN: Final = "grafana-clickhouse-datasource"
PLUGIN_VERSION: Final = "4.20.0"
#: Chosen in the dashboard, so that none is bound to one installation's data source.
DATASOURCE: Final[Json] = {"type": PLUGIN, "uid": "${datasource}"}

#: What "All" stands for. It goes into the query as it is, so that a list of choices that is long, empty or out of date
#: does not matter, and what lies in no district counts.
ALL: Final = "'*'"

TIME_SERIES: Final = 0
TABLE: Final = 1

_PARAMETER: Final = re.compile(r"\{(\w+):\s*[^{}]+?\s*\}")


def _chosen(variable: str) -> str:
    """The values of a variable, whether none, one or many are chosen; none for All."""
    return f"arrayFilter(value -> value != {ALL}, CAST([${{{variable}:singlequote}}], 'Array(String)'))"


#: `now` is ClickHouse's clock: what is open or stale does not depend on the period that is looked at. The layer is one
#: value, in an array because Grafana puts nothing in its place where there is none.
_RENDERED: Final[Mapping[str, str]] = {
    "since": "$__fromTime_ms",
    "until": "$__toTime_ms",
    "now": "now64(3)",
    "bucket_s": "$__interval_s",
    "jurisdictions": _chosen("jurisdiction"),
    "districts": _chosen("district"),
    "layer": "CAST([${layer:singlequote}], 'Array(String)')[1]",
}


def render(name: str, constants: Mapping[str, Sequence[str]] | None = None) -> str:
    """The SQL of a named query for Grafana. `constants` are the arrays of text that the panel decides itself.

    Raises UnknownQueryError; KeyError for a parameter that nobody gives.
    """
    given = {key: _literal(values) for key, values in (constants or {}).items()}
    strange = given.keys() - VOCABULARY.keys()
    if strange:
        raise KeyError(f"no query takes {', '.join(sorted(strange))}")
    return _PARAMETER.sub(lambda found: (given | dict(_RENDERED))[found[1]], query(name).sql)


def _literal(values: Sequence[str]) -> str:
    escaped = (value.replace("\\", "\\\\").replace("'", "\\'") for value in values)
    return "[" + ", ".join(f"'{value}'" for value in escaped) + "]"


def target(name: str, form: int, ref: str = "A", constants: Mapping[str, Sequence[str]] | None = None) -> Json:
    """A query of a panel; `form` is TIME_SERIES or TABLE."""
    return {
        "refId": ref,
        "datasource": DATASOURCE,
        "editorType": "sql",
        "queryType": "timeseries" if form == TIME_SERIES else "table",
        "format": form,
        "rawSql": render(name, constants),
        "pluginVersion": PLUGIN_VERSION,
        "meta": {},
    }
