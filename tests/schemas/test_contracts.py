"""The contracts as published: what every Avro file must be, and what the examples beside them must show."""

from __future__ import annotations

import io
import json
import re
from typing import Any, Final

import fastavro
import polars as pl
import pytest

from schemas.contracts import DOMAINS, HEAD, Contract, Field, contract, contract_of, examples, fingerprint
from schemas.rejects import Reason

RAW: Final = tuple(contract_of(domain) for domain in DOMAINS)
EVERY: Final = (*RAW, contract("Alert"))
raw_contract = pytest.mark.parametrize("c", RAW, ids=lambda c: c.name)
every_contract = pytest.mark.parametrize("c", EVERY, ids=lambda c: c.name)

#: The instant at which a pipeline that is fed the examples should say that it received them: 2026-09-15, midnight UTC.
RECEIVED_AT_MS: Final = 1_789_430_400_000
_DAY_MS: Final = 86_400_000
#: Rows of one chunk, whose squares are summed into one signed 64-bit integer.
_CHUNK_ROWS: Final = 65_536
_PLACE: Final = ("longitude", "latitude")


def branches(raw: dict[str, Any]) -> list[Any]:
    kind = raw["type"]
    return kind if isinstance(kind, list) else [kind]


def numbers(c: Contract) -> list[Field]:
    return [f for f in c.fields if f.dtype in (pl.Float64(), pl.Int64())]


@every_contract
def test_contracts_are_flat(c: Contract) -> None:
    """Fields are primitives, instants, enums, or a primitive or instant that may be null: what decodes as columns."""
    for raw in c.schema["fields"]:
        kinds = branches(raw)
        assert len(kinds) == 1 or (len(kinds) == 2 and kinds[0] == "null"), raw["name"]
        kind = kinds[-1]
        if isinstance(kind, str):
            assert kind in ("string", "double", "long", "boolean"), raw["name"]
        elif kind["type"] == "enum":
            assert len(kinds) == 1, f"{raw['name']}: a nullable enum does not decode as a column"
        else:
            assert (kind["type"], kind["logicalType"]) == ("long", "timestamp-millis"), raw["name"]


@every_contract
def test_enums_begin_with_unknown_and_default_to_it(c: Contract) -> None:
    """A symbol of tomorrow's writer must become something today."""
    enums = [(raw["name"], raw["type"]) for raw in c.schema["fields"] if c.field(raw["name"]).symbols]
    assert enums
    for name, kind in enums:
        assert kind["symbols"][0] == kind["default"] == "unknown", name
        assert len(set(kind["symbols"])) == len(kind["symbols"]), name


@every_contract
def test_every_nullable_field_defaults_to_null(c: Contract) -> None:
    """Writers may leave it out, older data lacks it, and both read as null."""
    for raw in c.schema["fields"]:
        if c.field(raw["name"]).nullable:
            assert "default" in raw, raw["name"]
            assert raw["default"] is None, raw["name"]


@every_contract
def test_everything_is_documented(c: Contract) -> None:
    """The contract and each field say what they mean, in a sentence; instants have a unit."""
    assert re.fullmatch(r"[A-Z].*\.", c.doc)
    for f in c.fields:
        assert re.fullmatch(r"[A-Z0-9].*\.", f.doc), f.name
        assert not isinstance(f.dtype, pl.Datetime) or f.unit == "ms", f.name


@raw_contract
def test_every_number_of_an_observation_has_a_unit_and_bounds(c: Contract) -> None:
    """No measure without unit, minimum and maximum: they are what `validate` judges by."""
    for f in numbers(c):
        assert f.unit, f.name
        assert f.minimum is not None, f.name
        assert f.maximum is not None, f.name
        assert f.minimum < f.maximum, f.name


