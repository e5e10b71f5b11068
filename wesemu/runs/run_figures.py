"""Figures of runs: promise, deadline, elapsed time, prediction; and the tags of a run.

All times are emulated unless they say real. Only the bundled pipelines have a service level that
depends on the size of their input. All functions are pure.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from wesemu.runs.clock import rfc3339
from wesemu.runs.model import (
    MOST_BASES,
    Pacing,
    Placement,
    Run,
    RunId,
    RunRequest,
    RunState,
    SharedOutput,
    SlaTerms,
)
from wesemu.runs.sla import ServiceLevel, Sla, promise

ESTIMATED_BASES_PER_BYTE = Fraction(3, 2)
"""Base pairs per byte of compressed FASTQ; 1 to 2.5, depending on the sequencer."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted end of an active run, for a size of `bases` base pairs."""

    finish: datetime
    bases: int


def sla_bases(run: Run) -> int | None:
    """Return the base pairs for the service level; None while they are unknown."""
    if not run.workflow:
        return None
    if run.terms.bases is not None:
        return run.terms.bases
    return None if run.counts is None else _scaled(run.terms, run.counts.total_bases)


def promised(run: Run) -> Sla | None:
    """Return the SLA of the run; None while its size is unknown, and without a promise."""
    bases = sla_bases(run)
    if bases is None or not run.service_level.has_promise:
        return None
    return _promise(run, bases)


def due(run: Run) -> datetime | None:
    """Return the emulated end of a run with SLA pacing; None if it ends with its tools.

    The run gets this end even if its tools need longer: the speed of this machine must not make
    the service late. Only an injected fault does.
    """
    bases = sla_bases(run)
    return None if bases is None else _paced_end(run, bases)


def elapsed(run: Run, now: datetime) -> timedelta:
    """Return the duration of the run until its end or `now`; 0 before its start.

    It never shrinks. With SLA pacing it is at most the promised time, even if the tools are slow.
    """
    if run.started is None:
        return timedelta()
    if run.ended is not None:
        return run.ended - run.started
    # While the size is unknown, stop at the earliest possible end. Otherwise the duration would
    # shrink when the size becomes known.
    return min(now, _paced_end(run, sla_bases(run) or 0) or now) - run.started


def _paced_end(run: Run, bases: int) -> datetime | None:
    late = timedelta(minutes=run.terms.fault.late_minutes)
    if run.started is None or not run.workflow or not run.service_level.has_promise:
        return None
    if run.terms.pace is Pacing.REAL and not late:
        return None
    return _promise(run, bases).deadline(run.started) + late


def predict(run: Run) -> Prediction | None:
    """Predict the end of an active run; None for others.

    An unknown size is estimated from the size of the FASTQ files; up to 90 Gbp, the size makes no
    difference.
    """
    if run.started is None or run.ended is not None or not run.workflow:
        return None
    if not run.service_level.has_promise:
        return None
    bases = sla_bases(run)
    if bases is None:
        bases = _estimated_bases(run.terms, run.input_bytes)
    late = timedelta(minutes=run.terms.fault.late_minutes)
    return Prediction(_promise(run, bases).deadline(run.started) + late, bases)


def estimated(
    workflow: str, level: ServiceLevel, terms: SlaTerms, input_bytes: int | None
) -> Sla | None:
    """Return the approximate SLA of a planned run; None without a promise or without a size."""
    if not workflow or not level.has_promise or (terms.bases is None and input_bytes is None):
        return None
    bases = terms.bases
    if bases is None:
        bases = _estimated_bases(terms, input_bytes)
    return promise(level, workflow, bases)


def _estimated_bases(terms: SlaTerms, input_bytes: int | None) -> int:
    return _scaled(terms, int((input_bytes or 0) * ESTIMATED_BASES_PER_BYTE))


def _scaled(terms: SlaTerms, bases: int) -> int:
    return min(int(bases * terms.factor), MOST_BASES)


def _promise(run: Run, bases: int) -> Sla:
    length: Fraction | None = None
    if run.terms.read_length_penalty and run.counts is not None and run.counts.total_reads:
        length = Fraction(run.counts.total_bases, run.counts.total_reads)
    return promise(run.service_level, run.workflow, bases, read_length=length)


# Figures of a run, and its tags.


def _decimal_text(value: Decimal) -> str:
    """Format a number without exponent or trailing zeros."""
    return f"{value.normalize():f}"


_TAGS: Mapping[str, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    "handle": ("wesemu.handle", str, str),
    "workflow": ("wesemu.workflow", str, str),
    "pace": ("wesemu.pace", str, Pacing),
    "total_reads": ("wesemu.total_reads", str, int),
    "total_bases": ("wesemu.total_bases", str, int),
    "level": ("wesemu.sla.level", str, ServiceLevel),
    "sla_bases": ("wesemu.sla.bases", str, int),
    "minutes": ("wesemu.sla.minutes", _decimal_text, Decimal),
    "price": ("wesemu.sla.price_cny", _decimal_text, Decimal),
    "deadline": ("wesemu.sla.deadline", rfc3339, datetime.fromisoformat),
    "predicted_finish": ("wesemu.sla.predicted_finish", rfc3339, datetime.fromisoformat),
    "predicted_bases": ("wesemu.sla.predicted_bases", str, int),
    "met": ("wesemu.sla.met", lambda met: str(met).lower(), "true".__eq__),
    "charged": ("wesemu.sla.charged_cny", _decimal_text, Decimal),
    "real_seconds": ("wesemu.real.seconds", "{:.3f}".format, float),
    "error": ("wesemu.error", str, str),
}
"""For each field of `RunFigures`: its tag, how to format it, and how to parse it."""

