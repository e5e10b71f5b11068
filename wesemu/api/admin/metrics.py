"""`/_wesemu/metrics`: metrics in Prometheus's text format, version 0.0.4."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog
from aiohttp import web

from wesemu import __version__
from wesemu.api.base import RequestMetrics, RouteMetrics
from wesemu.runs.admin_service import BUCKETS, AdminService
from wesemu.runs.clock import EmulatedClock
from wesemu.runs.sla import ServiceLevel

log = structlog.get_logger("wesemu.metrics")

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One line of a metric family. `suffix` follows the family's name (`_sum`, `_count`,
    `_bucket`)."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class MachineFigures:
    """Resources of the node, resources leased to tasks, and disk usage. Memory and disk are in
    bytes."""

    offered: Mapping[str, int]
    leased: Mapping[str, int]
    waiting_tasks: int
    disk_free: int
    disk_total: int
    cache: int
    cache_limit: int
    open_files: int
    open_files_limit: int


class MetricsHandlers:
    """Renders counters that other parts keep. `machine` blocks, so it runs in a thread."""

    def __init__(
        self,
        service: AdminService,
        requests: RequestMetrics,
        clock: EmulatedClock,
        machine: Callable[[], MachineFigures],
    ) -> None:
        self._service = service
        self._request_metrics = requests
        self._clock = clock
        self._machine = machine

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/_wesemu/metrics", self.metrics)]

    async def metrics(self, request: web.Request) -> web.Response:
        families = [
            _family("info", "gauge", "This server.", [MetricSample(1, {"version": __version__})]),
            *await self._runs(),
            *self._ends(),
            *await self._machine_families(),
            _family(
                "clock_seconds",
                "gauge",
                "Emulated time in seconds since 1970.",
                [MetricSample(self._clock.now().timestamp())],
            ),
            _family(
                "clock_speed",
                "gauge",
                "Emulated seconds a real second.",
                [MetricSample(self._clock.rate.speed)],
            ),
            *self._requests(),
        ]
        text = "".join(f"{line}\n" for family in families for line in family)
        return web.Response(body=text.encode(), headers={"Content-Type": _CONTENT_TYPE})

    async def _machine_families(self) -> list[Iterator[str]]:
        """Return the figures of the machine; none while a folder of the data cannot be read."""
        try:
            return [*_machine(await asyncio.to_thread(self._machine))]
        except OSError as error:
            log.warning("the metrics lack the figures of the machine", error=str(error))
            return []

    async def _runs(self) -> list[Iterator[str]]:
        counts = await self._service.counts()
        tasks = await self._service.active_tasks()
        queued = dict.fromkeys(ServiceLevel, (0, 0.0))
        now = self._clock.now()
        for level, number, oldest in await self._service.queue():
            queued[ServiceLevel(level)] = number, max((now - oldest).total_seconds(), 0.0)
        levels = [(level.name.lower(), *figures) for level, figures in queued.items()]
        return [
            _family(
                "runs",
                "gauge",
                "Runs of all owners that are known, by state.",
                [MetricSample(number, {"state": state.value}) for state, number in counts.items()],
            ),
            _family(
                "queue_runs",
                "gauge",
                "Runs that wait, by service level.",
                [MetricSample(number, {"level": level}) for level, number, _ in levels],
            ),
            _family(
                "queue_oldest_seconds",
                "gauge",
                "Emulated seconds that the oldest of them has waited.",
                [MetricSample(age, {"level": level}) for level, _, age in levels],
            ),
            _family(
                "tasks",
                "gauge",
                "Tasks of the runs that have not ended, by state.",
                [MetricSample(number, {"state": state.value}) for state, number in tasks.items()],
            ),
        ]

    def _ends(self) -> Iterator[Iterator[str]]:
        """Durations and SLA results of the runs that ended since the server started."""
        tallies = self._service.tallies
        samples = []
        for (workflow, state), took in sorted(tallies.durations.items()):
            labels = {"workflow": workflow, "state": state.value}
            bounds = [*zip(map(str, BUCKETS), took.counts, strict=True), ("+Inf", took.number)]
            samples += [
                MetricSample(number, labels | {"le": at}, "_bucket") for at, number in bounds
            ]
            samples += [
                MetricSample(took.seconds, labels, "_sum"),
                MetricSample(took.number, labels, "_count"),
            ]
        yield _family(
            "run_seconds", "histogram", "Real seconds that the tools of ended runs took.", samples
        )
        results = [
            MetricSample(number, {"level": level, "result": "met" if met else "missed"})
            for (level, met), number in sorted(tallies.sla.items())
        ]
        yield _family(
            "sla_runs_total", "counter", "Completed runs by their service level's promise.", results
        )

    def _requests(self) -> Iterator[Iterator[str]]:
        totals: defaultdict[RouteMetrics, int] = defaultdict(int)
        answers = []
        for (route, status), number in sorted(self._request_metrics.answers.items()):
            totals[route] += number
            answers.append(MetricSample(number, _labels(route) | {"status": str(status)}))
        yield _family("http_requests_total", "counter", "Requests that were answered.", answers)
        times = []
        for route, number in totals.items():
            times.append(MetricSample(self._request_metrics.seconds[route], _labels(route), "_sum"))
            times.append(MetricSample(number, _labels(route), "_count"))
        yield _family("http_request_seconds", "summary", "Real seconds that answers took.", times)


def _machine(figures: MachineFigures) -> Iterator[Iterator[str]]:
    for name, description, values in (
        ("node_resources", "What tasks of this node may lease; memory in bytes.", figures.offered),
        ("leased_resources", "What tasks have leased; memory in bytes.", figures.leased),
    ):
        samples = [MetricSample(number, {"resource": each}) for each, number in values.items()]
        yield _family(name, "gauge", description, samples)
    for name, description, value in (
        ("tasks_waiting", "Tasks that wait for a lease.", figures.waiting_tasks),
        ("disk_free_bytes", "Free on the data directory's disk.", figures.disk_free),
        ("disk_total_bytes", "The data directory's disk.", figures.disk_total),
        ("cache_bytes", "Fetched inputs that are kept.", figures.cache),
        ("cache_limit_bytes", "How much of them may be kept.", figures.cache_limit),
        ("open_files", "Files that the server has open.", figures.open_files),
        ("open_files_limit", "How many it may open.", figures.open_files_limit),
    ):
        yield _family(name, "gauge", description, [MetricSample(value)])


def _labels(route: RouteMetrics) -> dict[str, str]:
    return {"method": route.method, "route": route.path}


# prometheus-client would replace these few lines, but it prints 1 as 1.0 and sorts the labels.
def _family(
    name: str, kind: str, description: str, samples: Iterable[MetricSample]
) -> Iterator[str]:
    full = f"wesemu_{name}"
    yield f"# HELP {full} {description}"
    yield f"# TYPE {full} {kind}"
    for sample in samples:
        labels = ",".join(f'{key}="{_escape(value)}"' for key, value in sample.labels.items())
        yield f"{full}{sample.suffix}{f'{{{labels}}}' if labels else ''} {sample.value}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
