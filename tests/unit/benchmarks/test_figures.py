"""Medians, ratios and overlaps."""

import pytest

from benchmarks.figures import (
    Span,
    core_seconds,
    most_at_once,
    parse_spans,
    percentile,
    ratio,
)


def test_a_ratio_is_taken_pair_by_pair() -> None:
    # a slow moment hit the second pair, both ways alike
    assert ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


def test_unequal_numbers_of_rounds_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_a_percentile_is_a_value_that_was_seen(share: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), share) == expected


def test_the_only_value_is_every_percentile() -> None:
    assert percentile([7.0], 0.99) == 7.0


def test_spans_are_read_with_either_decimal_mark_and_nothing_else() -> None:
    text = "span 2 10.5 11.25\nspan 1 10,5 12\nspan x 1 2\nthe span 1 2 3\nspan 1 2\n"
    assert parse_spans(text) == [Span(2, 10.5, 11.25), Span(1, 10.5, 12.0)]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([Span(1, 0, 1), Span(1, 1, 2)], 1, id="one after the other"),
        pytest.param([Span(1, 0, 2), Span(1, 1, 3)], 2, id="overlapping"),
        pytest.param([Span(2, 0, 5), Span(1, 1, 2), Span(1, 3, 4)], 3, id="threads count"),
    ],
)
def test_cores_held_at_once(spans: list[Span], expected: int) -> None:
    assert most_at_once(spans) == expected


def test_core_seconds_count_threads() -> None:
    assert core_seconds([Span(2, 0, 1.5), Span(1, 1, 2)]) == 4.0
