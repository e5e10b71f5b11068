"""SLA figures of runs: promise, deadline, elapsed time, prediction, tags and histograms.

All times are emulated unless they say real. Only the bundled pipelines have a service level that
depends on the size of their input. All functions are pure.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from wesemu.runs.model import MOST_BASES, Pacing, Run, RunRequest, RunState, workflow_kind
from wesemu.runs.sla import Sla, promise
from wesemu.runs.store import RunStore

ESTIMATED_BASES_PER_BYTE = Fraction(3, 2)
"""Base pairs per byte of compressed FASTQ; 1 to 2.5, depending on the sequencer."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted end of an active run, for a size of `bases` base pairs."""

    finish: datetime
    bases: int


def count_reads(run: Run) -> int | None:
    """Return the base pairs for the service level; None while they are unknown."""
    if not run.workflow:
        return None
    if run.terms.bases is not None:
        return run.terms.bases
    return None if run.counts is None else _scale(run, run.counts.total_bases)


def promised(run: Run) -> Sla | None:
    """Return the SLA of the run; None while its size is unknown, and without a promise."""
    bases = count_reads(run)
    if bases is None or not run.service_level.has_promise:
        return None
    return _promise(run, bases)


def due(run: Run) -> datetime | None:
    """Return the emulated end of a run with SLA pacing; None if it ends with its tools.

    The run gets this end even if its tools need longer: the speed of this machine must not make
    the service late. Only an injected fault does.
    """
    late = timedelta(minutes=run.terms.fault.late_minutes)
    sla = promised(run)
    if sla is None or run.started is None or (run.terms.pace is Pacing.REAL and not late):
        return None
    return sla.deadline(run.started) + late


def elapsed(run: Run, now: datetime) -> timedelta:
    """Return the duration of the run until its end or `now`; 0 before its start.

    It never shrinks. With SLA pacing it is at most the promised time, even if the tools are slow.
    """
    if run.started is None:
        return timedelta()
    if run.ended is not None:
        return run.ended - run.started
    return min(now, due(run) or _least_due(run) or now) - run.started


def _least_due(run: Run) -> datetime | None:
    """Return the earliest possible end while the size is unknown.

    `elapsed` stops there, or it would shrink when the size becomes known.
    """
    late = timedelta(minutes=run.terms.fault.late_minutes)
    if run.started is None or not run.workflow or not run.service_level.has_promise:
        return None
    if run.terms.pace is Pacing.REAL and not late:
        return None
    return _promise(run, 0).deadline(run.started) + late


def predict(run: Run) -> Prediction | None:
    """Predict the end of an active run; None for others.

    An unknown size is estimated from the size of the FASTQ files; up to 90 Gbp, the size makes no
    difference.
    """
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


# Histograms for the metrics.

BUCKETS = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
"""Upper bounds of the duration histogram in seconds."""


@dataclass(slots=True)
class Durations:
    """A cumulative histogram: count for each of BUCKETS, total number, sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    number: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.number += 1
        self.seconds += seconds
        for index, bound in enumerate(BUCKETS):
            self.counts[index] += seconds <= bound


class RunTallies:
    """Counts the runs of `store` that end from now on.

    `durations`: real seconds from the first start to the last end of a task, by workflow (bundled
    pipeline, or type of a user's workflow) and final state. `sla`: completed runs by service level
    and whether the deadline was met.
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


# Figures as tags.

NAMES = frozenset(
    {
        "wesemu.handle",
        "wesemu.workflow",
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
"""All keys of `figures`. Tags of the caller with such a name are never shown."""


def figures(run: Run) -> dict[str, str]:
    """Return the figures that are known now, as tags with keys of `NAMES`.

    `workflow` is the name of a user's own workflow: the tag of the caller, or the file's name.
    `total_reads` and `total_bases` are counted. Minutes and price exist for bundled pipelines of
    known size; `sla.bases` is that size, counted or set by the caller. The deadline (ISO 8601, UTC)
    exists after the start, `met` ("true", "false") and `charged_cny` after completion, the
    prediction while the run is active. All times but `real.seconds` are emulated. `pace` exists
    only with SLA pacing.
    """
    tags = {"wesemu.handle": run.handle, "wesemu.sla.level": run.service_level.value}
    if not run.workflow:
        tags["wesemu.workflow"] = _workflow_name(run.request)
    if run.terms.pace is not Pacing.REAL:
        tags["wesemu.pace"] = run.terms.pace.value
    if run.counts is not None:
        tags["wesemu.total_reads"] = str(run.counts.total_reads)
        tags["wesemu.total_bases"] = str(run.counts.total_bases)
    tags |= _sla(run) | _prediction(run)
    if run.real_seconds is not None:
        tags["wesemu.real.seconds"] = f"{run.real_seconds:.3f}"
    if run.failure is not None:
        tags["wesemu.error"] = run.failure.message
    return tags


def _workflow_name(request: RunRequest) -> str:
    path = request.workflow_url.partition("?")[0].partition("#")[0]
    return request.tags.get("wesemu.workflow") or path.rstrip("/").rpartition("/")[2]


def labels(run: Run) -> dict[str, str]:
    """Return the tags of the caller and the server, and the figures."""
    return {name: value for name, value in run.tags.items() if name not in NAMES} | figures(run)


def _sla(run: Run) -> dict[str, str]:
    sla, bases = promised(run), count_reads(run)
    if sla is None or bases is None:
        return {}
    tags = {
        "wesemu.sla.bases": str(bases),
        "wesemu.sla.minutes": _plain(sla.minutes),
        "wesemu.sla.price_cny": _plain(sla.price),
    }
    if run.started is not None:
        tags["wesemu.sla.deadline"] = _stamp(sla.deadline(run.started))
        if run.ended is not None and run.state is RunState.COMPLETE:
            took = run.ended - run.started
            tags["wesemu.sla.met"] = "true" if sla.met(took) else "false"
            tags["wesemu.sla.charged_cny"] = _plain(sla.charged(took))
    return tags


def _prediction(run: Run) -> dict[str, str]:
    if (predicted := predict(run)) is None:
        return {}
    return {
        "wesemu.sla.predicted_finish": _stamp(predicted.finish),
        "wesemu.sla.predicted_bases": str(predicted.bases),
    }


def _stamp(timestamp: datetime) -> str:
    return timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(value: Fraction | Decimal) -> str:
    """Format a number without exponent or trailing zeros; fractions to six decimal places."""
    if isinstance(value, Fraction):
        value = round(Decimal(value.numerator) / Decimal(value.denominator), 6)
    return f"{value.normalize():f}"
