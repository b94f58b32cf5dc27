"""The dashboards as files: made by the generator, known to Grafana's schema, and fit for a closed network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import yaml

from deploy.grafana import generate
from deploy.grafana.boards import Line, Row
from deploy.grafana.boards import dashboard as board_of
from deploy.grafana.panels import AGES, ALERT_STATES, SEVERITIES, WORKER_STATES, stat
from deploy.grafana.targets import PLUGIN, render
from processors.alerts import State
from processors.territory import Severity
from sinks.queries import names as query_names
from sinks.queries import query
from streams.telemetry.metrics import DECLARED
from tests.support.boards import schema_faults, static_faults
from tests.support.grafana import DASHBOARDS, Json, dashboard, metrics, names, panels

_PROVISIONING: Final = DASHBOARDS.with_name("provisioning")


# --- what is committed


def test_there_are_the_two_dashboards() -> None:
    """City for operations staff, Pipeline for who keeps it running: the two that the other tests look at."""
    assert names() == ["city", "pipeline"]
    assert {dashboard(name)["uid"] for name in names()} == {"vigie-city", "vigie-pipeline"}


@pytest.mark.parametrize("name", names())
def test_the_files_are_what_the_generator_makes(name: str) -> None:
    """Nobody edits them by hand: `python -m deploy.grafana.generate` would undo it."""
    committed = (DASHBOARDS / f"{name}.json").read_text("utf-8")
    assert committed == generate.text(generate.dashboards()[f"{name}.json"])


def test_the_generator_writes_every_dashboard(tmp_path: Path) -> None:
    """One command makes all files, and no others."""
    generate.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in DASHBOARDS.iterdir())


@pytest.mark.parametrize("name", names())
def test_the_rules_hold(name: str) -> None:
    """Unique ids, a grid without overlaps, a unit, a description and a shortest interval for each panel, curves
    filtered and ordered by time, one variable for the data source, nothing from a network."""
    assert static_faults(dashboard(name)) == []


@pytest.mark.parametrize("name", names())
def test_grafana_knows_every_key(name: str) -> None:
    """A key that Grafana's schema does not know is a typing error that Grafana passes over in silence."""
    assert schema_faults(dashboard(name)) == []


def test_dashboards_and_queries_use_only_declared_metrics() -> None:
    """A metric that nobody declares is a curve that stays empty."""
    used = {name: metrics((DASHBOARDS / f"{name}.json").read_text("utf-8")) for name in names()}
    used |= {name: metrics(query(name).sql) for name in query_names()}
    assert {name: found - DECLARED.keys() for name, found in used.items() if found - DECLARED.keys()} == {}
    assert used["pipeline"] == DECLARED.keys()


def test_the_provisioned_data_source_is_the_plugins() -> None:
    """Grafana finds the plugin by its type, and a password that stands in no file."""
    (source,) = yaml.safe_load((_PROVISIONING / "datasources" / "clickhouse.yaml").read_text("utf-8"))["datasources"]
    assert source["type"] == PLUGIN
    assert source["jsonData"].keys() >= {"host", "port", "protocol", "username", "defaultDatabase"}
    assert source["secureJsonData"] == {"password": "$CLICKHOUSE_PASSWORD"}
    assert source["editable"] is False


def test_the_provisioned_folder_is_read_from_files() -> None:
    """What somebody changes in the browser is not what is committed, so it cannot be saved over it."""
    (provider,) = yaml.safe_load((_PROVISIONING / "dashboards" / "vigie.yaml").read_text("utf-8"))["providers"]
    assert provider["type"] == "file"
    assert provider["folder"] == "vigie"
    assert provider["allowUiUpdates"] is False
    assert provider["options"] == {"path": "/etc/grafana/dashboards", "foldersFromFilesStructure": False}


# --- colours and words


def test_every_state_and_severity_has_words() -> None:
    """What the pipeline may say of an alert is shown as it is meant, also what only people bring about."""
    assert ALERT_STATES.keys() == set(get_args(State))
    assert SEVERITIES.keys() == set(get_args(Severity))


@pytest.mark.parametrize("words", [SEVERITIES, ALERT_STATES, AGES, WORKER_STATES])
def test_no_colour_says_anything_alone(words: dict[str, tuple[str, str]]) -> None:
    """Texts differ, and each begins with a sign, for those who cannot tell the colours apart."""
    texts = [text for text, _ in words.values()]
    assert len(set(texts)) == len(texts)
    assert not any(text[0].isalnum() for text in texts)


def test_nothing_stale_is_green() -> None:
    """Green says that somebody has looked lately."""
    assert [state for state, (_, color) in AGES.items() if color == "green"] == ["fresh"]
    assert [state for state, (_, color) in WORKER_STATES.items() if color == "green"] == ["ready"]


def test_no_alert_is_no_colour() -> None:
    """None open may mean that all is well or that nothing is heard: the number alone must not look like good news."""
    (panel,) = [panel for panel in panels(dashboard("city")) if panel["title"] == "Open alerts"]
    for override in panel["fieldConfig"]["overrides"]:
        for found in override["properties"]:
            if found["id"] == "thresholds":
                assert found["value"]["steps"][0]["color"] == "text"


# --- that these tests can see


def broken(name: str, change: Callable[[Json], Any]) -> Json:
    """A copy of a dashboard with a change."""
    board = copy.deepcopy(dashboard(name))
    change(board)
    return board


