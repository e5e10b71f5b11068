"""`wgs` on one core and on two, on servers that are pinned to them."""

from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks import fixtures
from benchmarks.figures import median, ratio
from benchmarks.options import Options
from benchmarks.report import Report, Row, at_least, figure
from benchmarks.rounds import in_turns
from benchmarks.server import Server, fresh, serving

ONE, TWO = "1 core", "2 cores"
_PAIRS = 100_000
_ROUNDS = 3
_TIMES_FASTER = 1.7
_POLL_SECONDS = 0.04


def measure(options: Options) -> Report:
    pairs = options.pairs or _PAIRS
    folder = fixtures.sample(options.work, pairs)
    last: dict[str, str] = {}
    with ExitStack() as stack:
        servers = {}
        for cores, name in ((1, ONE), (2, TWO)):
            data = fresh(options.work / f"wgs-{cores}")
            fixtures.stock(data, folder)
            servers[name] = stack.enter_context(serving(data, cores=cores, pinned=True))

        def call(name: str) -> None:
            last[name] = servers[name].wes.submit("wgs", fixtures.params())
            servers[name].wes.wait(last[name], every=_POLL_SECONDS)

        measured = in_turns(
            {ONE: lambda: call(ONE), TWO: lambda: call(TWO)},
            options.rounds or _ROUNDS,
            warm_up=0,
        )
        tasks = [
            row for name, run_id in last.items() for row in _tasks(servers[name], name, run_id)
        ]
    one, two = measured[ONE], measured[TWO]
    return Report(
        f"wgs: {pairs:,} pairs",
        [
            figure("1 core, median", median(one.wall), unit="s"),
            figure("2 cores, median", median(two.wall), unit="s"),
            at_least("2 cores faster than 1", ratio(one.wall, two.wall), _TIMES_FASTER, unit="x"),
            figure("CPU, 2 cores / 1 core", ratio(two.cpu, one.cpu), unit="x"),
            *tasks,
        ],
        {ONE: one.wall, TWO: two.wall},
    )


def _tasks(server: Server, name: str, run_id: str) -> Iterator[Row]:
    """Yield the CPU seconds of each task of the last run, as the server reports them."""
    for task, used in server.wes.cpu_of_tasks(run_id):
        yield figure(f"{name}: CPU of the task {task}, last run", used, unit="s")
