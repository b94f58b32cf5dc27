"""The contracts as pages for somebody who has never seen us. Everything in them comes from the Avro files, the examples
and the encoder: they are made, never written."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import fastavro

from processors.validate import MAX_TEXT, ClockLimits
from schemas.codec import MOST_BYTES
from schemas.contracts import Contract, Field, examples
from schemas.field_rules import INSTANT
from schemas.framing import encode, single_object_prefix
from schemas.problems import Rule
from streams.clock import instant
from streams.contract_files import catalogue

INDEX: Final = "README.md"
_MADE: Final = "<!-- Made by `vigie contract pages docs/contracts` from schemas/avro: change it there. -->"

#: What each rule looks for, for the index.
RULES: Final[Mapping[Rule, str]] = {
    Rule.EMPTY_FILE: "a file without a record",
    Rule.ENCODING: "text that is not UTF-8, or a file that is something else",
    Rule.BYTE_ORDER_MARK: "a byte order mark at the beginning (warning)",
    Rule.BLANK_LINE: "a line with nothing on it (warning)",
    Rule.JSON: "a line that is not one JSON object",
    Rule.CSV: "another number of cells than the header has, or a quote that is not closed",
    Rule.SEPARATOR: "another separator than the comma (warning: it is read all the same)",
    Rule.HEADER: "a CSV file that does not begin with the names of fields",
    Rule.AVRO: "a container that is damaged or cut short, or bytes that are not what the schema says",
    Rule.HEX: "a line that is not hexadecimal",
    Rule.UNKNOWN_SCHEMA: "bytes written with a schema that is not known",
    Rule.TOO_LARGE: f"a record of more than {MOST_BYTES:,} bytes (VIGIE_MAX_RECORD_BYTES)",
    Rule.UNKNOWN_FIELD: "a field that the contract does not have; nothing you send is dropped without a word",
    Rule.PERSON: "a field that by its name can hold a person's data: a name, telephone, e-mail, free text, a device",
    Rule.REPEATED_FIELD: "a field given twice",
    Rule.MISSING: "a required field that is not there, or null",
    Rule.TYPE: "text where a number belongs, and the like",
    Rule.DECIMAL_COMMA: "a decimal comma: it is never guessed at, because elsewhere it parts thousands",
    Rule.SYMBOL: "a word that is none of those the field allows (a warning in Avro, where it is read as unknown)",
    Rule.KEY: "a member or column `key` that is not the key that the record's fields make (warning)",
    Rule.DUPLICATE: "the same source and event_id as an earlier record of the file",
    Rule.EMPTY: "an empty text where one is required",
    Rule.LENGTH: f"a text of more than {MAX_TEXT} characters",
    Rule.PATTERN: "a text that is not made as it should be: a SIREN of nine digits, a category in lower case",
    Rule.SPACE: "a text that begins or ends with a space (warning)",
    Rule.JURISDICTION: "an authority that this installation does not serve",
    Rule.INSTANT: "an instant that cannot be read",
    Rule.TIME_ZONE: "a local time: add Z or an offset",
    Rule.TIME_UNIT: "seconds, microseconds or nanoseconds where milliseconds belong",
    Rule.PAST: f"an instant before 2000, or more than {ClockLimits().max_age_ms // 86_400_000} days before it arrives",
    Rule.FUTURE: f"an instant more than {ClockLimits().max_future_ms // 1_000} s ahead of the broker's clock",
    Rule.NOT_A_NUMBER: "NaN or infinite (warning: stored without the value, flagged FAIL)",
    Rule.RANGE: "a value outside what is plausible (warning: stored, flagged FAIL, in no sum and no alert)",
    Rule.PERCENT: "a percentage where a ratio belongs (the same warning)",
    Rule.METRES: "metres of a projection passed off as degrees",
    Rule.SWAPPED: "latitude and longitude in each other's place (warning: they are changed back)",
    Rule.OUT_OF_AREA: "a position outside the authority's area (a warning where the registry knows the asset)",
    Rule.NO_POSITION: "half a position, 0/0, or an unknown asset without any (warning: in no zone)",
    Rule.REFUSED: "anything else that a stage refuses",
}


def pages() -> dict[str, str]:
    """Every page by file name, the index first."""
    return {INDEX: _index(), **{f"{found.name}.md": _page(found) for found in catalogue.every()}}


def _index() -> str:
    parts = [
        _MADE,
        "# Contracts",
        "What devices and systems send to *vigie*, and what they receive from it. Each page says what a record holds, "
        "shows one, and shows its bytes.",
        _table(
            ("contract", "topic", "", "what it is for"),
            (
                (f"[{e['name']}]({e['name']}.md)", f"`{e['topic']}`", _DIRECTION[e["direction"]], e["doc"])
                for e in catalogue.listed()
            ),
        ),
        _HOW,
        "## What is looked at",
        "`vigie contract validate FILE` names the line, the field and one of these rules, says what is there and how "
        "to mend it. A warning is stored all the same. Anything else either cannot be sent at all or is refused by the "
        "workers: the record then goes to the dead letters with its reason, and is stored nowhere else.",
        _table(("rule", "what breaks it"), ((f"`{rule.value}`", text) for rule, text in RULES.items())),
    ]
    return "\n\n".join(parts) + "\n"


_DIRECTION: Final = {"in": "you send it", "out": "you receive it"}

_HOW: Final = f"""\
## From a file to the topic

