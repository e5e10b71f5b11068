"""AGS's service levels: minutes, deadline and price from base pairs.

Figures: Alibaba Cloud's billing page of the genomics service (document 159502): a base time up
to 90 Gbp, a rate beyond it, a price per Gbp for each workflow type. 1 Gbp = 10^9 base pairs. A
run that misses its service level is free of charge. Fractions of a minute stand: the page does
not say how they are rounded. It measured with reads of 150 bp, and says that 100 or 50 bp take
15 to 30 % longer and still count as the same tier.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

GIGABASE = 1_000_000_000
BASE_SIZE_GBP = 90
FULL_READ_LENGTH = 150
SHORTEST_READ_LENGTH = 50


class ServiceLevel(StrEnum):
    """The service levels, by the letter that the API uses; their names are accepted too, in any
    case. AGS's command pages list `n`, but no page gives minutes or a price for it."""

    SILVER = "s"
    GOLD = "g"
    PLATINUM = "p"
    NORMAL = "n"

    @property
    def rank(self) -> int:
        """0 is served first."""
        return ("p", "g", "s", "n").index(self.value)

    @property
    def has_promise(self) -> bool:
        """Whether minutes, a deadline and a price exist."""
        return self in TIERS

    @classmethod
    def _missing_(cls, value: object) -> "ServiceLevel | None":
        word = value.casefold() if isinstance(value, str) else None
        return next((level for level in cls if word in (level.value, level.name.casefold())), None)


@dataclass(frozen=True, slots=True)
class Tier:
    """One row of the billing page: minutes, Gbp for each further minute, CNY per Gbp."""

    base_minutes: int
    gbp_per_minute: Fraction
    cny_per_gbp_wgs: Decimal
    cny_per_gbp_mapping: Decimal


TIERS: dict[ServiceLevel, Tier] = {
    ServiceLevel.SILVER: Tier(60, Fraction(3, 2), Decimal(1), Decimal("0.5")),
    ServiceLevel.GOLD: Tier(45, Fraction(2), Decimal("1.5"), Decimal("0.75")),
    ServiceLevel.PLATINUM: Tier(30, Fraction(3), Decimal(2), Decimal(1)),
}


@dataclass(frozen=True, slots=True)
class Sla:
    """What a service level promises for one run: `minutes` of run time, `price` in CNY."""

    level: ServiceLevel
    minutes: Fraction
    price: Decimal

    @property
    def duration(self) -> timedelta:
        return timedelta(microseconds=round(self.minutes * 60_000_000))

    def deadline(self, start: datetime) -> datetime:
        """When a run that began at `start` has to be done."""
        return start + self.duration

    def met(self, took: timedelta) -> bool:
        return took <= self.duration

    def charged(self, took: timedelta) -> Decimal:
        """The price after the fact, in CNY: nothing when the promise was missed."""
        return self.price if self.met(took) else Decimal(0)


def promise(
    level: ServiceLevel, workflow: str, bases: int, *, read_length: Fraction | None = None
) -> Sla:
    """The promise of a service level that has one, for `bases` base pairs (both mates counted).

    `workflow` is "mapping" or "wgs"; the time is the same for both, the price is not. Reads of
    `read_length` base pairs get `stretch` times as long; None: as long as any.
    """
    tier = TIERS[level]
    beyond = max(Fraction(bases, GIGABASE) - BASE_SIZE_GBP, Fraction(0))
    rate = tier.cny_per_gbp_mapping if workflow == "mapping" else tier.cny_per_gbp_wgs
    longer = Fraction(1) if read_length is None else stretch(read_length)
    return Sla(
        level=level,
        minutes=(tier.base_minutes + beyond / tier.gbp_per_minute) * longer,
        price=rate * Decimal(bases) / Decimal(GIGABASE),
    )


def stretch(read_length: Fraction) -> Fraction:
    """How many times as long reads of this length take: 1 from 150 bp on, 1.15 at 100 bp, 1.3 at
    50 bp and below. In between on straight lines, which is ours: the page gives the range."""
    missing = FULL_READ_LENGTH - max(read_length, Fraction(SHORTEST_READ_LENGTH))
    return 1 + max(missing, Fraction(0)) * Fraction(3, 1000)
