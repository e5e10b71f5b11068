"""What reading costs with a thousand, a hundred thousand and a million stored runs."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.archive import fill
from benchmarks.figures import median, percentile, ratio
from benchmarks.load import load
from benchmarks.options import Options
from benchmarks.report import Report, Row, at_least
from benchmarks.rounds import say
from benchmarks.server import Server, serving
from benchmarks.wes import ROOT

_ROUNDS = 3
_TIMES_BEST_PEER = 5.0
_OF_ONES_OWN = 0.8
_WARM_UP_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """`peer` is the best of the peers at 1,000 runs, requests a second (docs/benchmarks.md)."""

    name: str
    paths: tuple[str, ...]
    peer: float | None


@dataclass(slots=True)
class Answers:
    """Of one question to one server: requests a second round by round, all latencies in s."""

    per_second: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


def questions(ids: Sequence[str]) -> list[Question]:
    """The first page twice: with this server's own 100 runs, and with 10 as the peers give."""
    return [
        Question("`service-info`", (f"{ROOT}/service-info",), 636),
        Question("`runs`, 10 a page", (f"{ROOT}/runs?page_size=10",), 143),
        Question("`runs`, 100 a page", (f"{ROOT}/runs",), None),
        Question("`runs/{id}/status`", tuple(f"{ROOT}/runs/{run}/status" for run in ids), 1389),
        Question("`runs/{id}`", tuple(f"{ROOT}/runs/{run}" for run in ids), 983),
    ]


def measure(options: Options) -> Report:
    ids = {size: fill(options.work / f"index-{size}", size) for size in options.sizes}
    answers: dict[tuple[str, int], Answers] = {}
    with ExitStack() as stack:
        servers = {
            size: stack.enter_context(serving(options.work / f"index-{size}")) for size in ids
        }
        rounds = options.rounds or _ROUNDS
        for number in range(rounds + 1):
            seconds = options.seconds if number else _WARM_UP_SECONDS
            for size, server in servers.items():
                for question in questions(ids[size]):
                    answer = answers.setdefault((question.name, size), Answers())
                    _ask(server, question, seconds, answer if number else Answers())
            say(f"{number}/{rounds}")
    rows = [row for question in questions(()) for row in _rows(question, answers, options.sizes)]
    return Report(
        "listing: 8 connections",
        rows,
        {f"{name}, {size:,} runs": found.per_second for (name, size), found in answers.items()},
    )


def _ask(server: Server, question: Question, seconds: float, answers: Answers) -> None:
    found = load(server.wes.port, question.paths, seconds)
    answers.per_second.append(found.per_second)
    answers.latencies += found.latencies


def _rows(
    question: Question, answers: dict[tuple[str, int], Answers], sizes: Sequence[int]
) -> list[Row]:
    rows = [_row(question, size, answers[question.name, size]) for size in sizes]
    least, most = answers[question.name, min(sizes)], answers[question.name, max(sizes)]
    if least is not most:
        rows.append(
            at_least(
                f"{question.name}: {max(sizes):,} runs against {min(sizes):,}",
                ratio(most.per_second, least.per_second),
                _OF_ONES_OWN,
                unit="x",
            )
        )
    return rows


def _row(question: Question, size: int, answers: Answers) -> Row:
    rate = median(answers.per_second)
    p50, p99 = (percentile(answers.latencies, share) * 1000 for share in (0.5, 0.99))
    told = f"{rate:,.0f} req/s; p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    what = f"{question.name}, {size:,} runs"
    if question.peer is None or size > 1_000:
        return Row(what, told)
    wanted = question.peer * _TIMES_BEST_PEER
    return Row(what, told, f"≥ {wanted:,.0f} req/s", rate >= wanted)
