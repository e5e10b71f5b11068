"""AGS's service levels: minutes, deadline and price from base pairs.

Source: Alibaba Cloud's billing page of the genomics service (document 159502): a base time up to
90 Gbp, a rate beyond it, a price per Gbp for each workflow type. 1 Gbp = 10^9 base pairs. A run
that misses its service level is free of charge. The page does not say how fractions of a minute
are rounded, so they are not. It measured with reads of 150 bp, and says that reads of 100 or 50 bp
take 15 to 30 % longer at the same tier.
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
    """The service levels with the letters of the API; their names are accepted too, in any case.

    AGS's command pages list `n`, but no page has minutes or a price for it.
    """

    SILVER = "s"
    GOLD = "g"
    PLATINUM = "p"
    NORMAL = "n"

    @property
    def rank(self) -> int:
        """The position in the queue; 0 is first."""
        return ("p", "g", "s", "n").index(self.value)

    @property
    def has_promise(self) -> bool:
        """Whether the level has minutes, a deadline and a price."""
        return self in TIERS

    @classmethod
    def _missing_(cls, value: object) -> "ServiceLevel | None":
        name = value.casefold() if isinstance(value, str) else None
        return next((level for level in cls if name in (level.value, level.name.casefold())), None)


@dataclass(frozen=True, slots=True)
class Tier:
    """One row of the billing page: base minutes, Gbp per further minute, CNY per Gbp."""

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
    """The SLA of one run: `minutes` of run time, `price` in CNY."""

    level: ServiceLevel
    minutes: Fraction
    price: Decimal

    @property
    def duration(self) -> timedelta:
        return timedelta(microseconds=round(self.minutes * 60_000_000))

    def deadline(self, start: datetime) -> datetime:
        """Return the deadline of a run that started at `start`."""
        return start + self.duration

    def met(self, took: timedelta) -> bool:
        return took <= self.duration

    def charged(self, took: timedelta) -> Decimal:
        """Return the price in CNY after the run; 0 if it missed the deadline."""
        return self.price if self.met(took) else Decimal(0)


def promise(
    level: ServiceLevel, workflow: str, bases: int, *, read_length: Fraction | None = None
) -> Sla:
    """Return the SLA of a level with a promise, for `bases` base pairs (both mates together).

    `workflow` is "mapping" or "wgs"; only the price depends on it. `read_length` (base pairs)
    multiplies the time by `stretch`; None: no change.
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
    """Return the time factor of a read length: 1 from 150 bp, 1.15 at 100 bp, 1.3 up to 50 bp.

    The linear interpolation is wesemu's choice; the page has only the range.
    """
    missing = FULL_READ_LENGTH - max(read_length, Fraction(SHORTEST_READ_LENGTH))
    return 1 + max(missing, Fraction(0)) * Fraction(3, 1000)
