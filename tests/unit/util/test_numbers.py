"""Parsing of whole numbers in requests."""

import pytest

from wesemu.util.text import whole_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("007", 7),
        ("999999999", 999_999_999),
        ("1000000000", None),
        ("000000001999999", 1_999_999),
        ("0" * 50 + "9" * 5000, None),
        ("", None),
        ("-1", None),
        ("1.0", None),
        ("²", None),
        ("٣", None),
    ],
)
def test_digits_and_nothing_else(text: str, number: int | None) -> None:
    assert whole_number(text) == number
