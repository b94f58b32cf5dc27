"""The simulator's columnar Avro writer."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.contracts import contract_of
from schemas.framing import encode
from streams.simulation.avro import encode_rows, hexadecimal, string, varint


def test_rows_are_what_the_codec_writes_one_by_one() -> None:
    """Nulls here and there, varints of any length and strings of any length give the codec's bytes, in order."""
    contract = contract_of("sensor")
    rng = np.random.default_rng(3)
    rows = 400
    ids = [f"bin-{'é' * (n % 5)}{n * 37}" for n in range(rows)]
    level = np.where(rng.random(rows) < 0.3, np.nan, rng.random(rows))
    motion = rng.integers(0, [1, 100, 100_000, 1_000_000], (rows // 4, 4), endpoint=True).ravel()
    observed = np.concatenate([np.arange(rows // 2) * 97, 1_770_000_000_000 + np.arange(rows // 2)])
    lid = rng.random(rows) < 0.5
    values = encode_rows(contract, rows, {
        "event_id": hexadecimal(np.arange(rows, dtype=np.uint64)), "source": "test", "jurisdiction_id": "123456782",
        "asset_id": [string(text) for text in ids], "observed_at": observed, "sensor_type": "bin",
        "fill_level": level, "lid_open": lid, "motion_count": motion, "period_s": 60.0,
    })  # fmt: skip
    assert values == [
        encode(contract, {
            "event_id": f"{n:016x}", "source": "test", "jurisdiction_id": "123456782", "asset_id": ids[n],
            "observed_at": int(observed[n]), "sensor_type": "bin", "lid_open": bool(lid[n]),
            "fill_level": None if np.isnan(level[n]) else float(level[n]), "motion_count": int(motion[n]),
            "period_s": 60.0,
        })
        for n in range(rows)
    ]  # fmt: skip


def test_numbers_are_zigzag_varints() -> None:
    """The examples of the Avro specification."""
    assert [varint(n) for n in (0, -1, 1, -2, 2, -64, 64)] == [
        b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", b"\x7f", b"\x80\x01",
    ]  # fmt: skip


def test_what_the_contract_cannot_hold_is_refused() -> None:
    """A column the contract does not have, and null where it wants a value, are errors that name the field."""
    contract = contract_of("lighting")
    with pytest.raises(KeyError, match="fill_level"):
        encode_rows(contract, 1, {"fill_level": np.array([0.5])})
    with pytest.raises(ValueError, match="event_id"):
        encode_rows(contract, 1, {})


def test_no_rows_are_no_values() -> None:
    """An empty run of reports encodes to nothing."""
    assert encode_rows(contract_of("lighting"), 0, {"observed_at": np.empty(0, np.int64)}) == []
