"""Four runs on a node of two cores; half of their work needs both cores, half needs one.

The tasks sleep, so only the order of the leases matters.
"""

import time

from benchmarks.figures import core_seconds, median, most_at_once, parse_spans
from benchmarks.options import Options
from benchmarks.report import Report, at_most, figure
from benchmarks.rounds import say
from benchmarks.server import fresh, serving
from benchmarks.start import start_once
from benchmarks.workflows import read_spans, wide_and_narrow

_CORES = 2
_RUNS = 4
_NARROW = 2
_TASK_SECONDS = 0.5
_ROUNDS = 3
_TIMES_IDEAL = 1.4

IDEAL_SECONDS = _RUNS * (_CORES + _NARROW) * _TASK_SECONDS / _CORES
"""The makespan with all cores always busy, with narrow tasks of two runs side by side."""


def measure(options: Options) -> Report:
    workflow = wide_and_narrow(_TASK_SECONDS, _CORES, _NARROW)
    rounds = options.rounds or _ROUNDS
    makespans = []
    with serving(fresh(options.work / "mixed"), cores=_CORES) as server:
        start_once(server)
        for number in range(1, rounds + 1):
            start = time.perf_counter()
            for _ in range(_RUNS):
                server.wes.submit("Snakefile", cores=_CORES, attachments={"Snakefile": workflow})
            server.wes.wait_for_all(1 + number * _RUNS)
            makespans.append(time.perf_counter() - start)
            say(f"{number}/{rounds}: {makespans[-1]:.2f} s")
        spans = parse_spans(read_spans(server.data))
    busy = core_seconds(spans) / _CORES / rounds
    return Report(
        f"mixed: {_RUNS} runs of a wide and {_NARROW} narrow tasks on {_CORES} cores",
        [
            figure("ideal", IDEAL_SECONDS, unit="s"),
            figure("first POST to last COMPLETE, median", median(makespans), unit="s"),
            at_most("times the ideal", median(makespans) / IDEAL_SECONDS, _TIMES_IDEAL, unit="x"),
            at_most("cores held at the same time", most_at_once(spans), _CORES, digits=0),
            figure("tasks alone, every core busy", busy, unit="s"),
        ],
        {"makespan": makespans},
    )
