"""Properties of the codec: any bytes become rows or rejects, and how a batch is cut never shows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import fastavro
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from schemas import codec, framing
from schemas.codec import decode_values
from schemas.contracts import DOMAINS, Contract, Field, contract, contract_of, examples
from schemas.framing import encode, encode_confluent, single_object_prefix
from schemas.rejects import REJECT_SCHEMA, Reason
from schemas.writers import Writer, own_writer

CONTRACTS: Final = (*(contract_of(domain) for domain in DOMAINS), contract("Alert"))
SCHEMA_ID: Final = 7

every_contract = pytest.mark.parametrize("c", CONTRACTS, ids=lambda c: c.name)
#: Derandomized: the same examples in every run, so a failure here is the commit's and not the day's.
quick = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))

Row = tuple[str, ...]


# --- values, bytes, and what becomes of them


def of_field(f: Field) -> st.SearchStrategy[Any]:
    """Any value the field's Avro type can hold, sensible or not."""
    if f.symbols:
        return st.sampled_from(f.symbols)
    match f.dtype:
        case pl.String():
            values: st.SearchStrategy[Any] = st.text(max_size=20)
        case pl.Float64():
            values = st.floats()
        case pl.Boolean():
            values = st.booleans()
        case _:
            values = st.integers(-(2**63), 2**63 - 1)
    return st.none() | values if f.nullable else values


def value_of(c: Contract) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({f.name: of_field(f) for f in c.fields})


def prefix(c: Contract) -> bytes:
    return single_object_prefix(c.schema)


def own_writers(c: Contract) -> dict[bytes, Writer | None]:
    """What resolves today's contract in both framings."""
    return {prefix(c): own_writer(c), encode_confluent(c, sample(c), SCHEMA_ID)[:5]: own_writer(c)}


def sample(c: Contract, number: int = 0) -> dict[str, Any]:
    """A realistic value with every field of the contract, its event told apart by `number`."""
    good = [e["value"] for e in examples(c.name, "good")]
    value: dict[str, Any] = {f.name: None for f in c.fields} | good[number % len(good)]
    return value | {c.fields[0].name: f"{c.name}-{number}"}


