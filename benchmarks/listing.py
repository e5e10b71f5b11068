"""Cost of reading with 1,000, 100,000 and 1,000,000 stored runs."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from benchmarks.archive import fill
from benchmarks.bare import serving_bare
from benchmarks.figures import median, percentile, ratio
from benchmarks.load import load
from benchmarks.options import Options
from benchmarks.processes import cpu_seconds_of
from benchmarks.report import Report, Row, at_least, at_most, figure
from benchmarks.rounds import Samples, in_turns, say
from benchmarks.server import Server, serving
from benchmarks.start import start_once
from benchmarks.wes import ROOT

_ROUNDS = 3
_LEAST_RATIO = 0.8
_WARM_UP_SECONDS = 0.5
_STARTS = 5
_TIMES_BARE = 6.0


@dataclass(frozen=True, slots=True)
class Question:
    """A request to measure."""

    name: str
    paths: tuple[str, ...]


@dataclass(slots=True)
class Answers:
    """Measurements of one question on one server.

    `per_second` are requests per second and `cpu` CPU seconds of the server per request, one
    value per round. `latencies` are those of all rounds, in seconds.
    """

    per_second: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


_PAGE = "`runs`, 100 a page"
_BARE = Question("bare", ("/",))


def questions(ids: Sequence[str]) -> list[Question]:
    """Return the questions. The first page comes with 10 runs and with 100, the default."""
    return [
        Question("`service-info`", (f"{ROOT}/service-info",)),
        Question("`runs`, 10 a page", (f"{ROOT}/runs?page_size=10",)),
        Question(_PAGE, (f"{ROOT}/runs",)),
        Question("`runs/{id}/status`", tuple(f"{ROOT}/runs/{run}/status" for run in ids)),
        Question("`runs/{id}`", tuple(f"{ROOT}/runs/{run}" for run in ids)),
    ]


def measure(options: Options) -> Report:
    ids = {size: fill(options.work / f"index-{size}", size) for size in options.sizes}
    answers: dict[tuple[str, int], Answers] = {}
    with ExitStack() as stack:
        servers = {
            size: stack.enter_context(serving(options.work / f"index-{size}")) for size in ids
        }
        page = len(json.dumps(servers[min(ids)].wes.get("/runs")))
        bare, bare_answers = stack.enter_context(serving_bare(page, options.work)), Answers()
        rounds = options.rounds or _ROUNDS
        for number in range(rounds + 1):
            seconds = options.seconds if number else _WARM_UP_SECONDS
            questions_by_size = {size: questions(some) for size, some in ids.items()}
            for index in range(len(questions(()))):
                for size, server in servers.items():
                    question = questions_by_size[size][index]
                    answer = answers.setdefault((question.name, size), Answers())
                    _ask(server, question, seconds, answer if number else Answers())
            _ask(bare, _BARE, seconds, bare_answers if number else Answers())
            say(f"{number}/{rounds}")
        starts = in_turns(
            {size: partial(start_once, server) for size, server in servers.items()}, _STARTS
        )
    rows = [row for question in questions(()) for row in _rows(question, answers, options.sizes)]
    listed = answers[_PAGE, min(options.sizes)].cpu
    rows += [
        figure("bare response of 100 runs, CPU each", median(bare_answers.cpu) * 1e6, unit="µs"),
        at_most(
            f"{_PAGE}: CPU, compared with the bare response",
            ratio(listed, bare_answers.cpu),
            _TIMES_BARE,
            unit="x",
        ),
    ]
    rows += _start_rows(starts)
    return Report(
        "listing: 8 connections",
        rows,
        {f"{name}, {size:,} runs": found.per_second for (name, size), found in answers.items()},
    )


def _ask(server: Server, question: Question, seconds: float, answers: Answers) -> None:
    used = cpu_seconds_of(server.pid)
    found = load(server.wes.port, question.paths, seconds)
    answers.cpu.append((cpu_seconds_of(server.pid) - used) / len(found.latencies))
    answers.per_second.append(found.per_second)
    answers.latencies += found.latencies


def _start_rows(starts: Mapping[int, Samples]) -> list[Row]:
    rows = [
        figure(f"three rules, POST to COMPLETE, {size:,} runs", median(found.wall), unit="s")
        for size, found in starts.items()
    ]
    least, most = min(starts), max(starts)
    if least != most:
        rows.append(
            at_most(
                f"three rules: {most:,} runs against {least:,}",
                ratio(starts[most].wall, starts[least].wall),
                1 / _LEAST_RATIO,
                unit="x",
            )
        )
    return rows


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
                _LEAST_RATIO,
                unit="x",
            )
        )
    return rows


def _row(question: Question, size: int, answers: Answers) -> Row:
    rate = median(answers.per_second)
    p50, p99 = (percentile(answers.latencies, share) * 1000 for share in (0.5, 0.99))
    each = median(answers.cpu) * 1e6
    text = f"{rate:,.0f} req/s, {each:,.0f} µs CPU each; p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    return Row(f"{question.name}, {size:,} runs", text)
