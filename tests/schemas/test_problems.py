"""What is told of a value, and what never is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.problems import named, shape, shown


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (62, "62"),
        (-999.0, "-999"),
        (0.62, "0.62"),
        ("0,62", "the text 0,62"),
        ("62 %", "the text 62 %"),
        (True, "true"),
        (None, "null"),
        (float("nan"), "a value that is not finite"),
        (612345678, "a whole number of 9 digits"),
        (770123.4567, "a number of 6 digits before the point"),
        (10**400, "an enormous number"),
        ("VRAI", "a text of 4 characters (letters)"),
        ("06 12 34 56 78", "a text of 14 characters (digits and spaces)"),
        ("", "an empty text"),
        ([1], "a list"),
        ({}, "an object"),
        (b"x", "bytes"),
    ],
)
def test_short_numbers_are_shown_and_all_else_is_described(value: Any, told: str) -> None:
    """Whoever mends a file must see 62 and know a text by its shape."""
    assert shown(value) == told


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(min_size=1))
def test_no_text_is_repeated(text: str) -> None:
    """Of a text only its length and the kinds of its characters are told, whatever it is."""
    assert shape(text) == shape("".join("a" if c.isalpha() else "0" if c.isdigit() else c for c in text))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(10_000_000, 10**400) | st.floats(min_value=10_000_000, max_value=1e308))
def test_no_long_number_is_repeated(number: int | float) -> None:
    """A telephone number in a column of measures is told by how long it is."""
    assert repr(number)[:8] not in shown(number)


@pytest.mark.parametrize("name", ["fill_level", "Fill-Level", "a" * 64])
def test_names_of_fields_are_told(name: str) -> None:
    """A field is found by its name."""
    assert named(name) == name


@pytest.mark.parametrize("name", ["Camille Exemple", "camille@example.org", "a" * 65, "", "0612345678", "é"])
def test_what_does_not_look_like_a_name_is_not(name: str) -> None:
    """A line of data taken for a header stays where it is."""
    assert named(name) == f"({shape(name)})"
