"""Each kind of field takes what it should, and says of all else what is wrong and what to do."""

from __future__ import annotations

import io
import json
from typing import Any, Final

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.contracts import DOMAINS, Domain, contract_of
from schemas.field_rules import check
from schemas.framing import encode
from schemas.problems import Problem, Rule

_NOW: Final = 1_789_430_400_000
_SENSOR: Final = contract_of("sensor")
_HEAD: Final = {"event_id": "1", "source": "s", "jurisdiction_id": "999999999", "asset_id": "b", "observed_at": 5}


def said(**changes: Any) -> list[tuple[str | None, Rule]]:
    return [(p.field, p.rule) for p in check(_SENSOR, _HEAD | changes, _NOW).problems]


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("fill_level", 1, 1.0),
        ("motion_count", 12.0, 12),
        ("observed_at", 1.789e12, 1_789_000_000_000),
        ("observed_at", "2026-09-14T10:30:00+02:00", 1_789_374_600_000),
        ("observed_at", "1789374600000", 1_789_374_600_000),
        ("lid_open", False, False),
        ("sensor_type", "bin", "bin"),
        ("fill_level", None, None),
    ],
)
def test_values_become_what_the_contract_has(name: str, given: Any, taken: Any) -> None:
    """JSON does not tell 12 from 12.0, and people write instants in words."""
    found = check(_SENSOR, _HEAD | {name: given}, _NOW)
    assert found.problems == ()
    assert (found.value[name], type(found.value[name])) == (taken, type(taken))


@pytest.mark.parametrize("given", [True, "12", [12], {"long": 12}, 12.5, 2**63, float("inf"), 2.0**70])
def test_whole_numbers_are_not_guessed(given: Any) -> None:
    """What 64 bits cannot hold, or is no whole number, is told."""
    assert said(motion_count=given) == [("motion_count", Rule.TYPE)]


def test_null_means_left_out_only_where_it_may() -> None:
    """A required field is missed, an enum cannot be null, all else can."""
    assert said(event_id=None) == [("event_id", Rule.MISSING)]
    assert said(sensor_type=None) == [("sensor_type", Rule.MISSING)]
    assert said(lid_open=None) == []


def test_what_the_header_has_told_is_not_told_again() -> None:
    """A column that is not there is missing once, not in each line; the record is still no good."""
    found = check(_SENSOR, {k: v for k, v in _HEAD.items() if k != "source"}, _NOW, frozenset({"source"}))
    assert found.problems == ()
    assert found.stand_ins == {"source"}


def test_a_warning_of_the_reader_leaves_the_default() -> None:
    """A symbol that only its writer knows is read as unknown, and the record is good."""
    told = Problem("sensor_type", Rule.SYMBOL, "x", "y", warning=True)
    found = check(_SENSOR, _HEAD | {"sensor_type": told}, _NOW)
    assert (found.value["sensor_type"], found.stand_ins, found.problems) == ("unknown", frozenset(), (told,))


def test_the_key_is_no_field() -> None:
    """A text called key is the key that the record is published under; anything else of that name is a field more."""
    assert check(_SENSOR, _HEAD | {"key": "a|b"}, _NOW).key == "a|b"
    assert said(key=1) == [("key", Rule.UNKNOWN_FIELD)]


_ANY: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)


@pytest.mark.parametrize("domain", DOMAINS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_object_becomes_a_value_that_can_be_encoded(domain: Domain, data: st.DataObject) -> None:
    """Stand-ins and all, so that the stages can judge the rest of it. Without a problem it is what was given."""
    contract = contract_of(domain)
    names = st.sampled_from([f.name for f in contract.fields]) | st.text(max_size=5)
    raw = data.draw(st.dictionaries(names, _ANY, max_size=8))
    found = check(contract, raw, _NOW)
    payload = encode(contract, found.value)
    assert {f.name for f in contract.fields} == set(found.value)
    required = {f.name for f in contract.fields if not f.nullable and not f.symbols}
    assert bool(found.stand_ins) == any(not p.warning and p.field in found.value for p in found.problems)
    assert {p.field for p in found.problems} >= required - set(raw)
    if not found.problems:
        plain = json.loads(json.dumps(contract.schema), object_hook=_without_logical)
        read: Any = fastavro.schemaless_reader(io.BytesIO(payload[10:]), fastavro.parse_schema(plain), None)
        assert all(read[name] == value for name, value in raw.items() if not isinstance(value, str))


def _without_logical(node: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name != "logicalType"}
