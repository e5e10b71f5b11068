"""What a run's service level promises, by the emulated clock. Pure.

Only the bundled pipelines have a service level that goes by their size.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from wesemu.runs.model import Run
from wesemu.runs.terms import MOST_BASES, Pace
from wesemu.sla import Sla, promise

ESTIMATED_BASES_PER_BYTE = Fraction(3, 2)
"""Of compressed FASTQ, whose qualities take most of it; between 1 and 2.5 by the sequencer."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """When a run that is under way will end, if its size is `bases` base pairs."""

    finish: datetime
    bases: int


def size(run: Run) -> int | None:
    """The base pairs that the service level goes by; None until they are known."""
    if not run.workflow:
        return None
    if run.terms.bases is not None:
        return run.terms.bases
    return None if run.counts is None else _scale(run, run.counts.total_bases)


def promised(run: Run) -> Sla | None:
    """What the run is promised; None until its size is known, and at a service level without
    promises."""
    bases = size(run)
    if bases is None or not run.service_level.has_promise:
        return None
    return _promise(run, bases)


def due(run: Run) -> datetime | None:
    """When the run ends though its tools are done earlier; None where it ends with them.

    A run that keeps the service level's pace ends at this moment also where its tools need
    longer: how fast this machine is and how fast the emulated clock runs is not the service's
    lateness. Only a fault makes it late.
    """
    late = timedelta(minutes=run.terms.fault.late_minutes)
    sla = promised(run)
    if sla is None or run.started is None or (run.terms.pace is Pace.REAL and not late):
        return None
    return sla.deadline(run.started) + late


def took(run: Run, now: datetime) -> timedelta:
    """How long the run has taken at `now`, or took; nothing for one that has not begun. It never
    shrinks: of a run whose tools are slow it is at most what the service level promises."""
    if run.started is None:
        return timedelta()
    if run.ended is not None:
        return run.ended - run.started
    return min(now, due(run) or _least_due(run) or now) - run.started


def _least_due(run: Run) -> datetime | None:
    """Before the size is known: the earliest moment at which the run may end. Nothing later is
    told, or the duration could shrink once the size is known."""
    late = timedelta(minutes=run.terms.fault.late_minutes)
    if run.started is None or not run.workflow or not run.service_level.has_promise:
        return None
    if run.terms.pace is Pace.REAL and not late:
        return None
    return _promise(run, 0).deadline(run.started) + late


def predict(run: Run) -> Prediction | None:
    """For a run that is under way. What is neither told nor counted yet is reckoned from the
    size of its reads' files; up to 90 Gbp that makes no difference."""
    if run.started is None or run.ended is not None or not run.workflow:
        return None
    if not run.service_level.has_promise:
        return None
    bases = size(run)
    if bases is None:
        bases = _scale(run, int((run.input_bytes or 0) * ESTIMATED_BASES_PER_BYTE))
    late = timedelta(minutes=run.terms.fault.late_minutes)
    return Prediction(_promise(run, bases).deadline(run.started) + late, bases)


def _scale(run: Run, bases: int) -> int:
    return min(int(bases * run.terms.factor), MOST_BASES)


def _promise(run: Run, bases: int) -> Sla:
    length: Fraction | None = None
    if run.terms.read_length_penalty and run.counts is not None and run.counts.total_reads:
        length = Fraction(run.counts.total_bases, run.counts.total_reads)
    return promise(run.service_level, run.workflow, bases, read_length=length)
