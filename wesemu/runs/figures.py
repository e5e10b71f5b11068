"""What a run is worth telling in numbers: its reads, its service level, its failure. Pure."""

from decimal import Decimal
from fractions import Fraction

from wesemu.runs.model import Run, RunState
from wesemu.sla import promise

NAMES = frozenset(
    {
        "wesemu.handle",
        "wesemu.total_reads",
        "wesemu.total_bases",
        "wesemu.sla.level",
        "wesemu.sla.minutes",
        "wesemu.sla.price_cny",
        "wesemu.sla.deadline",
        "wesemu.sla.met",
        "wesemu.sla.charged_cny",
        "wesemu.error",
    }
)
"""Every key that `figures` may give; a caller's tag of such a name is never shown."""


def figures(run: Run) -> dict[str, str]:
    """The figures that exist by now, as tags, keys out of `NAMES`.

    The service level's minutes and price need the counted bases of a bundled pipeline, its
    deadline (ISO 8601, UTC) a start; `met` ("true", "false") and `charged_cny` a completed run.
    """
    told = {"wesemu.handle": run.handle, "wesemu.sla.level": run.service_level.value}
    if run.counts is not None:
        told["wesemu.total_reads"] = str(run.counts.total_reads)
        told["wesemu.total_bases"] = str(run.counts.total_bases)
        if run.workflow:
            told |= _sla(run, run.counts.total_bases)
    if run.failure is not None:
        told["wesemu.error"] = run.failure.message
    return told


def labels(run: Run) -> dict[str, str]:
    """The caller's tags and the figures."""
    return {name: value for name, value in run.tags.items() if name not in NAMES} | figures(run)


def _sla(run: Run, bases: int) -> dict[str, str]:
    sla = promise(run.service_level, run.workflow, bases)
    told = {"wesemu.sla.minutes": _plain(sla.minutes), "wesemu.sla.price_cny": _plain(sla.price)}
    if run.started is not None:
        deadline = sla.deadline(run.started)
        told["wesemu.sla.deadline"] = deadline.strftime("%Y-%m-%dT%H:%M:%SZ")
        if run.ended is not None and run.state is RunState.COMPLETE:
            took = run.ended - run.started
            told["wesemu.sla.met"] = "true" if sla.met(took) else "false"
            told["wesemu.sla.charged_cny"] = _plain(sla.charged(took))
    return told


def _plain(value: Fraction | Decimal) -> str:
    """A decimal number without exponent or trailing zeros; fractions to six places."""
    if isinstance(value, Fraction):
        value = round(Decimal(value.numerator) / Decimal(value.denominator), 6)
    return f"{value.normalize():f}"
