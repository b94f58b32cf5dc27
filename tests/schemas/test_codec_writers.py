"""Writers other than today's: older and newer schemas read as the contract, on the fast path and on the slow one."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import fastavro
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from schemas import writers
from schemas.codec import decode_values
from schemas.contracts import Contract, contract
from schemas.framing import single_object_prefix
from schemas.writers import Writer
from tests.schemas.test_codec import alone, every_contract, frame_of, outcomes, quick, sample, value_of

Change = Callable[[dict[str, Any]], None]


def written_by(c: Contract, change: Change, values: Sequence[Mapping[str, Any]]) -> tuple[list[bytes], Writer]:
    """The values as a writer with a changed schema frames them, and that writer made ready."""
    schema = copy.deepcopy(dict(c.schema))
    change(schema)
    parsed = fastavro.parse_schema(schema)
    framed = []
    for value in values:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, value)
        framed.append(single_object_prefix(schema) + out.getvalue())
    return framed, writers.writer(c, schema)


def without(*names: str) -> Change:
    def change(schema: dict[str, Any]) -> None:
        schema["fields"] = [f for f in schema["fields"] if f["name"] not in names]

    return change


def with_type(name: str, kind: Any) -> Change:
    def change(schema: dict[str, Any]) -> None:
        field = next(f for f in schema["fields"] if f["name"] == name)
        field["type"] = kind
        field.pop("default", None)

    return change


def with_extra(kind: Any, at: int) -> Change:
    return lambda schema: schema["fields"].insert(at, {"name": "extra", "type": kind})


def decoded_from(c: Contract, change: Change, values: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The frame of records that a changed writer wrote, with one cut record between them that must be rejected."""
    framed, w = written_by(c, change, values)
    writers = {framed[0][:10]: w}
    whole = decode_values(c, framed, writers)
    assert whole.rejects.is_empty()
    assert outcomes(c, framed, writers) == alone(c, framed, writers)
    beside = outcomes(c, [*framed, framed[0][:-1]], writers)
    assert beside[:-1] == outcomes(c, framed, writers)
    assert beside[-1][:2] == ("reject", "decode")
    return whole.frame


@every_contract
def test_an_older_writer_without_a_field_that_has_a_default(c: Contract) -> None:
    """A field the writer did not know yet is null, an enum `unknown`, and nothing else changes."""
    values = [sample(c, n) for n in range(5)]
    for f in c.fields:
        if f.nullable or f.symbols:
            expected = [v | {f.name: f.symbols[0] if f.symbols else None} for v in values]
            assert_frame_equal(decoded_from(c, without(f.name), values), frame_of(c, expected), check_exact=True)
    optional = [f.name for f in c.fields if f.nullable]
    expected = [v | dict.fromkeys(optional) for v in values]
    assert_frame_equal(decoded_from(c, without(*optional), values), frame_of(c, expected), check_exact=True)


_POINT: Final = {"type": "record", "name": "P", "fields": [{"name": "x", "type": "double"}]}


@pytest.mark.parametrize("at", [0, 8])
@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("string", "more"),
        (["null", "double"], 1.5),
        ("bytes", b"\x00\x01"),
        ({"type": "map", "values": "string"}, {"a": "b"}),
        ({"type": "array", "items": "long"}, [1, 2, 3]),
        (_POINT, {"x": 1.0}),
        (["null", {"type": "enum", "name": "E", "symbols": ["a", "b"]}], "b"),
        ({"type": "fixed", "name": "F", "size": 3}, b"abc"),
        (["null", "string", "long"], 5),
        ({"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}, None),
    ],
    ids=["string", "double", "bytes", "map", "array", "record", "nullable-enum", "fixed", "wide-union", "decimal"],
)
def test_a_writer_with_a_field_of_its_own(kind: Any, extra: Any, at: int) -> None:
    """A field that the contract does not have is skipped, whatever its type; it may make the batch slower only."""
    c = contract("SensorObservation")
    values = [sample(c, n) for n in range(5)]
    more = [v | {"extra": Decimal("12.34") if extra is None else extra} for v in values]
    assert_frame_equal(decoded_from(c, with_extra(kind, at), more), frame_of(c, values), check_exact=True)


@pytest.mark.parametrize("kind", ["int", ["null", "int"], ["int", "null"], ["long", "null"], "long"], ids=str)
def test_int_is_promoted_to_long(kind: Any) -> None:
    """An integer of any width and nullability reads as the contract's long."""
    c = contract("SensorObservation")
    counts = [0, -1, 2**31 - 1, -(2**31), 17] if "null" not in kind else [0, None, 2**31 - 1, -(2**31), 17]
    values = [sample(c, n) | {"motion_count": count} for n, count in enumerate(counts)]
    assert_frame_equal(decoded_from(c, with_type("motion_count", kind), values), frame_of(c, values), check_exact=True)


