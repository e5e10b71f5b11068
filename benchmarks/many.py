"""Sixty concurrent runs of three rules."""

import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.figures import median, most_at_once, parse_spans
from benchmarks.machine import cores
from benchmarks.options import Options
from benchmarks.report import Report, at_least, at_most, figure
from benchmarks.rounds import say
from benchmarks.server import Server, fresh, serving
from benchmarks.start import start_once
from benchmarks.workflows import read_spans, three_timed_rules

_COUNT = 60
_ROUNDS = 3
_TASKS = 3
_TASK_SECONDS = 0.05
_RUNS_PER_SECOND = 10.0


def measure(options: Options) -> Report:
    count, rounds = options.count or _COUNT, options.rounds or _ROUNDS
    rates, accepted = [], []
    with serving(fresh(options.work / "many")) as server:
        start_once(server)
        for number in range(1, rounds + 1):
            answered, took = _run_concurrently(
                server, three_timed_rules(0), count, 1 + number * count
            )
            rates.append(count / took)
            accepted.append(answered)
            say(f"{number}/{rounds}: {count} runs in {took:.2f} s, accepted in {answered:.2f} s")
        # longer tasks overlap if the server lets them
        _run_concurrently(server, three_timed_rules(_TASK_SECONDS), count, 1 + (rounds + 1) * count)
        spans = parse_spans(read_spans(server.data))
    if len(spans) != count * (rounds + 1) * _TASKS:
        raise RuntimeError(f"{len(spans)} tasks ran for {count * (rounds + 1)} runs of {_TASKS}")
    return Report(
        f"many: {count} runs of three rules at once",
        [
            at_least("runs a second, median", median(rates), _RUNS_PER_SECOND, digits=1),
            figure("until all are accepted, median", median(accepted), unit="s"),
            at_most(
                "tasks at the same time (the node's cores)",
                most_at_once(spans),
                cores(),
                digits=0,
            ),
        ],
        {"runs a second": rates},
    )


def _run_concurrently(
    server: Server, workflow: str, count: int, completed: int
) -> tuple[float, float]:
    """Submit `count` runs. Return the seconds until all are accepted, and until `completed` runs
    of the server are COMPLETE."""

    def submit(_: int) -> str:
        return server.wes.again().submit("Snakefile", attachments={"Snakefile": workflow})

    start = time.perf_counter()
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(submit, range(count)))
    answered = time.perf_counter() - start
    server.wes.wait_for_all(completed)
    return answered, time.perf_counter() - start
