"""`/_wesemu/metrics`: figures in Prometheus' text format (version 0.0.4)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from wesemu import __version__
from wesemu.api.traffic import Route, Traffic
from wesemu.clock import EmulatedClock
from wesemu.runs.overseer import Overseer

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: `suffix` is put behind the family's name."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""


class MetricsHandlers:
    """Reads what others count."""

    def __init__(self, overseer: Overseer, traffic: Traffic, clock: EmulatedClock) -> None:
        self._overseer = overseer
        self._traffic = traffic
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/_wesemu/metrics", self.metrics)]

    async def metrics(self, request: web.Request) -> web.Response:
        counts = await self._overseer.counts()
        runs = [Sample(number, {"state": state.value}) for state, number in counts.items()]
        families = [
            _family("info", "gauge", "This server.", [Sample(1, {"version": __version__})]),
            _family("runs", "gauge", "Runs of all owners that are known, by state.", runs),
            _family(
                "clock_seconds",
                "gauge",
                "Emulated time in seconds since 1970.",
                [Sample(self._clock.now().timestamp())],
            ),
            _family(
                "clock_speed",
                "gauge",
                "Emulated seconds a real second.",
                [Sample(self._clock.course.speed)],
            ),
            *self._requests(),
        ]
        text = "".join(f"{line}\n" for family in families for line in family)
        return web.Response(body=text.encode(), headers={"Content-Type": _CONTENT_TYPE})

    def _requests(self) -> Iterator[Iterator[str]]:
        totals: defaultdict[Route, int] = defaultdict(int)
        answers = []
        for (route, status), number in sorted(self._traffic.answers.items()):
            totals[route] += number
            answers.append(Sample(number, _labels(route) | {"status": str(status)}))
        yield _family("http_requests_total", "counter", "Requests that were answered.", answers)
        times = []
        for route, number in totals.items():
            times.append(Sample(self._traffic.seconds[route], _labels(route), "_sum"))
            times.append(Sample(number, _labels(route), "_count"))
        yield _family("http_request_seconds", "summary", "Real seconds that answers took.", times)


def _labels(route: Route) -> dict[str, str]:
    return {"method": route.method, "route": route.path}


def _family(name: str, kind: str, told: str, samples: Iterable[Sample]) -> Iterator[str]:
    full = f"wesemu_{name}"
    yield f"# HELP {full} {told}"
    yield f"# TYPE {full} {kind}"
    for sample in samples:
        labels = ",".join(f'{key}="{_escape(value)}"' for key, value in sample.labels.items())
        yield f"{full}{sample.suffix}{f'{{{labels}}}' if labels else ''} {sample.value}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
