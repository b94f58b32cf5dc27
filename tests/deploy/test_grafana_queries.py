"""Every query of the dashboards, run on a loaded ClickHouse as Grafana would send it: columns, types, rows to show.

Grafana itself does not run here: what it makes of macros and variables is in tests/support/grafana.py, from its source.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from deploy.grafana.targets import render
from sinks.clickhouse import Sink
from sinks.queries import names as query_names
from sinks.queries import query
from tests.conftest import QUERIES_RUN
from tests.streams.simulation.town import SIREN
from tests.support.boards import answer_faults, panel_faults
from tests.support.grafana import (
    EVERYTHING,
    TABLE,
    Answer,
    Asked,
    Choice,
    Json,
    Period,
    asked,
    bucket_s,
    dashboard,
    expand,
    interpolate,
    names,
    panels,
    run,
    unexpanded,
)
from tests.support.loaded import AWKWARD, END, NEIGHBOUR, SHARED, START

WHOLE: Final = Period(START, END, END)
PERIODS: Final = {
    "whole": WHOLE,
    "quarter of an hour": Period(END - timedelta(minutes=15), END, END),
    "empty": Period(END, END, END),
    "before anything": Period(START - timedelta(days=40), START - timedelta(days=39), START),
    # Months after the load: all of it is stale.
    "by the server's clock": Period(START, END, None),
}
ALL: Final[Mapping[str, Choice]] = {"jurisdiction": EVERYTHING, "layer": "quartier", "district": EVERYTHING}
#: What the variable's query gives for the code: Grafana does not double it itself.
_ESCAPED: Final = AWKWARD.replace("\\", "\\\\")
CHOICES: Final[Mapping[str, Mapping[str, Choice]]] = {
    "one": {"jurisdiction": [SIREN], "layer": "quartier", "district": [SHARED]},
    "many": {"jurisdiction": [SIREN, NEIGHBOUR], "layer": "quartier", "district": [SHARED, "Q01", _ESCAPED]},
    "nothing to choose from": {"jurisdiction": [], "layer": "", "district": []},
}
#: What dashboards can give, for CHOICES["many"].
GIVEN: Final[Mapping[str, Any]] = {
    "since": START, "until": END, "now": END, "bucket_s": bucket_s(WHOLE, 60), "layer": "quartier",
    "jurisdictions": [SIREN, NEIGHBOUR], "districts": [SHARED, "Q01", AWKWARD],
    "metrics": ["bin.fill_level", "vigie_records_total", "vigie_visible_seconds"],
}  # fmt: skip
BOARDS: Final = {name: dashboard(name) for name in names()}
EVERY_QUERY: Final = [
    pytest.param(board, one, id=f"{board}-{one.kind}-{one.name}-{one.ref}")
    for board in BOARDS
    for one in asked(BOARDS[board])
]


def answer(sink: Sink, board: Json, one: Asked, period: Period = WHOLE, chosen: Mapping[str, Choice] = ALL) -> Answer:
    """What ClickHouse answers. Fails where something is left that only Grafana would understand."""
    sql = expand(one, period, board, chosen)
    assert unexpanded(sql) == []
    return run(sink, sql)


def faults(sink: Sink, board: Json, only: str | None = None) -> list[str]:
    """What is wrong with a dashboard, or with one panel of it, over the whole load: queries that fail or have nothing
    to show, columns of other types or names than are needed."""
    found = []
    answers: dict[str, dict[str, Answer]] = defaultdict(dict)
    for one in asked(board):
        if only not in (None, one.name):
            continue
        try:
            given = answers[one.name][one.ref] = answer(sink, board, one)
        except ClickHouseError as error:
            found.append(f"{one.name}: {str(error).splitlines()[0]}")
            continue
        found += [f"{one.name}: {fault}" for fault in answer_faults(one.kind, one.form, given)]
        if not given.rows:
            found.append(f"{one.name}: nothing to show")
    shown = [panel for panel in panels(board) if only in (None, panel["title"])]
    return found + [fault for panel in shown for fault in panel_faults(panel, answers[panel["title"]])]


# --- every query


@pytest.mark.parametrize(("name", "one"), EVERY_QUERY)
def test_every_query_runs(loaded: Sink, name: str, one: Asked, record_property: Callable[[str, object], None]) -> None:
    """For periods with and without data, for all, one, many and no choices; the columns never depend on it."""
    board = BOARDS[name]
    answers = [answer(loaded, board, one, period) for period in PERIODS.values()]
    answers += [answer(loaded, board, one, chosen=chosen) for chosen in CHOICES.values()]
    for given in answers:
        assert answer_faults(one.kind, one.form, given) == []
        assert given.columns == answers[0].columns
    assert answers[0].rows, "nothing to show of the whole load"
    record_property(QUERIES_RUN, len(answers))


@pytest.mark.parametrize("name", names())
def test_panels_name_columns_that_there_are(loaded: Sink, name: str) -> None:
    """Overrides, names of curves, links, layers of maps and transformations; every state has words."""
    assert faults(loaded, BOARDS[name]) == []


@pytest.mark.parametrize("name", [name for name in query_names() if query(name).parameters.keys() <= GIVEN.keys()])
def test_grafana_asks_what_everybody_asks(loaded: Sink, name: str) -> None:
    """A query rendered for Grafana gives the rows that its typed parameters give, to the last value."""
    wanted = query(name)
    constants = {"metrics": GIVEN["metrics"]} if "metrics" in wanted.parameters else {}
    rendered = render(name, constants)
    shown = Asked(name, "table", rendered, TABLE, min_interval_s=60)
    bound = loaded.rows(wanted.sql, {key: GIVEN[key] for key in wanted.parameters})
    assert bound == loaded.rows(expand(shown, WHOLE, BOARDS["city"], CHOICES["many"]))
    assert bound


# --- variables


def test_what_a_variable_offers_finds_its_rows(loaded: Sink) -> None:
    """Each district that can be chosen is found again by the query of a panel, whatever its code is made of."""
    board = BOARDS["city"]
    choices = {one.name: one for one in asked(board) if one.kind == "variable"}
    levels = next(one for one in asked(board) if one.name == "Service level by district")
    offered = answer(loaded, board, choices["district"])
    assert AWKWARD in offered.values("text")
    for value, text in offered.rows:
        found = answer(loaded, board, levels, chosen={**ALL, "district": [value]})
        assert set(found.values("district")) == {text}


def test_values_are_formatted_as_grafana_does() -> None:
    """Quotes are escaped, several values are parted by commas, none is nothing, and All is what the dashboard says."""
    board = BOARDS["city"]
    sql = "[${district:singlequote}] ${other}"
    assert interpolate(sql, board, {"district": ["a", "it's"]}) == "['a','it\\'s'] ${other}"
    assert interpolate(sql, board, {"district": []}) == "[] ${other}"
    assert interpolate(sql, board, {"district": EVERYTHING}) == "['*'] ${other}"
    assert unexpanded("SELECT $__timeFilter(a), ${b:csv}, $c FROM d WHERE e = '$'") == [
        "$__timeFilter", "${b:csv}", "$c",
    ]  # fmt: skip


# --- that these tests can see


def broken(name: str, title: str, old: str, new: str) -> Json:
    """A copy of a dashboard in which the SQL of one panel is changed."""
    board = copy.deepcopy(BOARDS[name])
    target = next(panel for panel in panels(board) if panel["title"] == title)["targets"][0]
    assert old in target["rawSql"]
    target["rawSql"] = target["rawSql"].replace(old, new, 1)
    return board


_FULL: Final = "How full containers are"
_AIR: Final = "Air quality"
_LAG: Final = "Lag: records in Kafka that are not durable yet"
_LEVELS: Final = "Service level by district"
_REPORTS: Final = "Citizen reports by category and district"

#: Dashboard, panel, what in its SQL is changed into what, and a word of the fault.
BROKEN: Final = {
    "misspelt column": ("city", _FULL, "sum(w.sum)", "sum(w.summ)", "w.summ"),
    "misspelt table": ("pipeline", "Snapshots", "snapshots AS s", "snapshot AS s", "snapshot"),
    "misspelt reading": ("city", _FULL, "['bin.fill_level', 'drop_off.fill_level']", "['bin.full']", "nothing to show"),
    "misspelt metric": ("pipeline", _LAG, "vigie_lag_records", "vigie_lags", "nothing to show"),
    "empty panel": ("city", _AIR, "GROUP BY", "AND false GROUP BY", "nothing to show"),
    "column of a wrong type": ("city", _AIR, "    metric,", "    metric, [1] AS list,", "a time series is"),
    "no number": ("city", _AIR, "sum(w.sum) / sum(w.count) AS", "toString(sum(w.sum)) AS", "a time series is"),
    "two values at one time": ("city", _AIR, "GROUP BY time, metric", "GROUP BY time, metric, zone_code", "two values"),
    "times that descend": ("city", _AIR, "ORDER BY time", "ORDER BY time DESC", "do not ascend"),
    "no label": ("city", _AIR, "    metric,", "    metric AS reading,", "no column metric"),
    "no column to override": ("city", _LEVELS, "s.overdue AS overdue", "s.overdue AS late", "no column overdue"),
    "no column to transform": ("city", _REPORTS, "AS reports", "AS requests", "no column reports"),
    "no words": ("city", "Open alerts, the most severe first", "a.severity AS", "'grave' AS", "no words for ['grave']"),
    "no latitude": (
        "city",
        "Open alerts and assets",
        "SELECT latitude,",
        "SELECT latitude AS lat,",
        "no column latitude",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_query_is_noticed(loaded: Sink, case: str) -> None:
    """A misspelt column, table or metric, an empty panel, a column that a panel names and nobody gives: each makes the
    tests above fail, with the panel's title."""
    name, title, old, new, told = BROKEN[case]
    found = faults(loaded, broken(name, title, old, new), title)
    assert any(fault.startswith(title) and told in fault for fault in found), found


def test_a_broken_choice_or_region_is_noticed(loaded: Sink) -> None:
    """Variables and annotations are looked at like panels."""
    board = copy.deepcopy(BOARDS["city"])
    board["templating"]["list"][2]["query"]["rawSql"] = "SELECT 1 AS value, 'a' AS text"
    board["annotations"]["list"][0]["target"]["rawSql"] = "SELECT 1 AS time, 2 AS timeEnd"
    told = "\n".join([*faults(loaded, board, "layer"), *faults(loaded, board, "Alerts")])
    assert "layer: a choice is a value and a text" in told
    assert "Alerts: an annotation's time is UInt8" in told
