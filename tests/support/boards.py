"""What must hold of a dashboard, as sentences about what does not: of its JSON, schema and what its queries say."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

from tests.support.grafana import TABLE, TIME_SERIES, Answer, Json, panels, seconds, unexpanded, variables

_COLUMNS: Final = 24
_LONGEST_UID: Final = 40
_LEAST_INTERVAL_S: Final = 5
_KNOWN_MACROS: Final = {"$__fromTime_ms", "$__toTime_ms", "$__interval_s"}
_TARGET_KEYS: Final = {
    "refId", "datasource", "editorType", "queryType", "format", "rawSql", "pluginVersion", "meta",
}  # fmt: skip
_NUMBER: Final = re.compile(r"(?:Nullable\()?(?:U?Int|Float|Decimal)")
_INSTANT: Final = re.compile(r"(?:Nullable\()?DateTime")
_TEXT: Final = re.compile(r"(?:LowCardinality\()?(?:Nullable\()?(?:String|Enum)")


# --- the JSON by itself


def static_faults(board: Json) -> list[str]:
    """What is wrong whatever ClickHouse holds."""
    return [*_of_board(board), *_of_grid(board), *_of_variables(board), *_of_panels(board)]


def _of_board(board: Json) -> Iterator[str]:
    if not board.get("title") or not 0 < len(board.get("uid", "")) <= _LONGEST_UID:
        yield f"a dashboard needs a title, and a uid of at most {_LONGEST_UID} characters"
    if board.get("refresh") != "10s":
        yield "it does not refresh every 10 s"
    for path, text in _texts(board):
        if re.match(r"\w+://", text):
            yield f"{path} is on a network: {text}"
    yield from _repeated("panel id", [panel["id"] for panel in board["panels"]])
    yield from _repeated("panel title", [panel["title"] for panel in panels(board)])


def _repeated(what: str, values: Sequence[Any]) -> Iterator[str]:
    yield from (f"{what} {value!r} is there {count} times" for value, count in Counter(values).items() if count > 1)


def _of_grid(board: Json) -> Iterator[str]:
    places = {panel["title"]: panel["gridPos"] for panel in board["panels"]}
    for title, place in places.items():
        if place["x"] < 0 or place["w"] < 1 or place["h"] < 1 or place["x"] + place["w"] > _COLUMNS:
            yield f"{title} leaves the {_COLUMNS} columns: {place}"
    for (title, a), (other, b) in combinations(places.items(), 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        if not beside and not below:
            yield f"{title} and {other} overlap"


def _of_variables(board: Json) -> Iterator[str]:
    known = variables(board)
    if known.get("datasource", {}).get("type") != "datasource":
        yield "no variable chooses the data source"
    for name, variable in known.items():
        if variable.get("includeAll") and not variable.get("allValue"):
            yield f"All of {name} is the list of today's choices"
    for path, text in _texts(board):
        for name in re.findall(r"\$\{(\w+)[^}]*\}", text):
            if name not in known and not name.startswith("__"):
                yield f"{path} names ${{{name}}}, which is no variable"
    for found in board["annotations"]["list"]:
        yield from _of_target(f"annotation {found['name']}", found["target"], known)


def _of_panels(board: Json) -> Iterator[str]:
    known = variables(board)
    for panel in panels(board):
        title = panel["title"]
        if not panel.get("description"):
            yield f"{title} has no description"
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{title} has no unit"
        if seconds(panel.get("interval") or "0s") < _LEAST_INTERVAL_S:
            yield f"{title} has no shortest interval of at least {_LEAST_INTERVAL_S} s"
        if panel.get("datasource", {}).get("uid") != "${datasource}":
            yield f"{title} is bound to a data source"
        yield from _repeated(f"{title}: refId", [target["refId"] for target in panel["targets"]])
        for target in panel["targets"]:
            yield from _of_target(title, target, known)
            if target.get("datasource", {}).get("uid") != "${datasource}":
                yield f"{title} asks a data source of its own"


def _of_target(title: str, target: Json, known: Mapping[str, Json]) -> Iterator[str]:
    if target.keys() - _TARGET_KEYS:
        yield f"{title}: a query has {', '.join(sorted(target.keys() - _TARGET_KEYS))}"
    if target.get("format") not in (TIME_SERIES, TABLE) or target.get("editorType") != "sql":
        yield f"{title}: a query has no format, or is not for the SQL editor"
    sql = target.get("rawSql", "")
    if re.search(r"SELECT\s+(?:\w+\.)?\*", sql):
        yield f"{title} selects whatever there is"
    for name in unexpanded(sql):
        plain = name.removeprefix("${").partition(":")[0].rstrip("}")
        if name not in _KNOWN_MACROS and plain not in known:
            yield f"{title}: {name} is no macro and no variable that is known"
    if target.get("format") == TIME_SERIES:
        if not re.search(r"ORDER BY time\b[^()]*$", sql):
            yield f"{title} is not ordered by time"
        if "$__fromTime_ms" not in sql or "$__toTime_ms" not in sql:
            yield f"{title} has no filter on time"


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in the JSON, with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{number}]")
    elif isinstance(value, str):
        yield path, value


# --- the schema


def schema_faults(board: Json) -> list[str]:
    """What Grafana's schema does not know, by path: its model of a dashboard drops it or changes it."""
    with warnings.catch_warnings():
        # It recommends another version of the format, which older Grafanas do not read from files.
        warnings.simplefilter("ignore", DeprecationWarning)
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.cog.plugins import register_default_plugins
        from grafana_foundation_sdk.models.dashboard import Dashboard
    register_default_plugins()
    understood = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    return list(_lost(board, understood, board.get("title", "")))


