"""Measurements of several servers in turns, as rows with a column for each server."""

import http.client
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.figures import median
from benchmarks.report import Row, format_figure
from benchmarks.rounds import say

_LONGEST_REASON = 200
_ENOUGH_SECONDS = 45.0
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
FAILURES = (
    RuntimeError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    http.client.HTTPException,
)
"""What a server that lacks something causes: an error response, a lost connection, other JSON."""

Subject = TypeVar("Subject")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement. `cpu` are CPU seconds of the server. `note` says what is incomplete."""

    value: float
    cpu: float = 0.0
    note: str = ""


@dataclass(slots=True)
class Result:
    """The samples of one server, one per round. `reason` says why there are none."""

    samples: list[Measurement] = field(default_factory=list)
    reason: str = ""

    @property
    def note(self) -> str:
        return next((sample.note for sample in self.samples if sample.note), "")

    @property
    def is_complete(self) -> bool:
        return bool(self.samples) and not self.reason and not self.note


@dataclass(frozen=True, slots=True)
class Target:
    """What the first server has to reach: `most` is its largest figure, `times` its least
    advantage over the best other server."""

    most: float | None = None
    times: float | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """How to show the values of a row: `scale` times the samples, in `unit`."""

    unit: str = ""
    digits: int = 2
    scale: float = 1.0
    more_is_better: bool = False

    def show(self, value: float) -> str:
        return format_figure(value, self.unit, self.digits)


class PeerTable:
    """The rows of a report. The first of `names` is compared with the best of the others."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.rows: list[Row] = []
        self.samples: dict[str, Sequence[float]] = {}
        self.reasons: dict[str, str] = {}
        """Why servers cannot be measured at all."""

    def keep_working(
        self, subjects: Mapping[str, Subject], make: Callable[[Subject], Made]
    ) -> dict[str, Made]:
        """Return what `make` returns for each subject, without those for which it fails."""
        made = {}
        for name, subject in subjects.items():
            try:
                made[name] = make(subject)
            except FAILURES as error:
                self.reasons[name] = _shorten(error)
                say(f"{name}: {error}")
        return made

    def take_turns(
        self,
        what: str,
        subjects: Mapping[str, Subject],
        once: Callable[[Subject], Measurement],
        rounds: int = 1,
        *,
        warm_up: int = 0,
    ) -> dict[str, Result]:
        """Measure each subject once per round. Ignore the first `warm_up` rounds.

        A subject that fails has the reason as its result, and no further turn. There is at least
        one round, but no further one after 45 seconds.
        """
        results = {name: Result(reason=self.reasons.get(name, "")) for name in self.names}
        deadline = time.monotonic() + _ENOUGH_SECONDS
        for number in range(-warm_up, rounds):
            if number > 0 and time.monotonic() > deadline:
                break
            for name, subject in subjects.items():
                result = results[name]
                if result.reason:
                    continue
                try:
                    sample = once(subject)
                except FAILURES as error:
                    result.reason = _shorten(error)
                    say(f"{what}: {name} cannot: {error}")
                    continue
                say(f"{what} {number + 1}/{rounds}: {name} {sample.value:.3f} {sample.note}")
                if number >= 0:
                    result.samples.append(sample)
        return results

    def add(
        self,
        what: str,
        results: Mapping[str, Result],
        form: Format,
        *,
        cpu: bool = False,
        target: Target | None = None,
    ) -> None:
        """Add a row of the values of `results`, or of their CPU seconds. Print it on stderr."""
        values = {
            name: [(sample.cpu if cpu else sample.value) * form.scale for sample in result.samples]
            for name, result in results.items()
        }
        for name, found in values.items():
            self.samples[f"{what}: {name}"] = found
        cells = [_cell(results[name], values[name], form) for name in self.names]
        best = _best(self.names, results, values, more_is_better=form.more_is_better)
        advantage = f"{_times(best[1])} ({best[0]})" if best else ""
        first = results[self.names[0]]
        wanted, met = _judge(
            target or Target(), median(values[self.names[0]]) if first.samples else None, best, form
        )
        self.rows.append(Row(what, cells[0], wanted, met, (*cells[1:], advantage)))
        say(self.rows[-1].markdown())


def _cell(result: Result, values: Sequence[float], form: Format) -> str:
    if result.reason:
        return f"cannot: {result.reason}"
    return f"{form.show(median(values))}{result.note and f', {result.note}'}"


def _best(
    names: Sequence[str],
    results: Mapping[str, Result],
    values: Mapping[str, Sequence[float]],
    *,
    more_is_better: bool,
) -> tuple[str, float] | None:
    """Return the best other server, and how many times the first is better.

    The ratio is the median of those of the rounds. None if one of both is missing.
    """
    first, *others = names
    if not results[first].is_complete:
        return None
    found = []
    for name in others:
        if results[name].is_complete:
            pairs = zip(values[name], values[first], strict=True)
            ratios = [_ratio(b, a) if more_is_better else _ratio(a, b) for a, b in pairs]
            found.append((name, median(ratios)))
    return min(found, key=lambda pair: pair[1], default=None)


def _ratio(over: float, under: float) -> float:
    return over / under if under else math.inf if over else 1.0


def _times(ratio: float) -> str:
    return "∞" if math.isinf(ratio) else f"{ratio:,.{2 if ratio < 10 else 0}f}x"


def _judge(
    target: Target, value: float | None, best: tuple[str, float] | None, form: Format
) -> tuple[str, bool | None]:
    """Return the text of the target, and whether it is met; None if that is unknown."""
    texts, met = [], []
    if target.most is not None:
        texts.append(f"≤ {form.show(target.most)}")
        met.append(value is not None and value <= target.most)
    if target.times is not None:
        texts.append(f"≥ {_times(target.times)} the best other")
        met += [best[1] >= target.times] if best else []
    return ", ".join(texts), all(met) if met else None


def _shorten(error: Exception) -> str:
    """Return the message in one line, without colours and characters that end a table's cell."""
    plain = _COLOUR.sub("", str(error)).replace("|", "/")
    text = " ".join(plain.split()) or type(error).__name__
    half = _LONGEST_REASON // 2
    return text if len(text) <= _LONGEST_REASON else f"{text[:half]} … {text[-half:]}"
