"""What every dialect offers the middleware: which requests are its own, who asks, how errors
look."""

from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

from aiohttp import web
from aiohttp.typedefs import Handler

from wesemu.runs.model import Owner

OWNER: web.RequestKey[Owner] = web.RequestKey("owner", Owner)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)


@runtime_checkable
class Releasable(Protocol):
    """An answer that holds something until it is sent."""

    async def release(self) -> None:
        """Let go of it: the answer is not sent."""
        ...


class Dialect(Protocol):
    """One API. Handlers hold no `try`: `render_error` is the one place that makes errors."""

    @property
    def handle(self) -> Handler | None:
        """What answers every request of this dialect; None: the application's routes."""
        ...

    @property
    def operation(self) -> Callable[[web.Request], Awaitable[str]] | None:
        """The name of the operation that a request means, "" for none; None where the method and
        the path tell operations apart."""
        ...

    def owns(self, request: web.Request) -> bool:
        """True for requests whose errors this dialect renders, unknown routes among them."""
        ...

    async def authenticate(self, request: web.Request) -> Owner:
        """Who asks. Raises Unauthorized or Forbidden. May read the request's body."""
        ...

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        """The answer to `request`, which has its REQUEST_ID: for a WesemuError, for an aiohttp
        HTTPException (404, 405, 413 …) or, as an internal error without details, for anything
        else."""
        ...

    def headers(self, request_id: str) -> dict[str, str]:
        """Headers that every answer of this API carries."""
        ...