def _lost(written: Any, understood: Any, path: str) -> Iterator[str]:
    if isinstance(written, dict) and isinstance(understood, dict):
        for key, value in written.items():
            if key in understood:
                yield from _lost(value, understood[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is not known"
    elif isinstance(written, list) and isinstance(understood, list) and len(written) == len(understood):
        for number, pair in enumerate(zip(written, understood, strict=True)):
            yield from _lost(*pair, f"{path}[{number}]")
    elif written != understood:
        yield f"{path} is read as {understood!r}"


# --- what queries answer


def answer_faults(kind: str, form: int, answer: Answer) -> list[str]:
    """What is wrong with the columns of an answer, for an "annotation", a "variable" or a kind of panel."""
    if kind == "variable":
        return list(_of_choices(answer))
    if kind == "annotation":
        return list(_of_regions(answer))
    return list(_of_series(answer) if form == TIME_SERIES else _of_rows(answer))


def _of_choices(answer: Answer) -> Iterator[str]:
    if list(answer.columns) != ["value", "text"] or not all(map(_TEXT.match, answer.columns.values())):
        yield f"a choice is a value and a text, not {dict(answer.columns)}"
    elif "" in answer.values("value") or len(set(answer.values("value"))) < len(answer.rows):
        yield "a value is empty, or there twice"


def _of_regions(answer: Answer) -> Iterator[str]:
    for name, wanted in (("time", _INSTANT), ("timeEnd", _INSTANT), ("title", _TEXT), ("text", _TEXT), ("tags", _TEXT)):
        if not wanted.match(answer.columns.get(name, "")):
            yield f"an annotation's {name} is {answer.columns.get(name, 'missing')}"
            return
    if any(end < begin for begin, end in zip(answer.values("time"), answer.values("timeEnd"), strict=True)):
        yield "an annotation ends before it begins"


def _of_series(answer: Answer) -> Iterator[str]:
    instants = [name for name, kind in answer.columns.items() if _INSTANT.match(kind)]
    labels = [name for name, kind in answer.columns.items() if _TEXT.match(kind)]
    numbers = [name for name, kind in answer.columns.items() if _NUMBER.match(kind)]
    if instants != ["time"] or not numbers or len(instants + labels + numbers) < len(answer.columns):
        yield f"a time series is one time, numbers and texts, not {dict(answer.columns)}"
        return
    times = answer.values("time")
    if times != sorted(times):
        yield "times do not ascend"
    keys = list(zip(times, *(answer.values(label) for label in labels), strict=True))
    if len(set(keys)) < len(keys):
        yield "a curve has two values at one time"


def _of_rows(answer: Answer) -> Iterator[str]:
    for name, kind in answer.columns.items():
        if not any(pattern.match(kind) for pattern in (_NUMBER, _INSTANT, _TEXT)):
            yield f"column {name} is {kind}"


def panel_faults(panel: Json, answers: Mapping[str, Answer]) -> list[str]:
    """Columns that a panel names and no answer has, by refId; values that its words do not know."""
    return [f"{panel['title']}: {fault}" for fault in _of_names(panel, answers)]


def _of_names(panel: Json, answers: Mapping[str, Answer]) -> Iterator[str]:
    there = {name for answer in answers.values() for name in answer.columns}
    for name in _named(panel):
        if name not in there:
            yield f"there is no column {name}"
    pattern = panel["options"].get("reduceOptions", {}).get("fields")
    if pattern and not any(re.search(pattern.strip("/"), name) for name in there):
        yield f"no column fits {pattern}"
    for layer in panel["options"].get("layers", ()):
        columns = answers[layer["filterData"]["options"]].columns if layer["filterData"]["options"] in answers else {}
        for name in _of_layer(layer):
            if name not in columns:
                yield f"layer {layer['name']} has no column {name}"
    for override in panel["fieldConfig"]["overrides"]:
        yield from _unknown_values(override, answers)


def _named(panel: Json) -> Iterator[str]:
    """Columns that overrides, names of curves, links and transformations name."""
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["id"] == "byName":
            yield override["matcher"]["options"]
    for _, text in _texts(panel["fieldConfig"]):
        yield from re.findall(r"\$\{__field\.labels\.(\w+)", text)
        yield from re.findall(r"\$\{__data\.fields\.(\w+)", text)
    for transformation in panel["transformations"]:
        yield from (value for key, value in transformation["options"].items() if key.endswith("Field"))


def _of_layer(layer: Json) -> Iterator[str]:
    yield layer["location"]["latitude"]
    yield layer["location"]["longitude"]
    yield from (
        part["field"] for part in layer["config"]["style"].values() if isinstance(part, dict) and "field" in part
    )


def _unknown_values(override: Json, answers: Mapping[str, Answer]) -> Iterator[str]:
    name = override["matcher"]["options"]
    mappings = [found["value"] for found in override["properties"] if found["id"] == "mappings"]
    words = {value for mapping in mappings for one in mapping for value in one["options"]}
    for answer in answers.values() if words else ():
        strange = set(answer.values(name)) - words if name in answer.columns else set()
        if strange:
            yield f"{name} has no words for {sorted(strange)}"
