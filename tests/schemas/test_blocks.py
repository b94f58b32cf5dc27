"""Records decoded as the broker keeps them: the same as one by one, whatever they are, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.blocks import Form, form_of, read
from schemas.codec import Decoded, decode, decode_values
from schemas.contracts import Contract, contract
from schemas.framing import encode, encode_confluent
from schemas.records import Batch, Rows
from schemas.writers import Writer, own_writer
from tests.schemas.test_codec import SCHEMA_ID, corrupted, every_contract, own_writers, prefix, quick, sample, value_of
from tests.support.blocks import Record, block

SENSOR = contract("SensorObservation")
MOST = 1_048_576


def batch_of(records: Sequence[Record], sizes: Sequence[int]) -> Batch:
    """Records in blocks of these sizes; what is left comes one by one."""
    pieces: list[Any] = []
    start = 0
    for size in sizes:
        if part := records[start : start + size]:
            pieces.append(block(part))
        start += size
    if rest := records[start:]:
        pieces.append(Rows(*zip(*rest, strict=True)))
    offsets = np.arange(len(records), dtype=np.int64)
    return Batch("city.raw.sensor", 0, offsets, offsets, pieces)


def comparable(decoded: Decoded) -> tuple[Any, ...]:
    plain = decoded.frame.with_columns(pl.col(pl.Datetime).cast(pl.Int64))
    assert decoded.frame["row"].dtype == pl.UInt32()
    return plain.schema, [tuple(map(repr, row)) for row in plain.rows()], decoded.rejects.rows()


def assert_as_alone(c: Contract, records: Sequence[Record], sizes: Sequence[int]) -> None:
    """Decoding them in blocks gives what decoding their values gives."""
    writers: Mapping[bytes, Writer | None] = own_writers(c)
    batch = batch_of(records, sizes)
    found = decode(c, batch, writers, MOST)
    assert comparable(found) == comparable(decode_values(c, [value for _, value, _ in records], writers, MOST))
    kept = [batch.original(row) for row in range(len(records))]
    assert [(key, value, list(headers)) for key, value, headers in kept] == [
        (key, value, list(headers)) for key, value, headers in records
    ]


def apart(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts what is taken apart."""
    taken: list[int] = []
    before = codec._Found._apart

    def noted(self: Any, run: Any) -> None:
        taken.append(sum(len(one) for _, one in run))
        before(self, run)

    monkeypatch.setattr(codec._Found, "_apart", noted)
    return taken


# --- what is read whole


