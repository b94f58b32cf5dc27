"""Good means stored: what is said of a record agrees with what the pipeline does with it."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import Any, Final

import fastavro
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.pipeline import Limits
from schemas.contracts import DOMAINS, Contract, Domain, contract_of, examples
from schemas.framing import encode
from schemas.problems import Rule
from streams.contract_files.avro_file import NoAvroError
from streams.contract_files.judge import judge
from streams.contract_files.lines import Line
from streams.contract_files.source import FORMATS, Format
from tests.processors.test_pipeline import example_bytes
from tests.streams.contract_files.judging import basis, judged, lines_of, words
from tests.streams.contract_files.mistakes import avro_file, json_file
from tests.support.batches import HOUR, RECEIVED_MS, Ran, batch, reference
from tests.support.city import CITY

every_domain = pytest.mark.parametrize("domain", DOMAINS)
_INSTANT: Final = pl.Datetime("ms", "UTC")
#: Rules by the reason that a worker gives.
_RULES_OF: Final = {
    "decode": {Rule.AVRO},
    "unknown_schema": {Rule.UNKNOWN_SCHEMA},
    "contract": {Rule.EMPTY, Rule.LENGTH, Rule.PATTERN},
    "unknown_jurisdiction": {Rule.JURISDICTION},
    "quality": {Rule.PAST, Rule.TIME_UNIT},
    "future": {Rule.FUTURE, Rule.TIME_UNIT},
    "out_of_area": {Rule.OUT_OF_AREA, Rule.METRES},
}

_FLAGS: Final = {Rule.RANGE, Rule.PERCENT, Rule.NOT_A_NUMBER}


def refused_rows(domain: Domain, payloads: list[bytes | None]) -> set[int]:
    """The records of one batch that the pipeline refuses."""
    return {offset for offset, *_ in Ran([batch(payloads, domain)], reference()).refused}


@every_domain
def test_examples_are_judged_as_the_pipeline_judges_them(domain: Domain) -> None:
    """Every example of every contract, good and bad, as bytes and where it can be as JSON: stored or refused alike,
    and refused by a rule that belongs to the reason."""
    name = contract_of(domain).name
    shown = [*examples(name, "good"), *examples(name, "bad")]
    as_bytes = [(one, Line(n, payload=example_bytes(domain, one))) for n, one in enumerate(shown, 1)]
    as_json = [(one, Line(n, one["value"])) for n, one in enumerate(shown, 1) if "value" in one]
    for cases in (as_bytes, as_json):
        found = judge([line for _, line in cases], basis(domain), RECEIVED_MS)
        for (example, _), line in zip(cases, found, strict=True):
            rules = {problem.rule for problem in line.problems if not problem.warning}
            assert (line.payload is None) == ("reason" in example), example["note"]
            assert bool(rules) == ("reason" in example), example["note"]
            assert rules <= _RULES_OF.get(example.get("reason", ""), set()), example["note"]
        stored = [line for line in found if line.payload is not None]
        quality = Ran([batch([line.payload for line in stored], domain)], reference()).events["quality"].to_list()
        told = [bool(_FLAGS & {problem.rule for problem in line.problems}) for line in stored]
        assert told == [flag == 4 for flag in quality]


# --- mistakes nobody thought of

_JUNK: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**63), 2**53 + 1, 1e300, -0.0, 3.0, 1.5, 62, 100.5, 770123.4, 43.6112, 3.8772]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", " ", "bin", "BIN", "x" * 129, "é" * 128, "999999999", "99999999", "0,5", "12", "\ud800", "a\n"]
    ),
    st.sampled_from(
        ["2026-09-14T08:30:00Z", "2026-09-14T08:30:00", "2026-09-14", "2199-01-01T00:00:00Z", "1789371000"]
    ),
    st.integers(RECEIVED_MS - 800 * 24 * HOUR, RECEIVED_MS + HOUR),
    st.integers(-(10**12), 10**19),
    st.just([1]),
    st.just({"double": 0.5}),
)


@st.composite
def mistaken(draw: st.DrawFn, domain: Domain) -> dict[str, Any]:
    """An example of the contract with up to three things changed: most often so that it is none any more."""
    contract = contract_of(domain)
    value = dict(draw(st.sampled_from(list(examples(contract.name, "good"))))["value"])
    names = [f.name for f in contract.fields]
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(names))
        match draw(st.integers(0, 9)):
            case 0:
                value.pop(name, None)
            case 1:
                value[draw(st.sampled_from(["nom", "Fill_Level", "x"]))] = draw(_JUNK)
            case _:
                value[name] = draw(_JUNK)
    return value


def as_written(contract: Contract, value: dict[str, Any]) -> dict[str, Any] | None:
    """The value that an integrator's own encoder would write, by an oracle of its own; None where none could.

    JSON does not tell 3 from 3.0; instants may be RFC 3339; what is left out has its default.
    """
    if not set(value) <= {f.name for f in contract.fields}:
        return None
    whole = {raw["name"]: raw["default"] for raw in contract.schema["fields"] if "default" in raw} | value
    for f in contract.fields:
        given = whole.get(f.name)
        if f.dtype == _INSTANT and isinstance(given, str):
            whole[f.name] = _instant(given)
        elif (
            f.dtype in (_INSTANT, pl.Int64()) and isinstance(given, float) and given.is_integer() and abs(given) < 1e16
        ):
            whole[f.name] = int(given)
    plain = json.loads(
        json.dumps(contract.schema), object_hook=lambda d: {k: v for k, v in d.items() if k != "logicalType"}
    )
    try:
        fits = fastavro.validation.validate(whole, fastavro.parse_schema(plain), strict=True, raise_errors=False)
        encode(contract, whole)
    except (OverflowError, UnicodeEncodeError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return whole if fits else None


@cache
def _plain(contract: Contract) -> Any:
    """The contract's schema without logical types, in which an instant is a number."""
    text = json.dumps(contract.schema)
    plain = json.loads(text, object_hook=lambda node: {k: v for k, v in node.items() if k != "logicalType"})
    return fastavro.parse_schema(plain)


