"""Record values as a device encodes them: hexadecimal, one a line. What somebody who writes an encoder wants to check.

999999999|bin-00017<tab>c301ae63bd4efb1960c4…      the key may stand before the value
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Final

import fastavro

from schemas.contracts import Contract
from schemas.framing import CONFLUENT, SINGLE_OBJECT, prefix_of, single_object_prefix
from schemas.problems import Problem, Rule
from schemas.rejects import Reason
from schemas.writers import plain
from streams.contract_files.lines import Line, blank, decoded, text_lines, too_long, without_mark

_AGAIN: Final = "compare with the worked example in the contract's page, byte by byte"


def payload_of(first_line: bytes) -> bytes:
    """The value in the first line; empty where there is none."""
    text, _ = decoded(without_mark(1, first_line)[0])
    try:
        return bytes.fromhex(text.rpartition("\t")[2])
    except ValueError:
        return b""


def read(stream: BinaryIO, most_bytes: int) -> Iterator[Line]:
    """The lines of a file, those longer than `most_bytes` unread."""
    for number, line in text_lines(stream, most_bytes):
        if line is None:
            yield too_long(number, most_bytes)
            continue
        line, marked = without_mark(number, line)
        if not line.strip():
            yield blank(number)
            continue
        text, problems = decoded(line)
        key, _, digits = text.rpartition("\t")
        try:
            payload = bytes.fromhex(digits)
        except ValueError:
            found, mend = "a line that is not hexadecimal", "write two digits, 0 to 9 and a to f, for each byte"
            yield Line(number, problems=(*marked, *problems, Problem(None, Rule.HEX, found, mend)), lost=True)
            continue
        yield Line(number, payload=payload, key=key or None, problems=(*marked, *problems), size_bytes=len(line))


def refused(contract: Contract, others: Iterator[Contract], payload: bytes, reason: str, detail: str) -> Problem:
    """Why the codec refuses these bytes, as far as they tell."""
    if reason == Reason.TOO_LARGE:
        return too_large(len(payload), detail)
    if reason == Reason.UNKNOWN_SCHEMA:
        return _unknown_schema(contract, others, payload)
    if not payload:
        return Problem(None, Rule.AVRO, "no bytes", "send a value: null and nothing are refused")
    prefix = prefix_of(payload)
    if prefix is None:
        mark = SINGLE_OBJECT.hex(" ")
        if payload[:1] in (b"{", b"["):
            return Problem(None, Rule.AVRO, "JSON as text", f"encode it in Avro, after {mark} and the fingerprint")
        found = f"no framing: the first bytes are not {mark}"
        return Problem(None, Rule.AVRO, found, f"begin with {single_object_prefix(contract.schema).hex(' ')}")
    if prefix != single_object_prefix(contract.schema):
        return Problem(None, Rule.AVRO, "a body that is not what the schema it names says", "write it by that schema")
    return _bad_body(contract, payload[len(prefix) :])


def too_large(size: int, detail: str) -> Problem:
    """A record that takes more than Kafka or the worker allows."""
    return Problem(
        None, Rule.TOO_LARGE, f"{size} bytes, {detail}", "send less in one record; texts have 128 characters"
    )


def _unknown_schema(contract: Contract, others: Iterator[Contract], payload: bytes) -> Problem:
    expected = single_object_prefix(contract.schema)
    if payload.startswith(CONFLUENT):
        found = f"Confluent framing with schema id {int.from_bytes(payload[1:5], 'big')}, which is not known here"
        mend = f"register the schema and set VIGIE_SCHEMA_REGISTRY_URL, or begin with {expected.hex(' ')}"
        return Problem(None, Rule.UNKNOWN_SCHEMA, found, mend)
    for other in others:
        if payload.startswith(single_object_prefix(other.schema)):
            found = f"a {other.name}, and {contract.name} is expected"
            return Problem(None, Rule.UNKNOWN_SCHEMA, found, "send it to that contract's topic")
    turned = contract.fingerprint.to_bytes(8, "big")
    why = (
        "the fingerprint's bytes are in the wrong order" if payload[2:10] == turned else "a fingerprint not known here"
    )
    return Problem(
        None, Rule.UNKNOWN_SCHEMA, why, f"begin with {expected.hex(' ')}, for {contract.name} as it is today"
    )


def _bad_body(contract: Contract, body: bytes) -> Problem:
    """The field at which the body stops being what the schema says."""
    source = io.BytesIO(body)
    for raw in plain(contract.schema)["fields"]:
        begin = source.tell()
        try:
            fastavro.schemaless_reader(source, fastavro.parse_schema(raw["type"]), None)
        except (EOFError, ValueError, IndexError, TypeError, OverflowError, MemoryError):
            ends = "the value ends" if source.tell() >= len(body) else "the bytes are not what the schema says"
            return Problem(
                raw["name"], Rule.AVRO, f"{ends} in this field, which begins at byte {begin} of the body", _AGAIN
            )
    left = len(body) - source.tell()
    if left:
        return Problem(None, Rule.AVRO, f"{left} more bytes than the record has", "send one record in one value")
    return Problem(None, Rule.AVRO, "bytes that are not what the schema says", _AGAIN)
