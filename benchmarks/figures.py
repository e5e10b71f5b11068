"""Arithmetic for the tables."""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_NUMBER = r"(\d+(?:[.,]\d+)?)"
_SPAN = re.compile(rf"^span (\d+) {_NUMBER} {_NUMBER}$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Span:
    """A task that used `threads` cores from `start` to `end`, in seconds of one clock."""

    threads: int
    start: float
    end: float


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios of neighbours, which cancels a slow machine.

    Raise ValueError for lists of different length.
    """
    return median([a / b for a, b in zip(over, under, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile. `share` is in 0 to 1."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def parse_spans(text: str) -> list[Span]:
    """Parse all lines "span THREADS START END". Accept the decimal comma of bash's locale."""
    return [
        Span(int(threads), float(start.replace(",", ".")), float(end.replace(",", ".")))
        for threads, start, end in _SPAN.findall(text)
    ]


def most_at_once(spans: Iterable[Span]) -> int:
    """Return the maximum number of cores in use at the same time.

    A task that ends when another starts does not overlap it.
    """
    changes: list[tuple[float, int]] = []
    for span in spans:
        changes += [(span.start, span.threads), (span.end, -span.threads)]
    held = most = 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    return most


def core_seconds(spans: Iterable[Span]) -> float:
    return sum(span.threads * (span.end - span.start) for span in spans)
