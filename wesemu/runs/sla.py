"""What a run's service level promises, by the emulated clock. Pure.

Only the bundled pipelines have a service level that goes by their size.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from wesemu.runs.model import MOST_BASES, Pacing, Run, RunState, workflow_kind
from wesemu.runs.service_levels import Sla, promise
from wesemu.runs.store import RunStore

# AGS's service levels: minutes, deadline and price from base pairs.


ESTIMATED_BASES_PER_BYTE = Fraction(3, 2)
"""Of compressed FASTQ, whose qualities take most of it; between 1 and 2.5 by the sequencer."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """When a run that is under way will end, if its size is `bases` base pairs."""

    finish: datetime
    bases: int


def count_reads(run: Run) -> int | None:
    """The base pairs that the service level goes by; None until they are known."""
    if not run.workflow:
        return None
    if run.terms.bases is not None:
        return run.terms.bases
    return None if run.counts is None else _scale(run, run.counts.total_bases)


def promised(run: Run) -> Sla | None:
    """What the run is promised; None until its size is known, and at a service level without
    promises."""
    bases = count_reads(run)
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
    if sla is None or run.started is None or (run.terms.pace is Pacing.REAL and not late):
        return None
    return sla.deadline(run.started) + late


def elapsed(run: Run, now: datetime) -> timedelta:
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
    if run.terms.pace is Pacing.REAL and not late:
        return None
    return _promise(run, 0).deadline(run.started) + late


def predict(run: Run) -> Prediction | None:
    """For a run that is under way. What is neither told nor counted yet is reckoned from the
    size of its reads' files; up to 90 Gbp that makes no difference."""
    if run.started is None or run.ended is not None or not run.workflow:
        return None
    if not run.service_level.has_promise:
        return None
    bases = count_reads(run)
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


# What has become of runs since the server started, counted as they end.


BUCKETS = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
"""Upper bounds in seconds of how long the tools of runs took."""


@dataclass(slots=True)
class Durations:
    """A histogram: how many took at most each of BUCKETS, all of them, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    number: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.number += 1
        self.seconds += seconds
        for place, bound in enumerate(BUCKETS):
            self.counts[place] += seconds <= bound


class RunTallies:
    """Counts the runs of `store` that end from now on.

    `durations` are by workflow (a bundled pipeline, or the type of a user's own) and end; they
    are real seconds, from the first task's start to the last one's end. `sla` is by service
    level and whether its promise was met, of runs that completed.
    """

    def __init__(self, store: RunStore) -> None:
        self.durations: defaultdict[tuple[str, RunState], Durations] = defaultdict(Durations)
        self.sla: Counter[tuple[str, bool]] = Counter()
        store.watch(self._moved)

    def _moved(self, run: Run) -> None:
        if not run.state.ended:
            return
        workflow = run.workflow or workflow_kind(run.request.workflow_type)
        self.durations[workflow, run.state].add(run.real_seconds or 0.0)
        sla = promised(run)
        if run.state is RunState.COMPLETE and sla and run.started and run.ended:
            met = sla.met(run.ended - run.started)
            self.sla[run.service_level.name.lower(), met] += 1


# What a run is worth telling in numbers: its reads, its service level, its failure. Pure.


NAMES = frozenset(
    {
        "wesemu.handle",
        "wesemu.pace",
        "wesemu.total_reads",
        "wesemu.total_bases",
        "wesemu.sla.level",
        "wesemu.sla.bases",
        "wesemu.sla.minutes",
        "wesemu.sla.price_cny",
        "wesemu.sla.deadline",
        "wesemu.sla.predicted_finish",
        "wesemu.sla.predicted_bases",
        "wesemu.sla.met",
        "wesemu.sla.charged_cny",
        "wesemu.real.seconds",
        "wesemu.error",
    }
)
"""Every key that `figures` may give; a caller's tag of such a name is never shown."""


def figures(run: Run) -> dict[str, str]:
    """The figures that exist by now, as tags, keys out of `NAMES`.

    `total_reads` and `total_bases` are counted, always. The service level's minutes and price
    need a bundled pipeline and its size, which `sla.bases` tells: counted or pretended. Its
    deadline (ISO 8601, UTC) needs a start; `met` ("true", "false") and `charged_cny` a completed
    run. The prediction is there while the run is under way. All times are the emulated clock's
    but `real.seconds`. `pace` is told where it is not the tools' own.
    """
    told = {"wesemu.handle": run.handle, "wesemu.sla.level": run.service_level.value}
    if run.terms.pace is not Pacing.REAL:
        told["wesemu.pace"] = run.terms.pace.value
    if run.counts is not None:
        told["wesemu.total_reads"] = str(run.counts.total_reads)
        told["wesemu.total_bases"] = str(run.counts.total_bases)
    told |= _sla(run) | _prediction(run)
    if run.real_seconds is not None:
        told["wesemu.real.seconds"] = f"{run.real_seconds:.3f}"
    if run.failure is not None:
        told["wesemu.error"] = run.failure.message
    return told


def labels(run: Run) -> dict[str, str]:
    """The caller's tags and the figures."""
    return {name: value for name, value in run.tags.items() if name not in NAMES} | figures(run)


def _sla(run: Run) -> dict[str, str]:
    sla, bases = promised(run), count_reads(run)
    if sla is None or bases is None:
        return {}
    told = {
        "wesemu.sla.bases": str(bases),
        "wesemu.sla.minutes": _plain(sla.minutes),
        "wesemu.sla.price_cny": _plain(sla.price),
    }
    if run.started is not None:
        told["wesemu.sla.deadline"] = _stamp(sla.deadline(run.started))
        if run.ended is not None and run.state is RunState.COMPLETE:
            took = run.ended - run.started
            told["wesemu.sla.met"] = "true" if sla.met(took) else "false"
            told["wesemu.sla.charged_cny"] = _plain(sla.charged(took))
    return told


def _prediction(run: Run) -> dict[str, str]:
    if (predicted := predict(run)) is None:
        return {}
    return {
        "wesemu.sla.predicted_finish": _stamp(predicted.finish),
        "wesemu.sla.predicted_bases": str(predicted.bases),
    }


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(value: Fraction | Decimal) -> str:
    """A decimal number without exponent or trailing zeros; fractions to six places."""
    if isinstance(value, Fraction):
        value = round(Decimal(value.numerator) / Decimal(value.denominator), 6)
    return f"{value.normalize():f}"