```
vigie contract list                                        # the contracts
vigie contract show SensorObservation                      # every field of one
vigie contract sample SensorObservation --count 100 > readings.jsonl
vigie contract validate readings.jsonl                     # line, field, rule, and how to mend it
vigie contract publish readings.jsonl --dry-run            # what would go where
vigie contract publish readings.jsonl                      # each record confirmed by the broker
```

Files are JSON Lines (`.jsonl`, one object a line), CSV (`.csv`, UTF-8, a header with the field names, an empty cell for
a value left out), Avro object containers (`.avro`) or hexadecimal (`.hex`, one encoded value a line, for whoever writes
an encoder). `-` is standard input. Exit codes: 0 all good (warnings are allowed unless `--strict`), 1 problems, 2 wrong
usage; `--json` writes one object a problem. Values are not repeated where they could be somebody's data.

- **Instants** are milliseconds since 1970, UTC, or in JSON and CSV text as RFC 3339 has it, with a zone:
  `2026-09-14T08:30:00Z`, `2026-09-14T10:30:00+02:00`.
- **Ratios** go from 0 to 1; a percentage is divided by 100 before it is sent.
- **Positions** are degrees of WGS84, longitude and latitude each in its field. An asset that does not move needs none:
  the authority's registry knows where it is.
- **The key** of a Kafka record is `{catalogue.RAW_KEY}`, in UTF-8, so that all records of one asset stay in
  order. Use the partitioner of Java clients: `murmur2_random` in librdkafka.
- **event_id** and **source** together name an event. After a time-out send it again, with the same two: it is stored
  once, as long as not more than some ten thousand others have come between.
- **Nobody's data.** There is no field for a name, a telephone number, an e-mail address or free text. Records with
  other fields than the contract's are refused before they leave your system."""