@raw_contract
def test_observations_share_their_head(c: Contract) -> None:
    """The first fields are the same in each raw contract, so identity, time and place are read in one way."""
    assert tuple(f.name for f in c.fields[: len(HEAD)]) == HEAD
    for name in HEAD:
        mine, first = c.field(name), RAW[0].field(name)
        assert (mine.dtype, mine.nullable, mine.unit, mine.pattern) == (
            first.dtype, first.nullable, first.unit, first.pattern,
        )  # fmt: skip


@every_contract
def test_sums_of_squares_fit_64_bits(c: Contract) -> None:
    """The squares of a whole chunk of the largest value, in steps of its resolution, fit a signed 64-bit integer."""
    for f in c.metrics:
        assert f.minimum is not None
        assert f.maximum is not None
        assert f.resolution is not None
        steps = round(max(abs(f.minimum), abs(f.maximum)) / f.resolution)
        assert steps > 0, f.name
        assert steps**2 * _CHUNK_ROWS < 2**63, f"{f.name}: make the resolution coarser or the range smaller"


def test_positions_and_reports_are_never_summed() -> None:
    """A sum of longitudes means nothing, and a report has no measure."""
    assert not [f.name for c in RAW for f in c.metrics if f.name in _PLACE]
    assert contract("CitizenReport").metrics == ()
    assert all(c.metrics for c in RAW if c.name != "CitizenReport")


def test_a_citizen_report_has_no_place_for_a_person() -> None:
    """No field whose name hints at a name, a phone, an address or free text; text fields that could are patterned."""
    hints = re.compile(r"name|phone|mail|text|address|description|comment|title|contact|photo|media|birth|ip\b", re.I)
    c = contract("CitizenReport")
    assert [f.name for f in c.fields if hints.search(f.name)] == []
    assert c.field("reporter_pseudonym").pattern == "^[0-9a-f]{64}$"


@every_contract
def test_patterns_are_whole_matches(c: Contract) -> None:
    """A pattern without both anchors would accept anything around the match."""
    for f in c.fields:
        if f.pattern:
            assert f.pattern.startswith("^"), f.name
            assert f.pattern.endswith("$"), f.name
            re.compile(f.pattern)


def test_fingerprints_tell_the_contracts_apart() -> None:
    """The fingerprint names the writer on the wire; documentation does not change it, a field does."""
    assert len({c.fingerprint for c in EVERY}) == len(EVERY)
    c = RAW[0]
    again = json.loads(json.dumps(c.schema))
    again["doc"] = "Another text."
    assert fingerprint(again) == c.fingerprint
    again["fields"].pop()
    assert fingerprint(again) != c.fingerprint


# --- the examples


