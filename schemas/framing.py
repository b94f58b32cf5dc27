"""How a record says which schema wrote it, and encoding under today's contracts.

Wire formats: Confluent framing (`00`, schema id in 4 bytes) and Avro single-object encoding (`C3 01`, CRC-64-AVRO
fingerprint in 8 bytes). The framing bytes, called the *prefix*, name the writer schema.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import fastavro

from schemas.contracts import Contract, fingerprint

SINGLE_OBJECT: Final = b"\xc3\x01"
CONFLUENT: Final = b"\x00"


def encode(contract: Contract, value: Mapping[str, Any]) -> bytes:
    """One value in single-object encoding. Instants are integer milliseconds or aware datetimes."""
    return _framed(SINGLE_OBJECT + contract.fingerprint.to_bytes(8, "little"), contract, value)


def encode_confluent(contract: Contract, value: Mapping[str, Any], schema_id: int) -> bytes:
    """One value in Confluent framing, under the id the registry gave to the contract's schema."""
    return _framed(CONFLUENT + schema_id.to_bytes(4, "big"), contract, value)


def _framed(prefix: bytes, contract: Contract, value: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    out.write(prefix)
    fastavro.schemaless_writer(out, contract.parsed, value)
    return out.getvalue()


def single_object_prefix(schema: Mapping[str, Any]) -> bytes:
    """The ten bytes that name a schema in single-object encoding."""
    return SINGLE_OBJECT + fingerprint(schema).to_bytes(8, "little")


def prefix_of(value: bytes) -> bytes | None:
    """The framing bytes of a record value; None when it has no framing that we know."""
    if value.startswith(SINGLE_OBJECT) and len(value) >= 10:
        return value[:10]
    if value.startswith(CONFLUENT) and len(value) >= 5:
        return value[:5]
    return None
