"""On what terms a run is carried out: fixed at submission, so that later settings change nothing.

What is counted and what is pretended are never told in one figure: `Terms.bases` and
`Terms.factor` say what the service level goes by, `Run.counts` what the reads hold.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from wesemu.errors import InvalidRequest

PRETENDED = "wesemu_bases"
"""The tag (WES) or field (AGS) by which a run stands for a larger sample: "120e9"."""

MOST_BASES = 10**15

_NUMBER = re.compile(r"\d{1,16}(\.\d{1,16})?([eE]\+?\d{1,2})?", re.ASCII)


class Pace(StrEnum):
    """When a run ends: with its tools, or after its service level's minutes."""

    REAL = "real"
    SLA = "sla"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is made to go wrong with a run.

    It ends `late_minutes` after its service level's time, fails when its task number
    `fails_at_task` (from 1, in the order of their starts) begins, or finds the disk full when its
    results are published.
    """

    late_minutes: int = 0
    fails_at_task: int | None = None
    out_of_disk: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """`bases` is the size that the run's service level goes by, both mates together; None: as
    counted, times `factor`. With `read_length_penalty` short reads get more time."""

    pace: Pace = Pace.REAL
    bases: int | None = None
    factor: Decimal = Decimal(1)
    read_length_penalty: bool = False
    fault: Fault = field(default_factory=Fault)

    @property
    def pretends(self) -> bool:
        """Whether the service level goes by another size than the counted one."""
        return self.bases is not None or self.factor != 1


def pretended_bases(tags: Mapping[str, str]) -> int | None:
    """The tag `wesemu_bases` as a number of base pairs. Raises InvalidRequest."""
    if (text := tags.get(PRETENDED)) is None:
        return None
    bases = Decimal(text) if _NUMBER.fullmatch(text) else Decimal(0)
    if bases != bases.to_integral_value() or not 1 <= bases <= MOST_BASES:
        raise InvalidRequest(
            f"{text[:40]!r} is no number of base pairs; write a whole number from 1 to 1e15, "
            'as "120e9"',
            field=PRETENDED,
        )
    return int(bases)