@pytest.mark.parametrize(
    "kind", ["float", ["null", "float"], ["float", "null"], "int", "long", ["double", "null"]], ids=str
)
def test_numbers_are_promoted_to_double(kind: Any) -> None:
    """A narrower number reads as the contract's double, exactly."""
    c = contract("SensorObservation")
    levels = [0.0, -3.0, 5.0, 1024.0, 7.0]
    if "float" in kind:
        levels = [0.5, math.inf, -0.25, 2.0**-140, 3.0]
    values = [sample(c, n) | {"fill_level": level} for n, level in enumerate(levels)]
    numbers = [v | {"fill_level": int(v["fill_level"])} for v in values] if kind in ("int", "long") else values
    assert_frame_equal(decoded_from(c, with_type("fill_level", kind), numbers), frame_of(c, values), check_exact=True)


def test_an_enum_symbol_that_the_contract_does_not_have_is_unknown() -> None:
    """A newer or a differently ordered writer's symbols are read by name; those that are none become `unknown`."""
    c = contract("LightingObservation")
    symbols = ["strobe", "booting_up", "on", "unknown", "off"]
    values = [sample(c, n) | {"power_state": symbol} for n, symbol in enumerate(symbols)]
    expected = [v | {"power_state": "unknown" if v["power_state"] == "strobe" else v["power_state"]} for v in values]
    kinds: list[Any] = [{"type": "enum", "name": "PowerState", "symbols": symbols}, "string"]
    for kind in kinds:
        assert_frame_equal(
            decoded_from(c, with_type("power_state", kind), values), frame_of(c, expected), check_exact=True
        )


@pytest.mark.parametrize("nullable", [None, 0, 1], ids=["plain", "null-first", "null-last"])
def test_microseconds_are_read_as_milliseconds(nullable: int | None) -> None:
    """A writer that counts microseconds means the same instant, on the fast path and on the slow one."""
    c = contract("RoadwayObservation")
    micros: Any = {"type": "long", "logicalType": "timestamp-micros"}
    name, kind = ("observed_at", micros) if nullable is None else ("closure_start_at", [micros])
    if nullable is not None:
        kind.insert(nullable, "null")
    instants = [1_789_365_600_123, 0, 1_789_365_600_000]
    values = [sample(c, n) | {name: instant} for n, instant in enumerate(instants)]
    written = [v | {name: v[name] * 1000} for v in values]
    assert_frame_equal(decoded_from(c, with_type(name, kind), written), frame_of(c, values), check_exact=True)


@pytest.mark.parametrize(
    "change",
    [
        without("asset_id"),
        without("observed_at"),
        with_type("asset_id", "long"),
        with_type("asset_id", ["null", "string"]),
        with_type("observed_at", "long"),
        with_type("observed_at", "string"),
        with_type("fill_level", "string"),
        with_type("fill_level", ["null", "double", "string"]),
        with_type("motion_count", "double"),
        with_type("lid_open", "int"),
        with_type("sensor_type", "int"),
        lambda schema: schema.update(name="LightingObservation"),
        lambda schema: schema.update(type="enum"),
    ],
)
def test_a_writer_that_cannot_be_read_is_refused_when_it_is_made(change: Change) -> None:
    """A schema that lacks what is required, or means something else, is an error that names the field."""
    c = contract("SensorObservation")
    schema = copy.deepcopy(dict(c.schema))
    change(schema)
    with pytest.raises(writers.IncompatibleSchemaError, match=r"field \w+ (is missing|cannot be read)|is not Sensor"):
        writers.writer(c, schema)


@every_contract
def test_the_slow_path_gives_what_the_fast_path_gives(c: Contract) -> None:
    """Where Polars cannot read the writer's schema the rows are the same, for every value."""

    @quick
    @given(st.lists(value_of(c), min_size=1, max_size=4))
    def check(values: list[dict[str, Any]]) -> None:
        extra: Any = {"type": "map", "values": "long"}
        framed, w = written_by(c, with_extra(extra, 0), [v | {"extra": {"a": 1}} for v in values])
        assert w.container is None
        decoded = decode_values(c, framed, {framed[0][:10]: w})
        assert_frame_equal(decoded.frame, frame_of(c, values), check_exact=True)

    check()
