"""`wgs` on one core and on two, on servers that are pinned to them.

With `../shared/data` also `mapping` and `wgs` of few real reads, compared with the tools by hand.
"""

from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks import fixtures
from benchmarks.by_hand import HandMapping, hand_tool
from benchmarks.figures import median, ratio
from benchmarks.machine import cores
from benchmarks.mappers import select_mappers
from benchmarks.options import Options
from benchmarks.report import Report, Row, at_least, at_most, figure
from benchmarks.rounds import in_turns
from benchmarks.server import Server, fresh, serving

ONE, TWO = "1 core", "2 cores"
_PAIRS = 100_000
_ROUNDS = 3
_TIMES_FASTER = 1.7
_POLL_SECONDS = 0.04
_SELDOM_SECONDS = 0.5
"""Polling interval where only CPU time counts: polling costs the server CPU time."""
_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""Lets Python keep bytecode, as an installed wesemu has it."""
_TIMES_BY_HAND = {"mapping": 1.15, "wgs": 1.25}


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
            *_small_sample(options),
        ],
        {ONE: one.wall, TWO: two.wall},
    )


def _tasks(server: Server, name: str, run_id: str) -> Iterator[Row]:
    """Yield the CPU seconds of each task of the last run, as the server reports them."""
    for task, used in server.wes.cpu_of_tasks(run_id):
        yield figure(f"{name}: CPU of the task {task}, last run", used, unit="s")


def _small_sample(options: Options) -> Iterator[Row]:
    """Yield rows of HG002's 21,014 reads: CPU of all processes, in turns with the tools by hand."""
    sample = fixtures.small_real_sample()
    if sample is None:
        return
    mapper = select_mappers(options)[0]
    data = fresh(options.work / "wgs-small")
    fasta = fixtures.stock(data, sample, mapper.parameter)
    align = mapper.by_hand(fasta, data / "buckets" / fixtures.BUCKET)
    folder = fresh(options.work / "by-hand")
    hand = HandMapping(align, hand_tool("samtools"), threads=cores(), folder=folder)
    bcftools = hand_tool("bcftools")

    def by_hand() -> None:
        hand.run()
        hand.call(bcftools, fasta)

    with serving(data, environment={**mapper.environment, **_BYTECODE}) as server:

        def run(workflow: str) -> None:
            server.wes.reconnect()
            run_id = server.wes.submit(workflow, fixtures.params(mapper.parameter))
            server.wes.wait(run_id, every=_SELDOM_SECONDS)

        samples = in_turns(
            {
                "mapping": lambda: run("mapping"),
                "mapping by hand": hand.run,
                "wgs": lambda: run("wgs"),
                "wgs by hand": by_hand,
            },
            options.rounds or _ROUNDS,
        )
    name = f"21,014 real reads, {mapper.name}, by hand {bcftools.source}'s samtools and bcftools"
    for workflow, most in _TIMES_BY_HAND.items():
        times = ratio(samples[workflow].cpu, samples[f"{workflow} by hand"].cpu)
        yield figure(
            f"{name}: CPU of {workflow} by hand",
            median(samples[f"{workflow} by hand"].cpu),
            unit="s",
        )
        yield at_most(f"{name}: CPU of {workflow}, server / by hand", times, most, unit="x")
