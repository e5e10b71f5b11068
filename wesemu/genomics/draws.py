"""Random draws that are the same on every Python and platform."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A seeded stream of draws; streams of one seed are independent of each other.

    Built on `Random.random` alone: Python promises to keep that method and integer seeding
    (documentation of `random`, "Notes on reproducibility"), not `choice`, `shuffle` or `gauss`.
    No function of the C mathematics library is used, since those differ in the last bit.
    """

    def __init__(self, seed: int, stream: int) -> None:
        self.uniform = Random((seed << 8) | stream).random  # noqa: S311 - no secret

    def below(self, limit: int) -> int:
        """An integer of 0 .. limit - 1."""
        return int(self.uniform() * limit)

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def normal(self, mean: float, deviation: float) -> float:
        """Nearly normal, never beyond six deviations: the sum of twelve uniform draws."""
        total = 0.0
        for _ in range(12):  # not sum(): Python 3.12 made it compensate rounding errors
            total += self.uniform()
        return mean + deviation * (total - 6.0)

    def shuffle(self, items: list[T]) -> None:
        """Shuffle in place (Fisher-Yates)."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

    def bases(self, length: int, gc: float = 0.5) -> str:
        """A sequence of independent bases, `gc` of them G or C."""
        half = gc / 2
        return "".join(
            "G" if u < half else "C" if u < gc else "A" if u < 0.5 + half else "T"
            for u in (self.uniform() for _ in range(length))
        )