def panel(board: Json, kind: str) -> Json:
    """The first panel of a kind."""
    return next(one for one in panels(board) if one["type"] == kind)


def first(board: Json, kind: str = "timeseries") -> Json:
    """The first query of the first panel of a kind."""
    found: Json = panel(board, kind)["targets"][0]
    return found


def edit(target: Json, old: str, new: str) -> None:
    """Change the SQL of a query, which must have what is changed."""
    assert old in target["rawSql"]
    target["rawSql"] = target["rawSql"].replace(old, new)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: b.update(titel=b.pop("title")), "titel is not known"),
        (lambda b: panel(b, "geomap")["options"]["controls"].update(mouseWheelZom=True), "mouseWheelZom is not known"),
        (lambda b: panel(b, "table").update(gridpos={}), "gridpos is not known"),
        (lambda b: panel(b, "timeseries")["options"]["legend"].update(placment="right"), "placment is not known"),
        (lambda b: panel(b, "timeseries")["fieldConfig"]["defaults"]["custom"].update(lineWidht=2), "lineWidht is"),
        (lambda b: panel(b, "stat")["fieldConfig"]["defaults"].update(units="s"), "units is not known"),
        (lambda b: b["templating"]["list"][1].update(includeAl=True), "includeAl is not known"),
        (lambda b: b["annotations"]["list"][0].update(color="red"), "color is not known"),
    ],
)
def test_an_unknown_key_is_noticed(change: Callable[[Json], Any], told: str) -> None:
    """Wherever it stands in what the schema describes."""
    assert any(told in fault for fault in schema_faults(broken("city", change)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: b.pop("title"), "needs a title"),
        (lambda b: b.update(uid="x" * 41), "at most 40"),
        (lambda b: b.update(refresh="1m"), "refresh"),
        (lambda b: b["panels"][3].update(id=b["panels"][4]["id"]), "panel id"),
        (lambda b: b["panels"][3]["gridPos"].update(w=20), "overlap"),
        (lambda b: b["panels"][3]["gridPos"].update(x=23), "leaves the 24 columns"),
        (lambda b: panel(b, "table").update(title=panel(b, "geomap")["title"]), "panel title"),
        (lambda b: panel(b, "stat").pop("description"), "no description"),
        (lambda b: panel(b, "stat")["fieldConfig"]["defaults"].pop("unit"), "no unit"),
        (lambda b: panel(b, "stat").update(interval="1s"), "shortest interval"),
        (lambda b: panel(b, "stat")["datasource"].update(uid="city"), "bound to a data source"),
        (lambda b: first(b)["datasource"].update(uid="city"), "a data source of its own"),
        (lambda b: first(b).pop("format"), "no format"),
        (lambda b: first(b).update(rawSQL="SELECT 1"), "a query has rawSQL"),
        (lambda b: edit(first(b), "ORDER BY time", "ORDER BY category"), "not ordered by time"),
        (lambda b: edit(first(b), "$__toTime_ms", "now()"), "no filter on time"),
        (lambda b: edit(first(b), "$__interval_s", "$__interval"), "$__interval is no macro"),
        (lambda b: edit(first(b), "${district:", "${distrikt:"), "${distrikt:singlequote} is no macro"),
        (lambda b: first(b, "table").update(rawSql="SELECT * FROM alerts"), "whatever there is"),
        (lambda b: panel(b, "geomap")["targets"][1].update(refId="A"), "refId"),
        (lambda b: panel(b, "geomap")["options"]["basemap"]["config"].update(url="https://tiles.example/"), "network"),
        (lambda b: b["templating"]["list"][1].pop("allValue"), "today's choices"),
        (lambda b: b["templating"]["list"].pop(0), "data source"),
        (lambda b: b["annotations"]["list"][0]["target"].update(editorType="builder"), "SQL editor"),
    ],
)
def test_a_broken_rule_is_noticed(change: Callable[[Json], Any], told: str) -> None:
    """Each rule has something that breaks it, and says so."""
    assert any(told in fault for fault in static_faults(broken("city", change)))


def test_an_undeclared_metric_is_noticed() -> None:
    """In a panel's constants as well as in the text of a query."""
    board = broken("pipeline", lambda b: edit(first(b), "vigie_records_total", "vigie_record_total"))
    assert metrics(str(board)) - DECLARED.keys() == {"vigie_record_total"}
    assert metrics("SELECT 1 FROM worker_samples WHERE metric = 'vigie_lags'") - DECLARED.keys() == {"vigie_lags"}


# --- the generator


def test_what_a_panel_decides_is_quoted() -> None:
    """Constants become ClickHouse's literals, whatever stands in them."""
    assert "metric IN ['it\\'s', 'a\\\\b']" in render("means_by_metric", {"metrics": ["it's", "a\\b"]})


def test_a_parameter_that_nobody_gives_is_our_mistake() -> None:
    """A misspelt constant, or one that is missing, never becomes a query."""
    with pytest.raises(KeyError, match="metrics"):
        render("means_by_metric")
    with pytest.raises(KeyError, match="metriks"):
        render("means_by_metric", {"metriks": ["a"]})


def test_a_line_that_is_too_wide_is_refused() -> None:
    """Grafana would move its panels about."""
    one = stat("Alerts", "open_alert_counts", "short")
    with pytest.raises(ValueError, match="32 columns"):
        board_of("u", "t", "d", [Row("Now", [Line(4, [one, one], (16, 16))])])
