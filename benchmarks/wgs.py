"""`wgs` on one core and on two."""

from collections.abc import Iterator

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
    data = fresh(options.work / "wgs")
    fixtures.stock(data, folder)
    last: dict[str, str] = {}
    with serving(data, cores=2) as server:

        def call(cores: int, name: str) -> None:
            last[name] = server.wes.submit("wgs", fixtures.params(), cores=cores)
            server.wes.wait(last[name], every=_POLL_SECONDS)

        found = in_turns(
            {ONE: lambda: call(1, ONE), TWO: lambda: call(2, TWO)},
            options.rounds or _ROUNDS,
            warm_up=0,
        )
        tasks = [row for name, run_id in last.items() for row in _tasks(server, name, run_id)]
    one, two = found[ONE], found[TWO]
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
    """CPU seconds task by task, of the last run, as the server tells them."""
    for task, used in server.wes.cpu_of_tasks(run_id):
        yield figure(f"{name}: CPU of the task {task}, last run", used, unit="s")