def _instant(text: str) -> int | str:
    """Milliseconds since 1970, or the text where it is no instant, which no schema allows then."""
    if text.isdigit():
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return text if found.tzinfo is None or "T" not in text else round(found.timestamp() * 1_000)


@every_domain
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.data())
def test_the_verdict_is_the_pipelines(domain: Domain, data: st.DataObject) -> None:
    """Of any records, those are good that can be encoded and that the pipeline stores; the others are refused."""
    contract = contract_of(domain)
    values = data.draw(st.lists(mistaken(domain), min_size=1, max_size=12))
    found = judge([Line(n, value) for n, value in enumerate(values, 1)], basis(domain), RECEIVED_MS)
    written = [as_written(contract, value) for value in values]
    payloads = [encode(contract, value) for value in written if value is not None]
    refused = refused_rows(domain, list(payloads)) if payloads else set()
    rows = iter(range(len(payloads)))
    expected = [value is not None and next(rows) not in refused for value in written]
    assert [line.payload is not None for line in found] == expected
    assert [line.payload for line in found if line.payload] == [p for n, p in enumerate(payloads) if n not in refused]
    for line, good in zip(found, expected, strict=True):
        assert good or any(not problem.warning for problem in line.problems), "refused without a word"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(FORMATS), st.binary(max_size=300), st.binary(max_size=40), st.integers(0, 4_000))
def test_no_bytes_make_an_exception(form: Format, content: bytes, noise: bytes, at: int) -> None:
    """Whatever a file holds, it is judged or refused in words: noise alone, and noise within a file that was right."""
    whole = avro_file([{"event_id": "1", "source": "s", "jurisdiction_id": CITY, "asset_id": "a", "observed_at": 0}])
    right = whole if form == "avro" else json_file(RECEIVED_MS)[: 4_000 + at]
    for bytes_ in (content, right[:at] + noise + right[at + len(noise) :]):
        try:
            found = judged(bytes_, form)
        except NoAvroError:
            # The word of whoever opens a container, which `source` passes on.
            assert form == "avro"
            continue
        for line in found:
            assert line.payload is None or not any(not problem.warning for problem in line.problems)


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_the_cut_into_parts_changes_nothing(size: int) -> None:
    """Lines are judged together for speed alone: duplicates included, each is told the same in any company."""
    lines = lines_of(json_file(RECEIVED_MS), "jsonl")
    on = basis()
    parts = [judge(lines[at : at + size], on, RECEIVED_MS) for at in range(0, len(lines), size)]
    assert [line for part in parts for line in part] == judged(json_file(RECEIVED_MS), "jsonl")


def test_what_is_refused_is_not_remembered() -> None:
    """As in a worker: an event that is sent again after its mistake was mended is no duplicate; the third is."""
    bad = {**_good(), "observed_at": 0}
    found = judge([Line(n, value) for n, value in enumerate([bad, _good(), _good()], 1)], basis(), RECEIVED_MS)
    assert [line.payload is not None for line in found] == [False, True, False]
    assert found[2].problems[0].found == "the same source and event_id as line 2"


def test_an_event_beyond_the_workers_memory_is_still_told() -> None:
    """A worker forgets after a chunk and the audit counts; here all of a file is compared."""
    on = basis(limits=Limits(chunk_records=2))
    values = [{**_good(), "event_id": str(n % 7)} for n in range(8)]
    parts = [judge([Line(n, value)], on, RECEIVED_MS) for n, value in enumerate(values, 1)]
    assert [bool(line.problems) for (line,) in parts] == [False] * 7 + [True]


def _good() -> dict[str, Any]:
    return {
        "event_id": "1",
        "source": "s",
        "jurisdiction_id": CITY,
        "asset_id": "bin-00017",
        "observed_at": RECEIVED_MS,
    }


def test_records_too_large_are_judged_all_the_same() -> None:
    """Size comes first and hides nothing: the field that makes it, and what else is wrong."""
    value = {**_good(), "source": "s" * 1_100_000, "jurisdiction_id": "1", "fill_level": 62}
    found = judge([Line(1, value)], basis(), RECEIVED_MS)
    assert [(p.field, p.rule) for p in found[0].problems] == [
        (None, Rule.TOO_LARGE), ("source", Rule.LENGTH), ("jurisdiction_id", Rule.PATTERN),
        ("fill_level", Rule.PERCENT),
    ]  # fmt: skip
    assert "1,100," not in words(found)
