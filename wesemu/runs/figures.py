"""What a run is worth telling in numbers: its reads, its service level, its failure. Pure."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

from wesemu.runs.model import Run, RunState
from wesemu.runs.promises import predict, promised, size
from wesemu.runs.terms import Pace

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
    if run.terms.pace is not Pace.REAL:
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
    sla, bases = promised(run), size(run)
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
