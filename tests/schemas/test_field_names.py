"""Names that no contract has."""

from __future__ import annotations

from typing import Final

import pytest

from schemas.contracts import DOMAINS, contract_of
from schemas.field_names import is_about_a_person, nearest

_SENSOR: Final = [f.name for f in contract_of("sensor").fields]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("fillLevel", "fill_level"),
        ("FILL LEVEL", "fill_level"),
        ("filllevl", "fill_level"),
        ("timestamp", "observed_at"),
        ("lat", "latitude"),
        ("lng", "longitude"),
        ("SIREN", "jurisdiction_id"),
        ("device_id", "asset_id"),
        ("temp", "temperature_c"),
        ("firmware", None),
        ("speed", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_found(name: str, meant: str | None) -> None:
    """Other spellings and other systems' words lead to the contract's; what is far leads nowhere."""
    assert nearest(name, _SENSOR) == meant


@pytest.mark.parametrize(
    "name",
    ["name", "reporterName", "nom", "Prénom", "phone_number", "tel", "contactEmail", "e-mail", "adresse", "MAC",
     "device_mac", "description", "free text", "plate", "IP"],
)  # fmt: skip
def test_fields_about_persons_are_recognized(name: str) -> None:
    """French or English, alone or within a longer name."""
    assert is_about_a_person(name)


@pytest.mark.parametrize("name", ["firmware", "telemetry", "macro", "emailed_count", "rssi", "ship_id", "context"])
def test_words_within_words_are_not(name: str) -> None:
    """Only whole words count."""
    assert not is_about_a_person(name)


def test_no_field_of_a_raw_contract_is_taken_for_a_persons() -> None:
    """But for the pseudonym, which is one by design, and a request's own words."""
    found = {f.name for d in DOMAINS for f in contract_of(d).fields if is_about_a_person(f.name)}
    assert found == {"reporter_pseudonym"}


def test_a_name_of_a_million_letters_costs_nothing() -> None:
    """Names come from others; only their beginning is looked at."""
    assert nearest("x" * 1_000_000, _SENSOR) is None
    assert not is_about_a_person("x" * 1_000_000)
