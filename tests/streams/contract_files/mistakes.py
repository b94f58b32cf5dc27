"""Files with every kind of mistake that a file can have, what each must be told as, and the same files mended.

One line has one mistake, unless its name says otherwise. Instants are relative to the `now_ms` a file is made for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import fastavro

from schemas.contracts import contract_of
from schemas.framing import encode, encode_confluent
from schemas.problems import Rule
from streams.clock import instant
from tests.support.city import CITY

SENSOR: Final = contract_of("sensor")
HOUR: Final = 3_600_000
#: Bytes of the record that is larger than any may be.
HUGE: Final = 1_100_000

Expected = Sequence[tuple[str | None, Rule]]
Value = dict[str, Any]


@dataclass(frozen=True)
class Mistake:
    """A line with something wrong: `broken` makes it of a good value, `mended` what it becomes (None: taken away)."""

    name: str
    expected: Expected
    broken: Callable[[Value], bytes]
    mended: Callable[[Value], Value | None] = field(default=lambda value: value)
    stored: bool = False
    """Whether a worker stores it as it is: only warnings are expected."""


def value(number: int, now_ms: int, **changes: Any) -> Value:
    """An ordinary reading of a bin, an hour old, of an identity of its own."""
    return {
        "event_id": f"m-{number}",
        "source": "gateway-07",
        "jurisdiction_id": CITY,
        "asset_id": "bin-00017",
        "observed_at": now_ms - HOUR + number,
        "sensor_type": "bin",
        "fill_level": 0.5,
        **changes,
    }


def _line(value: Value) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _with(**changes: Any) -> Callable[[Value], bytes]:
    return lambda value: _line(value | changes)


def _without(name: str) -> Callable[[Value], bytes]:
    return lambda value: _line({key: given for key, given in value.items() if key != name})


def _moved(by_ms: int) -> Callable[[Value], bytes]:
    return lambda value: _line(value | {"observed_at": value["observed_at"] + by_ms})


def _per(unit: float) -> Callable[[Value], bytes]:
    return lambda value: _line(value | {"observed_at": round(value["observed_at"] * unit)})


def _local(value: Value) -> bytes:
    text = instant(value["observed_at"]).strftime("%Y-%m-%dT%H:%M:%S")
    return _line(value | {"observed_at": text})


_gone: Final = lambda value: None  # noqa: E731 - a line that is taken away

#: Of JSON Lines, in the order of their lines; the first line of the file is a good one.
JSON_MISTAKES: Final[Sequence[Mistake]] = (
    Mistake("blank line", ((None, Rule.BLANK_LINE),), lambda v: b"", _gone, stored=True),
    Mistake("broken JSON", ((None, Rule.JSON),), lambda v: _line(v)[:-1]),
    Mistake("an array", ((None, Rule.JSON),), lambda v: b"[" + _line(v) + b"]"),
    Mistake("latin-1", ((None, Rule.ENCODING),), lambda v: _line(v | {"source": "X"}).replace(b"X", b"\xe9")),
    Mistake("too large", ((None, Rule.TOO_LARGE), ("source", Rule.LENGTH)), _with(source="s" * HUGE)),
    Mistake("unknown field", (("fillLevel", Rule.UNKNOWN_FIELD),), _with(fillLevel=0.5)),
    Mistake("name of a person", (("reporter_name", Rule.PERSON),), _with(reporter_name="Camille Exemple")),
    Mistake("telephone", (("phone", Rule.PERSON),), _with(phone="06 00 00 00 00")),
    Mistake("e-mail", (("contactEmail", Rule.PERSON),), _with(contactEmail="camille@example.org")),
    Mistake("field twice", (("fill_level", Rule.REPEATED_FIELD),),
            lambda v: _line(v)[:-1] + b', "fill_level": 0.6}'),
    Mistake("no event_id", (("event_id", Rule.MISSING),), _without("event_id")),
    Mistake("no observed_at", (("observed_at", Rule.MISSING),), _without("observed_at")),
    Mistake("null source", (("source", Rule.MISSING),), _with(source=None)),
    Mistake("null where an enum is", (("sensor_type", Rule.MISSING),), _with(sensor_type=None)),
    Mistake("number in quotes", (("fill_level", Rule.TYPE),), _with(fill_level="0.5")),
    Mistake("text where a number is", (("temperature_c", Rule.TYPE),), _with(temperature_c="froid")),
    Mistake("number where a text is", (("asset_id", Rule.TYPE),), _with(asset_id=17)),
    Mistake("1 where true is", (("lid_open", Rule.TYPE),), _with(lid_open=1)),
    Mistake("half a passer-by", (("motion_count", Rule.TYPE),), _with(motion_count=1.5)),
    Mistake("Avro's own JSON", (("fill_level", Rule.TYPE),), _with(fill_level={"double": 0.5})),
    Mistake("decimal comma", (("fill_level", Rule.DECIMAL_COMMA),), _with(fill_level="0,5")),
    Mistake("unknown symbol", (("sensor_type", Rule.SYMBOL),), _with(sensor_type="Bin")),
    Mistake("another key", (("key", Rule.KEY),), _with(key=f"{CITY}/bin-00017"), stored=True),
    Mistake("the right key", (), _with(key=f"{CITY}|bin-00017"), stored=True),
    Mistake("sent before", (("event_id", Rule.DUPLICATE),), _with(event_id="m-1")),
    Mistake("empty event_id", (("event_id", Rule.EMPTY),), _with(event_id="")),
    Mistake("long source", (("source", Rule.LENGTH),), _with(source="s" * 129)),
    Mistake("SIREN of eight digits", (("jurisdiction_id", Rule.PATTERN),), _with(jurisdiction_id="99999999")),
    Mistake("SIRET", (("jurisdiction_id", Rule.PATTERN),), _with(jurisdiction_id="99999999900017")),
    Mistake("another authority", (("jurisdiction_id", Rule.JURISDICTION),), _with(jurisdiction_id="123456789")),
    Mistake("space behind", (("asset_id", Rule.SPACE),), _with(asset_id="bin-00017 ", longitude=3.8772,
            latitude=43.6112), stored=True),
    Mistake("no instant", (("observed_at", Rule.INSTANT),), _with(observed_at="14/09/2026 08:30")),
    Mistake("local time", (("observed_at", Rule.TIME_ZONE),), _local),
    Mistake("seconds", (("observed_at", Rule.TIME_UNIT),), _per(1 / 1_000)),
    Mistake("microseconds", (("observed_at", Rule.TIME_UNIT),), _per(1_000)),
    Mistake("clock never set", (("observed_at", Rule.PAST),), _with(observed_at=0)),
    Mistake("two years old", (("observed_at", Rule.PAST),), _moved(-730 * 24 * HOUR)),
    Mistake("tomorrow", (("observed_at", Rule.FUTURE),), _moved(25 * HOUR)),
    Mistake("NaN", (("temperature_c", Rule.NOT_A_NUMBER),), _with(temperature_c=float("nan")), stored=True),
    Mistake("code for no measure", (("temperature_c", Rule.RANGE),), _with(temperature_c=-999.0), stored=True),
    Mistake("percent", (("fill_level", Rule.PERCENT),), _with(fill_level=62), stored=True),
    Mistake("metres", (("longitude", Rule.METRES),), _with(asset_id="new", longitude=770123.4, latitude=6279500.8)),
    Mistake("metres of a known asset", (("longitude", Rule.METRES),), _with(longitude=770123.4, latitude=6279500.8),
            stored=True),
    Mistake("swapped", (("longitude", Rule.SWAPPED),), _with(longitude=43.6112, latitude=3.8772), stored=True),
    Mistake("in the Pacific", (("longitude", Rule.OUT_OF_AREA),), _with(asset_id="new", longitude=-140.25,
            latitude=-24.5)),
    Mistake("half a position", (("latitude", Rule.NO_POSITION),), _with(longitude=3.8772), stored=True),
    Mistake("0, 0", (("longitude", Rule.NO_POSITION),), _with(longitude=0.0, latitude=0.0), stored=True),
    Mistake("unknown and nowhere", (("asset_id", Rule.NO_POSITION),), _with(asset_id="new"), stored=True),
    Mistake("four mistakes", (("jurisdiction_id", Rule.PATTERN), ("observed_at", Rule.TIME_ZONE),
            ("fill_level", Rule.PERCENT), ("mail", Rule.PERSON)),
            lambda v: _line(json.loads(_local(v)) | {"jurisdiction_id": "FR999999999", "fill_level": 62, "mail": "x"})),
)  # fmt: skip


def json_file(now_ms: int) -> bytes:
    """A byte order mark and a good line, then each mistake on a line of its own."""
    lines = [b"\xef\xbb\xbf" + _line(value(1, now_ms))]
    lines += [mistake.broken(value(n, now_ms)) for n, mistake in enumerate(JSON_MISTAKES, 2)]
    return b"\n".join(lines) + b"\n"


def json_expected() -> list[tuple[int, str | None, Rule]]:
    """Line, field and rule of everything that must be told about `json_file`."""
    told = [(n, name, rule) for n, mistake in enumerate(JSON_MISTAKES, 2) for name, rule in mistake.expected]
    return [(1, None, Rule.BYTE_ORDER_MARK), *told]


def mended(now_ms: int) -> list[Value]:
    """The values of `json_file` without its mistakes."""
    found = (mistake.mended(value(n, now_ms)) for n, mistake in enumerate(JSON_MISTAKES, 2))
    return [value(1, now_ms), *(one for one in found if one is not None)]


# --- CSV

COLUMNS: Final = ("event_id", "source", "jurisdiction_id", "asset_id", "observed_at", "sensor_type", "fill_level",
                  "temperature_c", "lid_open", "motion_count")  # fmt: skip


def csv_row(value: Mapping[str, Any], **cells: str) -> str:
    shown = {name: "" if value.get(name) is None else str(value[name]) for name in COLUMNS} | cells
    return ";".join(shown[name] for name in COLUMNS)


CSV_MISTAKES: Final[Sequence[tuple[str, Expected, Callable[[Value], str]]]] = (
    ("decimal comma", (("fill_level", Rule.DECIMAL_COMMA),), lambda v: csv_row(v, fill_level="0,62")),
    ("percent sign", (("fill_level", Rule.TYPE),), lambda v: csv_row(v, fill_level="62%")),
    ("percent", (("fill_level", Rule.PERCENT),), lambda v: csv_row(v, fill_level="62")),
    ("NaN", (("fill_level", Rule.NOT_A_NUMBER),), lambda v: csv_row(v, fill_level="NaN")),
    ("a word", (("temperature_c", Rule.TYPE),), lambda v: csv_row(v, temperature_c="n/a")),
    ("French truth", (("lid_open", Rule.TYPE),), lambda v: csv_row(v, lid_open="VRAI")),
    ("a fraction", (("motion_count", Rule.TYPE),), lambda v: csv_row(v, motion_count="1.5")),
    ("a spreadsheet's number", (("observed_at", Rule.INSTANT),), lambda v: csv_row(v, observed_at="1,789E+12")),
    ("a day that is none", (("observed_at", Rule.INSTANT),), lambda v: csv_row(v, observed_at="2026-02-30T08:00:00Z")),
    ("an empty cell", (("observed_at", Rule.MISSING),), lambda v: csv_row(v, observed_at="")),
    ("a cell too few", ((None, Rule.CSV),), lambda v: csv_row(v).rpartition(";")[0]),
    ("a cell too many", ((None, Rule.CSV),), lambda v: csv_row(v) + ";"),
    ("an open quote", ((None, Rule.CSV),), lambda v: csv_row(v, asset_id='"bin-00017')),
    ("a blank line", ((None, Rule.BLANK_LINE),), lambda v: "   "),
    ("RFC 3339", (), lambda v: csv_row(v, observed_at=instant(v["observed_at"]).isoformat(), lid_open="true")),
)


def csv_file(now_ms: int) -> bytes:
    """A header parted by semicolons, a good line, then each mistake."""
    rows = [";".join(COLUMNS), csv_row(value(1, now_ms))]
    rows += [broken(value(n, now_ms)) for n, (_, _, broken) in enumerate(CSV_MISTAKES, 3)]
    return "\r\n".join(rows).encode() + b"\r\n"


def csv_expected() -> list[tuple[int, str | None, Rule]]:
    told = [(n, name, rule) for n, (_, expected, _) in enumerate(CSV_MISTAKES, 3) for name, rule in expected]
    return [(1, None, Rule.SEPARATOR), *told]


# --- Avro


def avro_file(values: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None = None, **options: Any) -> bytes:
    """A container of these values, by our schema or another."""
    out = io.BytesIO()
    fastavro.writer(out, dict(schema or SENSOR.schema), values, **options)
    return out.getvalue()


#: A vendor's own schema: microseconds, a symbol of his own, a percentage as int, a field more, most of ours missing.
VENDOR: Final[Mapping[str, Any]] = {
    "type": "record",
    "name": "SensorObservation",
    "namespace": "vendor",
    "fields": [
        *({"name": name, "type": "string"} for name in ("event_id", "source", "jurisdiction_id", "asset_id")),
        {"name": "observed_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "sensor_type", "type": {"type": "enum", "name": "Kind", "symbols": ["bin", "tank"]}},
        {"name": "fill_level", "type": ["null", "int"]},
        {"name": "firmware", "type": "string"},
    ],
}


def vendor_value(number: int, now_ms: int, **changes: Any) -> Value:
    plain = value(number, now_ms, fill_level=1, firmware="1.0")
    return plain | {"observed_at": plain["observed_at"] * 1_000} | changes


# --- bytes


def hex_lines(now_ms: int) -> Sequence[tuple[str, Expected, bytes]]:
    """Lines of a hexadecimal file: name, what must be told, the line."""
    good = encode(SENSOR, value(1, now_ms, longitude=None))
    body = good[10:]
    lamp = encode(contract_of("lighting"), {"event_id": "l", "source": "s", "jurisdiction_id": CITY, "asset_id": "x",
                                            "observed_at": now_ms})  # fmt: skip
    turned = good[:2] + good[2:10][::-1] + body
    return (
        ("good", (), good.hex().encode()),
        ("another key", (("key", Rule.KEY), ("event_id", Rule.DUPLICATE)), b"bin-00017\t" + good.hex().encode()),
        ("not hexadecimal", ((None, Rule.HEX),), b"c3 01 zz"),
        ("nothing framed", ((None, Rule.AVRO),), body.hex().encode()),
        ("JSON", ((None, Rule.AVRO),), b'{"event_id": 1}'.hex().encode()),
        ("cut short", (("source", Rule.AVRO),), good[:18].hex().encode()),
        ("a byte more", ((None, Rule.AVRO),), good.hex().encode() + b"00"),
        ("a branch that is none", (("longitude", Rule.AVRO),), _with_branch(good, 4).hex().encode()),
        ("another contract", ((None, Rule.UNKNOWN_SCHEMA),), lamp.hex().encode()),
        ("fingerprint turned", ((None, Rule.UNKNOWN_SCHEMA),), turned.hex().encode()),
        ("Confluent", ((None, Rule.UNKNOWN_SCHEMA),), encode_confluent(SENSOR, value(1, now_ms), 7).hex().encode()),
    )


def _with_branch(good: bytes, branch: int) -> bytes:
    """The value with another branch of the first union, which stands behind six bytes of an instant."""
    text = good[10:]
    at = 0
    for _ in range(4):
        at += 1 + (text[at] >> 1)
    at += 6
    return good[:10] + text[:at] + bytes([branch]) + text[at + 1 :]