def frame_of(c: Contract, values: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The frame that decoding these values must give, made without the codec."""
    columns = [pl.Series("row", range(len(values)), dtype=pl.UInt32)]
    for f in c.fields:
        plain = pl.Int64() if isinstance(f.dtype, pl.Datetime) else f.dtype
        columns.append(pl.Series(f.name, [v[f.name] for v in values], dtype=plain).cast(f.dtype))
    return pl.DataFrame(columns)


def outcomes(c: Contract, values: Sequence[bytes | None], writers: Mapping[bytes, Writer | None]) -> list[Row]:
    """One entry per record, comparable whatever the values are: an event's values or a reject's reason.

    Asserts on the way what holds for every batch: the types of both frames, and each row in exactly one of them.
    """
    decoded = decode_values(c, values, writers)
    assert decoded.frame.schema == pl.Schema({"row": pl.UInt32(), **c.frame_schema()})
    assert decoded.rejects.schema == pl.Schema(REJECT_SCHEMA)
    assert decoded.frame["row"].is_sorted()
    assert set(decoded.rejects["reason"]) <= {Reason.DECODE.value, Reason.UNKNOWN_SCHEMA.value}
    assert set(decoded.rejects["stage"]) <= {codec.STAGE}
    assert sorted([*decoded.frame["row"], *decoded.rejects["row"]]) == list(range(len(values)))
    found: dict[int, Row] = {row: ("reject", reason, why) for row, _, reason, why in decoded.rejects.rows()}
    # Numbers, because Python has no datetime for most instants that 64 bits can name; repr, because NaN != NaN.
    plain = decoded.frame.with_columns(pl.col(pl.Datetime).cast(pl.Int64))
    found |= {row: ("event", *map(repr, rest)) for row, *rest in plain.rows()}
    return [found[row] for row in range(len(values))]


def alone(c: Contract, values: Sequence[bytes | None], writers: Mapping[bytes, Writer | None]) -> list[Row]:
    return [outcomes(c, [value], writers)[0] for value in values]


@st.composite
def corrupted(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with one thing wrong: a bit flipped, an end cut off, bytes put in or appended."""
    at = draw(st.integers(0, len(whole) - 1))
    match draw(st.sampled_from(("flip", "byte", "cut", "insert", "append"))):
        case "flip":
            return whole[:at] + bytes([whole[at] ^ 1 << draw(st.integers(0, 7))]) + whole[at + 1 :]
        case "byte":
            return whole[:at] + bytes([draw(st.integers(0, 255))]) + whole[at + 1 :]
        case "cut":
            return whole[:at]
        case "insert":
            return whole[:at] + draw(st.binary(min_size=1, max_size=12)) + whole[at:]
        case _:
            # Small numbers are what the guard of a record looks like.
            tail = draw(st.binary(min_size=1, max_size=12) | st.integers(0, 12).map(lambda n: bytes([2 * n])))
            return whole + tail


@st.composite
def batch(draw: st.DrawFn, c: Contract) -> tuple[list[bytes], list[bool]]:
    """Up to eight records in either framing, each sound or corrupted, and which are sound."""
    values, sound = [], []
    for value in draw(st.lists(value_of(c), max_size=8)):
        framed = encode(c, value) if draw(st.booleans()) else encode_confluent(c, value, SCHEMA_ID)
        sound.append(draw(st.booleans()))
        values.append(framed if sound[-1] else draw(corrupted(framed)))
    return values, sound


# --- properties


@every_contract
def test_decode_gives_back_what_was_encoded(c: Contract) -> None:
    """decode(encode(x)) = x for every value the Avro types can hold, in both framings, alone and in batches."""

    @quick
    @given(st.lists(value_of(c), max_size=6), st.booleans())
    def check(values: list[dict[str, Any]], confluent: bool) -> None:
        encoded = [encode_confluent(c, v, SCHEMA_ID) if confluent else encode(c, v) for v in values]
        decoded = decode_values(c, encoded, own_writers(c))
        assert_frame_equal(decoded.frame, frame_of(c, values), check_exact=True)
        assert decoded.rejects.is_empty()

    check()


@every_contract
def test_any_bytes_become_rows_or_rejects(c: Contract) -> None:
    """Nothing raises, whatever the bytes; each record is accounted for once; a missing value is a reject."""
    framing = st.sampled_from((b"", b"\xc3\x01", b"\x00", prefix(c), b"\x00\x00\x00\x00\x07"))
    value = st.none() | st.builds(bytes.__add__, framing, st.binary(max_size=120))

    @quick
    @given(st.lists(value, max_size=8))
    @example([])
    @example([None])
    @example([b""])
    @example([prefix(c)])
    @example([prefix(c) + b"\xff" * 100])
    def check(values: list[bytes | None]) -> None:
        found = outcomes(c, values, own_writers(c))
        assert len(found) == len(values)
        assert all(kind == "reject" for (kind, *_), value in zip(found, values, strict=True) if not value)

    check()


@every_contract
def test_a_bad_record_harms_no_neighbour(c: Contract) -> None:
    """Each record of a batch becomes what it becomes alone, whatever its neighbours are."""

    @quick
    @given(batch(c))
    def check(drawn: tuple[list[bytes], list[bool]]) -> None:
        values, sound = drawn
        found = outcomes(c, values, own_writers(c))
        assert found == alone(c, values, own_writers(c))
        assert all(kind == "event" for (kind, *_), ok in zip(found, sound, strict=True) if ok)

    check()


@every_contract
def test_the_cut_of_the_batches_does_not_show(c: Contract) -> None:
    """The same records in one batch or in any two give the same rows and the same rejects."""

    @quick
    @given(batch(c), st.integers(0, 8))
    def check(drawn: tuple[list[bytes], list[bool]], at: int) -> None:
        values, _ = drawn
        writers = own_writers(c)
        assert outcomes(c, values[:at], writers) + outcomes(c, values[at:], writers) == outcomes(c, values, writers)

    check()


@pytest.mark.parametrize(
    "bad_rows", [(0,), (255,), (256,), (699,), (0, 255, 256, 511, 512, 699), tuple(range(300, 560))]
)
def test_bad_records_in_a_long_batch(bad_rows: tuple[int, ...]) -> None:
    """In a batch of several blocks exactly the bad records are rejected, at every edge of a block."""
    c = contract("SensorObservation")
    values = [sample(c, n) for n in range(700)]
    encoded = [encode(c, v) for v in values]
    for row in bad_rows:
        encoded[row] = encoded[row][:-3]
    decoded = decode_values(c, encoded, own_writers(c))
    assert decoded.rejects["row"].to_list() == list(bad_rows)
    assert set(decoded.rejects["reason"]) == {"decode"}
    expected = frame_of(c, values).filter(~pl.col("row").is_in(bad_rows))
    assert_frame_equal(decoded.frame, expected, check_exact=True)


@every_contract
def test_bytes_after_the_body_are_never_taken_for_the_guard(c: Contract) -> None:
    """A record followed by the number of its own row is too long, at every row and wherever the batch ends."""
    values: list[bytes | None] = []
    for row in range(70):
        guard = io.BytesIO()
        fastavro.schemaless_writer(guard, "long", row)
        whole = encode(c, sample(c, row))
        tampered = outcomes(c, [*values, whole + guard.getvalue()], own_writers(c))
        assert tampered[-1][:2] == ("reject", "decode"), f"row {row} as the last of its batch"
        values.append(whole)
    assert {kind for kind, *_ in outcomes(c, values, own_writers(c))} == {"event"}


# --- framings and writers


def test_framings_mix_in_one_batch() -> None:
    """Both framings, an unknown fingerprint, an unknown id, garbage and nothing, in one batch, each as alone."""
    c = contract("LightingObservation")
    value = sample(c)
    body = encode(c, value)[10:]
    values: list[bytes | None] = [
        encode(c, value),
        b"\xc3\x01" + b"\x11" * 8 + body,
        encode_confluent(c, value, SCHEMA_ID),
        None,
        encode_confluent(c, value, SCHEMA_ID + 1),
        b"",
        body,
        encode(c, value),
        b"\xc3\x01\x00",
        b"\x00\x00",
    ]
    expected = ["event", "unknown_schema", "event", "decode", "unknown_schema", "decode", "decode", "event"]
    found = outcomes(c, values, own_writers(c))
    assert [reason[1] if reason[0] == "reject" else "event" for reason in found] == [*expected, "decode", "decode"]
    assert found[0] == found[2] == found[7]
    assert found == alone(c, values, own_writers(c))
    known = {named for value in values if value and (named := framing.prefix_of(value))}
    assert known == {prefix(c), b"\xc3\x01" + b"\x11" * 8, b"\x00\0\0\0\x07", b"\x00\0\0\0\x08"}
    assert outcomes(c, values, dict.fromkeys(known)) == [
        ("reject", "decode" if row in (3, 5, 6, 8, 9) else "unknown_schema", why) for row, (_, _, why) in
        enumerate(outcomes(c, values, {}))
    ]  # fmt: skip


@every_contract
def test_an_unknown_fingerprint_is_an_unknown_schema(c: Contract) -> None:
    """A record whose writer nobody knows is rejected as unknown_schema, and its body is not looked at."""

    @quick
    @given(st.binary(min_size=8, max_size=8), st.binary(max_size=60))
    def check(fingerprint: bytes, body: bytes) -> None:
        framed = b"\xc3\x01" + fingerprint + body
        if framed[:10] != prefix(c):
            ((kind, reason, _),) = outcomes(c, [framed], own_writers(c))
            assert (kind, reason) == ("reject", "unknown_schema")

    check()


def test_rejects_tell_no_value() -> None:
    """The detail of a reject goes into headers and logs: it holds nothing of the record."""
    c = contract("CitizenReport")
    secret = "jane.doe@example.org"
    whole = encode(c, sample(c) | {"reporter_pseudonym": secret, "service_request_id": secret})
    values = [whole[:-2], whole + b"\x01", whole[10:], b"\xc3\x01" + b"\x22" * 8 + whole[10:]]
    decoded = decode_values(c, values, own_writers(c))
    assert len(decoded.rejects) == len(values)
    assert not any(word in detail for detail in decoded.rejects["detail"] for word in ("jane", secret.encode().hex()))