def _page(found: Contract) -> str:
    parts = [
        _MADE,
        f"# {found.name}",
        found.doc,
        _facts(found),
        "## Fields",
        _fields(found),
        "## An example",
        f"```json\n{json.dumps(_example(found), indent=2, ensure_ascii=False)}\n```",
        *(_sent(found) if catalogue.is_sent(found) else _received(found)),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(found: Contract) -> str:
    rows = [
        ("topic", f"`{catalogue.topic(found)}`"),
        ("key", f"`{catalogue.key(found)}`"),
        ("encoding", "Avro, single-object encoding"),
        ("every value begins with", f"`{single_object_prefix(found.schema).hex(' ')}`"),
        ("schema", f"[{found.name}.avsc](../../schemas/avro/{found.name}.avsc)"),
    ]
    return _table(("", ""), rows)


def _fields(found: Contract) -> str:
    headings = ("field", "type", "required", "plausible", "unit", "step", "what it is")
    return _table(
        headings,
        (
            (
                f"`{f.name}`",
                catalogue.kind(f),
                catalogue.must(f),
                f"`{f.pattern}`" if f.pattern else catalogue.plausible(f),
                catalogue.unit(f),
                catalogue.step(f),
                f.doc,
            )
            for f in found.fields
        ),
    ) + (
        "\n\nWhat is outside *plausible* is stored with a flag and left out of sums and alerts; a text that does not "
        f"match its pattern is refused. Texts have {MAX_TEXT} characters at most. *step* is what sums are rounded to."
        if catalogue.is_sent(found)
        else ""
    )


def _example(found: Contract) -> dict[str, Any]:
    """The first example that says something, without its nulls."""
    value = next(iter(examples(found.name, "good")))["value"]
    return {name: given for name, given in value.items() if given is not None}


def _sent(found: Contract) -> Iterator[str]:
    value = _example(found)
    key = f"{value['jurisdiction_id']}|{value['asset_id']}"
    yield "## The key"
    yield f"The record above is published under the key `{key}`." + (
        " A report that names no asset has nothing behind the bar." if not value["asset_id"] else ""
    )
    yield "## The bytes"
    yield (
        "A value is ten bytes that name the schema, then the fields in the order of the table, one behind the other, "
        "without names. A field that may be null begins with `00` for null, or with `02` and its value. Texts begin "
        "with their length, whole numbers and instants are zig-zag variable-length integers, numbers are eight bytes, "
        "little-endian; of a word its place in the list is written. An Avro library does all that."
    )
    yield _table(("bytes", "what they are"), _bytes(found, value))
    whole = encode(found, value)
    yield f"Together {len(whole)} bytes:"
    yield "```\n" + "\n".join(whole[i : i + 32].hex() for i in range(0, len(whole), 32)) + "\n```"
    yield (
        "To check an encoder of your own, write what it makes as hexadecimal, one value a line, and run "
        "`vigie contract validate values.hex`: it says at which byte and field it stops being a record."
    )
    yield "## In Python"
    yield f"```python\n{program(found)}```"
    yield "## Try it"
    commands = (
        f"vigie contract show {found.name}",
        f"vigie contract sample {found.name} --count 20 --format csv > records.csv",
        "vigie contract validate records.csv",
        "vigie contract publish records.csv --dry-run",
    )
    yield "\n".join(("```", *commands, "```"))


def _received(found: Contract) -> Iterator[str]:
    yield "## The key"
    yield (
        f"`{catalogue.key(found)}`: the topic is compacted, so of each alert at least the last transition stays. A "
        "transition can come more than once, always under the same `transition_id`."
    )
    yield "## The bytes"
    yield (
        f"Ten bytes that name the schema, `{single_object_prefix(found.schema).hex(' ')}`, then the fields in the "
        "order of the table as Avro writes them. With fastavro: "
        "`fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)`."
    )


def program(found: Contract) -> str:
    """A program that encodes and publishes a record of the contract; a test runs it."""
    return f'''\
import io, json, pathlib
import fastavro
from confluent_kafka import Producer

# The file is what `vigie contract show {found.name} --avsc` prints.
SCHEMA = fastavro.parse_schema(json.loads(pathlib.Path("{found.name}.avsc").read_text("utf-8")))
PREFIX = bytes.fromhex("{single_object_prefix(found.schema).hex()}")


def encode(record):
    out = io.BytesIO()
    out.write(PREFIX)
    fastavro.schemaless_writer(out, SCHEMA, record)
    return out.getvalue()


def publish(records, bootstrap):
    lost = []
    config = {{
        "bootstrap.servers": bootstrap,
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
    }}
    producer = Producer(config)
    for record in records:
        key = f"{{record['jurisdiction_id']}}|{{record['asset_id']}}"
        confirmed = lambda error, message: lost.append(error) if error else None
        producer.produce("{catalogue.topic(found)}", key=key, value=encode(record), on_delivery=confirmed)
        producer.poll(0)
    if producer.flush(30) or lost:
        raise SystemExit("not everything was confirmed: send it again, under the same event_id and source")
'''


def _bytes(found: Contract, value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    prefix = single_object_prefix(found.schema)
    yield f"`{prefix[:2].hex(' ')}`", "single-object encoding"
    yield f"`{prefix[2:].hex(' ')}`", f"{found.name} as it is today (CRC-64-AVRO of its schema, low byte first)"
    nulls: list[str] = []
    for field, raw in zip(found.fields, found.schema["fields"], strict=True):
        given = value.get(field.name)
        if given is None and field.nullable:
            nulls.append(field.name)
            continue
        if nulls:
            yield _nulls(nulls)
            nulls = []
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(raw["type"]), given)
        yield f"`{_cut(out.getvalue())}`", f"`{field.name}` {_said(field, given)}"
    if nulls:
        yield _nulls(nulls)


def _nulls(names: list[str]) -> tuple[str, str]:
    return f"`{' '.join(['00'] * len(names))}`", f"null: {', '.join(f'`{name}`' for name in names)}"


def _cut(data: bytes) -> str:
    return data.hex(" ") if len(data) <= 20 else f"{data[:12].hex(' ')} … {data[-2:].hex(' ')}"


def _said(field: Field, given: Any) -> str:
    if field.dtype == INSTANT:
        return f"{given} ({instant(given).isoformat(timespec='milliseconds').replace('+00:00', 'Z')})"
    return json.dumps(given, ensure_ascii=False)


def _table(headings: tuple[str, ...], rows: Any) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    for row in rows:
        lines.append(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |")
    return "\n".join(lines)