FIGURE_TAGS = frozenset(tag for tag, _, _ in _TAGS.values())
"""The tags of `RunFigures`. Tags of the caller with such a name are never shown."""


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Figures of a run; None while unknown.

    `workflow` is the name of a user's own workflow: the tag of the caller, or the file's name.
    `total_reads` and `total_bases` are counted. `minutes` (to six decimal places) and `price` (CNY)
    exist for bundled pipelines of known size; `sla_bases` is that size, counted or set by the
    caller. `deadline` exists after the start, `met` and `charged` (CNY) after completion, the
    prediction while the run is active. All times but `real_seconds` are emulated. `pace` exists
    only with SLA pacing.
    """

    handle: str = ""
    level: ServiceLevel | None = None
    workflow: str | None = None
    pace: Pacing | None = None
    total_reads: int | None = None
    total_bases: int | None = None
    sla_bases: int | None = None
    minutes: Decimal | None = None
    price: Decimal | None = None
    deadline: datetime | None = None
    predicted_finish: datetime | None = None
    predicted_bases: int | None = None
    met: bool | None = None
    charged: Decimal | None = None
    real_seconds: float | None = None
    error: str | None = None

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "RunFigures":
        """Parse the tags of a run. Raises ValueError."""
        known = {name: entry for name, entry in _TAGS.items() if entry[0] in tags}
        return cls(**{name: parse(tags[tag]) for name, (tag, _, parse) in known.items()})

    @property
    def texts(self) -> dict[str, str]:
        """The known figures as text, by field."""
        values = ((name, entry[1], getattr(self, name)) for name, entry in _TAGS.items())
        return {name: text(value) for name, text, value in values if value is not None}

    @property
    def tags(self) -> dict[str, str]:
        return {_TAGS[name][0]: text for name, text in self.texts.items()}


def figures(run: Run) -> RunFigures:
    """Return the figures that are known now."""
    sla, predicted = promised(run), predict(run)
    known = RunFigures(
        handle=run.handle,
        level=run.service_level,
        workflow=None if run.workflow else _workflow_name(run.request),
        pace=None if run.terms.pace is Pacing.REAL else run.terms.pace,
        total_reads=run.counts.total_reads if run.counts else None,
        total_bases=run.counts.total_bases if run.counts else None,
        predicted_finish=predicted.finish if predicted else None,
        predicted_bases=predicted.bases if predicted else None,
        real_seconds=run.real_seconds,
        error=run.failure.message if run.failure else None,
    )
    if sla is None:
        return known
    took = None
    if run.started and run.ended and run.state is RunState.COMPLETE:
        took = run.ended - run.started
    return replace(
        known,
        sla_bases=sla_bases(run),
        minutes=round(Decimal(sla.minutes.numerator) / Decimal(sla.minutes.denominator), 6),
        price=sla.price,
        deadline=sla.deadline(run.started) if run.started else None,
        met=None if took is None else sla.met(took),
        charged=None if took is None else sla.charged(took),
    )


def _workflow_name(request: RunRequest) -> str:
    path = request.workflow_url.partition("?")[0].partition("#")[0]
    return request.tags.get("wesemu.workflow") or path.rstrip("/").rpartition("/")[2]


_NODE, _NODE_NOTE = "wesemu.node", "wesemu.node.note"
_SHARED = "wesemu.outputs.shared"
_UNPUBLISHED = "wesemu.unpublished"
_TOOL = "wesemu.tools."
_SHARED_TEXT = re.compile(r"(.+) is an output of (?:the run ([0-9a-f-]+)|.+), too; .+")


def labels(run: Run) -> dict[str, str]:
    """Return all tags of a run, as callers see them."""
    tags = {name: tag for name, tag in stored_labels(run).items() if name not in FIGURE_TAGS}
    return tags | figures(run).tags


def stored_labels(run: Run) -> dict[str, str]:
    """Return all tags but the figures. Lists of runs can be filtered by them."""
    tags = dict(run.tags)
    if run.placement is not None:
        tags[_NODE] = run.placement.kind
        if run.placement.note is not None:
            tags[_NODE_NOTE] = run.placement.note
    if run.shared_output is not None:
        tags[_SHARED] = run.shared_output.warning()
    tags |= {f"{_TOOL}{name}": version for name, version in run.tools.items()}
    if run.unpublished:
        tags[_UNPUBLISHED] = "\n".join(run.unpublished)
    return tags


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that no other field of a run contains."""
    others = {_NODE, _NODE_NOTE, _SHARED, _UNPUBLISHED}
    return {n: tag for n, tag in tags.items() if n not in others and not n.startswith(_TOOL)}


def placement_of(tags: Mapping[str, str]) -> Placement | None:
    """Parse the placement in the tags of a run."""
    match tags.get(_NODE):
        case "auto" | "cpu" | "cuda" as kind:
            return Placement(kind, tags.get(_NODE_NOTE))
        case _:
            return None


def facts_of(tags: Mapping[str, str]) -> dict[str, Any]:
    """Parse the fields of `Run` that earlier versions stored in the tags only."""
    shared = _SHARED_TEXT.fullmatch(tags.get(_SHARED, ""))
    return {
        "placement": placement_of(tags),
        "shared_output": shared
        and SharedOutput(shared[1], RunId(shared[2]) if shared[2] else None),
        "tools": {n.removeprefix(_TOOL): tag for n, tag in tags.items() if n.startswith(_TOOL)},
        "unpublished": tuple(tags.get(_UNPUBLISHED, "").splitlines()),
    }