@every_contract
@pytest.mark.parametrize("framing", ["single object", "confluent"])
@pytest.mark.parametrize("keyed", [True, False])
def test_records_that_are_alike_are_read_whole(
    c: Contract, framing: str, keyed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keys or without, in either framing, however many batches the broker made of them: nothing is taken apart."""
    taken = apart(monkeypatch)
    values = [
        encode(c, value) if framing == "single object" else encode_confluent(c, value, SCHEMA_ID)
        for value in (sample(c, number) for number in range(40))
    ]
    records: list[Record] = [(b"k" * (number % 9) if keyed else None, value, ()) for number, value in enumerate(values)]
    assert_as_alone(c, records, [1, 7, 30, 2])
    assert taken == []


def test_kafkas_integers_of_every_width_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long keys and values, and more records than one byte counts."""
    taken = apart(monkeypatch)
    long = sample(SENSOR) | {"asset_id": "a" * 9_000}
    records: list[Record] = [(b"k" * 8_200, encode(SENSOR, long), ())]
    records += [(b"k" * 64, encode(SENSOR, sample(SENSOR, number)), ()) for number in range(8_500)]
    assert_as_alone(SENSOR, records, [len(records)])
    assert taken == []


# --- what is not


def test_records_that_are_not_alike_are_taken_apart() -> None:
    """Headers, nothing, no framing, another schema, another key: each among others, at every place."""
    good = encode(SENSOR, sample(SENSOR, 1))
    odd: list[Record] = [
        (b"k", good, [("ce_id", b"1")]),
        (b"k", good, [("empty", None), ("twice", b"")]),
        (b"k", None, ()),
        (b"k", b"", ()),
        (None, good, ()),
        (b"", good, ()),
        (b"k", b"garbage", ()),
        (b"k", b"\x00\x00\x00\x00\x63" + good[10:], ()),
        (b"k", encode_confluent(SENSOR, sample(SENSOR, 2), SCHEMA_ID), ()),
        (b"k", good[:-1], ()),
        (b"k", good + b"\x00", ()),
        (b"k", good[:10], ()),
    ]
    for one in odd:
        for place in range(3):
            records: list[Record] = [(b"k", encode(SENSOR, sample(SENSOR, n)), ()) for n in range(2)]
            records.insert(place, one)
            assert_as_alone(SENSOR, records, [3])
            assert_as_alone(SENSOR, [*records, *records], [2, 3, 1])


def test_only_what_is_near_a_bad_record_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of many small blocks with one bad record: the others are read without being taken apart."""
    taken = apart(monkeypatch)
    records: list[Record] = [(b"k", encode(SENSOR, sample(SENSOR, number)), ()) for number in range(2_000)]
    records[1_000] = (b"k", b"\xc3\x01 neither framing nor schema", ())
    assert_as_alone(SENSOR, records, [20] * 100)
    assert sum(taken) <= 300


def test_a_value_that_is_too_large_is_rejected_alone() -> None:
    """Its neighbours in the block are events."""
    records: list[Record] = [(b"k", encode(SENSOR, sample(SENSOR, number)), ()) for number in range(3)]
    records[1] = (b"k", encode(SENSOR, sample(SENSOR) | {"asset_id": "a" * 5_000}), ())
    found = decode(SENSOR, batch_of(records, [3]), own_writers(SENSOR), 4_000)
    assert found.frame["row"].to_list() == [0, 2]
    assert found.rejects.select("row", "reason").rows() == [(1, "too_large")]


def test_a_schema_that_nobody_knows_is_told_from_others() -> None:
    """The framing of the first record of a block stands for no other's."""
    known = encode(SENSOR, sample(SENSOR))
    strange = b"\xc3\x01" + b"\x11" * 8 + known[10:]
    for values in ([strange, known, known], [known, strange, known]):
        records: list[Record] = [(b"k", value, ()) for value in values]
        found = decode(SENSOR, batch_of(records, [3]), own_writers(SENSOR))
        assert len(found.frame) == 2
        assert found.rejects["reason"].to_list() == ["unknown_schema"]


@every_contract
def test_blocks_give_what_their_records_give_alone(c: Contract) -> None:
    """Whatever bytes: sound and corrupted values, in any mixture of framings, keys, headers and cuts."""
    keys = st.none() | st.binary(max_size=70)
    headers = st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=2)

    @st.composite
    def record(draw: st.DrawFn) -> Record:
        value = draw(value_of(c))
        framed = encode(c, value) if draw(st.integers(0, 3)) else encode_confluent(c, value, SCHEMA_ID)
        wrong = draw(st.integers(0, 9))
        if wrong == 9:
            framed = draw(corrupted(framed))
        elif wrong == 8:
            return b"k", draw(st.none() | st.binary(max_size=20)), ()
        return (b"k", framed, ()) if draw(st.integers(0, 9)) else (draw(keys), framed, draw(headers))

    @quick
    @given(st.lists(record(), min_size=1, max_size=10), st.lists(st.integers(1, 6), max_size=4))
    def check(records: list[Record], sizes: list[int]) -> None:
        assert_as_alone(c, records, sizes)

    check()


def test_no_flipped_bit_is_read_as_something_else() -> None:
    """A bit of every byte of a block of records, one at a time: what is read whole is what is there, or nothing is."""
    records: list[Record] = [(b"k", encode(SENSOR, sample(SENSOR, number)), ()) for number in range(3)]
    sound = block(records)
    form = form_of(sound)
    assert form == Form(prefix(SENSOR), keyed=True)
    writer = own_writer(SENSOR)
    expected = read(writer, form, [sound], MOST)
    assert expected is not None
    data = bytes(sound.data)
    believed = 0
    for at in range(len(data)):
        wrong = bytearray(data)
        # One bit of each byte, another one each time: all of them take half a minute and find no more.
        wrong[at] ^= 1 << at % 8
        found = read(writer, form, [type(sound)(bytes(wrong), 3, sound.unpack)], MOST)
        if found is not None:
            # A value's own bits: the others are what they were.
            believed += 1
            columns = [(found[name].to_list(), expected[name].to_list()) for name in found.columns]
            rows = {n for here, there in columns for n in range(3) if repr(here[n]) != repr(there[n])}
            assert len(rows) <= 1, (at, rows)
    assert believed < len(data)