def written(c: Contract, value: dict[str, Any]) -> dict[str, Any]:
    """The value after a trip through fastavro, which fills defaults and raises for what the contract cannot hold."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, c.parsed, value, strict_allow_default=True)
    plain = json.loads(json.dumps(c.schema), object_hook=lambda d: {k: v for k, v in d.items() if k != "logicalType"})
    out.seek(0)
    read = fastavro.schemaless_reader(out, fastavro.parse_schema(plain), None)
    assert isinstance(read, dict)
    return read


def rules_broken(c: Contract, value: dict[str, Any]) -> set[str]:
    """The reasons to refuse a value that need no territory, from the words of the contract and nothing else."""
    broken = set()
    for f in c.fields:
        text = value.get(f.name)
        if not isinstance(text, str) or f.symbols:
            continue
        may_be_empty = c.name == "CitizenReport" and f.name == "asset_id"
        if (
            len(text) > 128
            or (not text and not may_be_empty)
            or (f.pattern and not re.fullmatch(f.pattern[1:-1], text))
        ):
            broken.add(Reason.CONTRACT.value)
    at = value["observed_at"]
    if at < 946_684_800_000 or at < RECEIVED_AT_MS - 400 * _DAY_MS:
        broken.add(Reason.QUALITY.value)
    if at > RECEIVED_AT_MS + 300_000:
        broken.add(Reason.FUTURE.value)
    if value["jurisdiction_id"] != "999999999" and Reason.CONTRACT.value not in broken:
        broken.add(Reason.UNKNOWN_JURISDICTION.value)
    return broken


@every_contract
def test_good_examples_are_values_of_the_contract(c: Contract) -> None:
    """Each can be written, comes back the same with defaults filled in, has a note, and an identifier of its own."""
    seen = list(examples(c.name, "good"))
    for example in seen:
        assert set(example) == {"note", "value"}
        value = example["value"]
        assert written(c, value) == {f.name: None for f in c.fields if f.nullable} | value, example["note"]
        assert value["jurisdiction_id"] == "999999999"
    first = c.fields[0].name
    assert len({e["value"][first] for e in seen}) == len({e["note"] for e in seen}) == len(seen)


@every_contract
def test_good_examples_show_every_field_and_symbol(c: Contract) -> None:
    """Each field is given somewhere, null somewhere and left out somewhere where it may be; each symbol occurs."""
    values = [e["value"] for e in examples(c.name, "good")]
    for f in c.fields:
        assert any(v.get(f.name) is not None for v in values), f"{f.name} is given in no example"
        if f.nullable:
            assert any(f.name in v and v[f.name] is None for v in values), f"{f.name} is null in no example"
            assert any(f.name not in v for v in values), f"{f.name} is left out in no example"
    if c in RAW:
        for f in c.fields:
            assert {v[f.name] for v in values if f.symbols} == set(f.symbols), f.name


@raw_contract
def test_good_examples_break_no_rule(c: Contract) -> None:
    """None would be refused when received on 2026-09-15: texts, patterns and clocks are as the contract says."""
    for example in examples(c.name, "good"):
        assert rules_broken(c, example["value"]) == set(), example["note"]


@raw_contract
def test_bad_examples_break_one_rule_each(c: Contract) -> None:
    """What a value is refused for is the only thing wrong with it; bytes are given only where no value can say it."""
    for example in examples(c.name, "bad"):
        note, reason = example["note"], example["reason"]
        assert set(example) in ({"note", "reason", "value"}, {"note", "reason", "hex"}), note
        if "hex" in example:
            assert reason in ("decode", "unknown_schema"), note
            bytes.fromhex(example["hex"])
            continue
        value = example["value"]
        assert written(c, value) == {f.name: None for f in c.fields if f.nullable} | value, note
        assert rules_broken(c, value) == ({reason} if reason != "out_of_area" else set()), note
        if reason == "out_of_area":
            assert not (3 < value["longitude"] < 5 and 43 < value["latitude"] < 44), note


@raw_contract
def test_bad_bytes_are_framed_as_this_contract(c: Contract) -> None:
    """Framed examples of bad bodies carry today's fingerprint: after a change of the fields, write them anew."""
    mark = b"\xc3\x01" + c.fingerprint.to_bytes(8, "little")
    framed = [bytes.fromhex(e["hex"]) for e in examples(c.name, "bad") if e["reason"] == "decode" and "hex" in e]
    long_enough = [value for value in framed if value.startswith(b"\xc3\x01") and len(value) >= 10]
    assert long_enough
    assert all(value.startswith(mark) for value in long_enough)


@raw_contract
def test_bad_examples_show_every_reason_a_single_record_can_have(c: Contract) -> None:
    """Duplicates, sinks and sizes need more than one record; every other reason has an example in each contract."""
    shown = {Reason(e["reason"]) for e in examples(c.name, "bad")}
    assert shown == set(Reason) - {Reason.DUPLICATE, Reason.SINK, Reason.TOO_LARGE}


def test_examples_hold_no_register_of_persons() -> None:
    """Good examples, which are copied into documents and demos, hold nothing that looks like a phone or an e-mail."""
    for c in EVERY:
        for example in examples(c.name, "good"):
            assert not re.search(r"@|\+33|\b0[1-9](?:[ .]?\d\d){4}\b", json.dumps(example)), example["note"]
