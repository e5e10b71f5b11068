"""How many requests were answered, how, and in what time."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """Requests that are counted together. `path` has names for what differs; "" is no route."""

    method: str
    path: str


class Traffic:
    """Counts since the server started."""

    def __init__(self) -> None:
        self._answers: defaultdict[tuple[Route, int], int] = defaultdict(int)
        self._seconds: defaultdict[Route, float] = defaultdict(float)

    @property
    def answers(self) -> Mapping[tuple[Route, int], int]:
        """By route and status."""
        return self._answers

    @property
    def seconds(self) -> Mapping[Route, float]:
        """Wall-clock seconds from a request's headers to its answer's end, summed up."""
        return self._seconds

    def count(self, request: web.Request, status: int, seconds: float) -> None:
        route = _route(request)
        self._answers[route, status] += 1
        self._seconds[route] += seconds


def _route(request: web.Request) -> Route:
    resource = request.match_info.route.resource
    method = request.method if resource is not None else ""
    return Route(method, resource.canonical if resource is not None else "")
