"""A record made beforehand differs from one made when it is sent in nothing but when that was."""

from __future__ import annotations

import pytest

from benchmarks.stamped import asset_of, stamped
from schemas.codec import decode_values
from schemas.contracts import DOMAINS, RAW_TOPICS, Domain, contract_of
from schemas.framing import encode
from schemas.writers import own_writers
from streams.simulation.avro import varint
from streams.simulation.records import Record
from tests.support.batches import event

_BEFORE, _NOW = 1_700_000_000_000, 1_790_000_000_000


def _record(domain: Domain, **changes: object) -> Record:
    value = event(domain, event_id="0123456789abcdef", observed_at=_BEFORE, **changes)
    return Record(RAW_TOPICS[domain], b"123456789|an asset", encode(contract_of(domain), value), 0)


@pytest.mark.parametrize("domain", DOMAINS)
def test_identity_and_event_time_are_new_and_nothing_else(domain: Domain) -> None:
    """The stamped value is the value that the contract itself would write."""
    contract = contract_of(domain)
    record = _record(domain, longitude=3.9, latitude=43.5)
    sent = stamped(record, contract).value(0xFEED, varint(_NOW))
    wanted = event(domain, event_id="000000000000feed", observed_at=_NOW, longitude=3.9, latitude=43.5)
    assert sent == encode(contract, wanted)
    decoded = decode_values(contract, [sent], own_writers(contract))
    assert decoded.rejects.is_empty()


def test_long_identities_and_old_event_times_are_taken_apart() -> None:
    """Lengths above 63 take two bytes, and a small instant takes fewer than a large one."""
    contract = contract_of("sensor")
    value = event("sensor", event_id="e" * 100, source="s" * 70, observed_at=5)
    record = Record(RAW_TOPICS["sensor"], b"k", encode(contract, value), 0)
    wanted = event("sensor", event_id=f"{1:016x}", source="s" * 70, observed_at=_NOW)
    assert stamped(record, contract).value(1, varint(_NOW)) == encode(contract, wanted)


def test_what_is_of_another_contract_is_refused() -> None:
    """Cut at the wrong places, a record would be nonsense that the worker refuses by the thousand."""
    with pytest.raises(ValueError, match="LightingObservation"):
        stamped(_record("sensor"), contract_of("lighting"))


def test_a_key_names_the_asset() -> None:
    """An asset may have a bar in its name; an authority has none."""
    assert asset_of(b"123456789|bin|7") == "bin|7"
