"""Renders pages: content as HTML by a template, or as JSON; formats for people."""

import asyncio
import json
import math
import re
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from multidict import MultiDict

from wesemu import __version__
from wesemu.api.base import OWNER, single_values
from wesemu.api.wes.files import OpenedFile
from wesemu.dashboard.viewer_script import SCRIPT
from wesemu.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    SystemFault,
    TooLarge,
    TooManyRuns,
    Unauthorized,
    WesemuError,
)
from wesemu.runs.model import RunState
from wesemu.runs.run_directory import open_below
from wesemu.util.cancellation import close, open_in_thread

T = TypeVar("T")

HOME = "/ui/"

_ADDRESS = re.compile(r'(\b(?:href|src|action|formaction|data-live)=")/(?!/)')
"""An attribute of a page whose value is a path. Texts cannot match: their quotes are escaped."""

_STATIC_TYPES = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "viewer.js": "text/javascript",
    "igv.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}

_FRESH = {"Cache-Control": "no-store"}

_NONE = "\N{EN DASH}"
"""Stands for a value that does not exist (yet)."""

STATE_WORDS: Mapping[RunState, str] = {
    RunState.QUEUED: "queued",
    RunState.INITIALIZING: "starting",
    RunState.RUNNING: "running",
    RunState.CANCELING: "canceling",
    RunState.COMPLETE: "complete",
    RunState.EXECUTOR_ERROR: "failed",
    RunState.SYSTEM_ERROR: "system error",
    RunState.CANCELED: "canceled",
}


@dataclass(frozen=True, slots=True)
class WebPage:
    """A page: the name of its template, its title, and its content, which is also its JSON."""

    template: str
    title: str
    content: Mapping[str, object]


class Pages:
    """Renders pages and sends static files. With `closed`, pages have a button to log out.

    The constructor compiles the templates of errors, so it blocks; `render_now` needs no more for
    them.
    """

    def __init__(self, *, closed: bool) -> None:
        self.closed = closed
        for name in ("base.html", "error.html"):
            _environment().get_template(name)

    async def render(
        self, page: WebPage, request: web.Request, *, status: int = 200
    ) -> web.Response:
        """Return the page as HTML, or as JSON if the path ends with `.json`.

        A thread makes it: a page of thousands of rows takes seconds.
        """
        return await asyncio.to_thread(self.render_now, page, request, status=status)

    def render_now(self, page: WebPage, request: web.Request, *, status: int = 200) -> web.Response:
        """Like `render`, but in this thread. Blocks, except for errors."""
        if request.path.endswith(".json"):
            text = json.dumps(page.content, ensure_ascii=False)
            kind = "application/json"
        else:
            text = (
                _environment()
                .get_template(page.template)
                .render(
                    page.content,
                    title=page.title,
                    path=request.path,
                    query=f"?{request.query_string}" if request.query_string else "",
                    owner=request.get(OWNER, ""),
                    closed=self.closed,
                    version=__version__,
                )
            )
            text = _ADDRESS.sub(rf"\g<1>{_to_root(request)}", text)
            kind = "text/html"
        return web.Response(text=text, content_type=kind, headers=_FRESH, status=status)

    async def static(self, request: web.Request) -> web.Response:
        """Send the style sheet, the script or the icon."""
        name = request.match_info["name"]
        content = await asyncio.to_thread(_static_file, name)
        if content is None:
            raise NotFound(f"there is no file {name[:80]!r}")
        headers = {"Cache-Control": "no-cache"}
        return web.Response(body=content, content_type=_STATIC_TYPES[name], headers=headers)


def see_other(request: web.Request, path: str) -> web.Response:
    """Redirect to a path of this server."""
    location = _to_root(request) + path.removeprefix("/")
    return web.Response(status=303, headers={"Location": location})


def _to_root(request: web.Request) -> str:
    """Return the root of this server relative to the request's path.

    Relative links also hold behind a proxy that strips a path, whatever this path is.
    """
    return "../" * (request.rel_url.raw_path.count("/") - 1) or "./"


@cache
def _environment() -> Environment:
    """Return the templates, which are read and compiled at their first use."""
    environment = Environment(
        loader=PackageLoader("wesemu.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    formats = {"duration": duration, "size": size, "count": count, "time": time, "clip": clip}
    environment.filters |= formats
    return environment


@lru_cache(maxsize=len(_STATIC_TYPES))
def _static_file(name: str) -> bytes | None:
    """Return the content of a static file, or None if there is none of this name. Blocks."""
    if name not in _STATIC_TYPES:
        return None
    file = SCRIPT if name == "igv.js" else files("wesemu.dashboard") / "static" / name
    return file.read_bytes() if file.is_file() else None


# Errors

_STATUS: tuple[tuple[type[WesemuError], int], ...] = (
    (TooLarge, 413),
    (InvalidRequest, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (TooManyRuns, 429),
    (SystemFault, 503),
)

REFUSALS = (InvalidRequest, Forbidden, NotFound, Conflict, TooManyRuns)
"""Errors of a submission that its form shows, so that nothing has to be typed again."""


def status_of(error: WesemuError) -> int:
    return next((code for kind, code in _STATUS if isinstance(error, kind)), 500)


def form_status(error: WesemuError) -> int:
    """Return the status of a form with an error: 400 if what a field names is not found."""
    return 400 if isinstance(error, NotFound) else status_of(error)


# Live updates


async def next_second() -> None:
    """Wait for the next whole second of the event loop's clock, which all live pages share."""
    await asyncio.sleep(1 - asyncio.get_running_loop().time() % 1)


class OncePerSecond(Generic[T]):
    """Does equal work once for all clients that want it within the same second.

    Changes are announced at the start of a second (`next_second`), so the work of that second
    knows them.
    """

    def __init__(self) -> None:
        self._second = -1
        self._results: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of `work`, or that of the work with an equal `key`."""
        if (second := int(asyncio.get_running_loop().time())) != self._second:
            self._second, self._results = second, {}
        if key not in self._results:
            self._results[key] = asyncio.create_task(work(), name="shared work")
        return await asyncio.shield(self._results[key])


def copy_of(response: web.Response) -> web.Response:
    """Return a response that can be sent once more."""
    return web.Response(body=response.body, headers=response.headers)


# Formats

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEP = 1000


def duration(seconds: float | None) -> str:
    """Format seconds: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "1 d 3 h"."""
    if seconds is None:
        return _NONE
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 10:
        return f"{sign}{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{sign}{whole} s"
    if whole < _HOUR:
        return f"{sign}{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{sign}{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{sign}{whole // _DAY} d {whole % _DAY // _HOUR} h"


def size(number: float | None) -> str:
    """Format bytes with decimal units: "532 B", "1.2 MB"."""
    return _NONE if number is None else _scaled(number, ("B", "kB", "MB", "GB", "TB", "PB"))


def count(number: float | None) -> str:
    """Format a number of reads or bases: "21,014", "2.1 M", "120 G"."""
    if number is None:
        return _NONE
    if abs(number) < _STEP**2:
        return f"{number:,.0f}"
    return _scaled(number, ("", "k", "M", "G", "T", "P"))


def time(stamp: str | None) -> str:
    """Format an ISO 8601 time in UTC: "2026-01-15 08:30:25"."""
    if stamp is None:
        return _NONE
    return datetime.fromisoformat(stamp).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def clip(text: str, most: int = 40) -> str:
    """Shorten a text in its middle to `most` characters."""
    if len(text) <= most:
        return text
    head = math.ceil((most - 1) / 2)
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def iso(timestamp: datetime | None) -> str | None:
    return None if timestamp is None else timestamp.astimezone(UTC).isoformat(timespec="seconds")


def seconds_of(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()


def _scaled(number: float, units: tuple[str, ...]) -> str:
    place = 0
    while abs(number) >= _STEP and place < len(units) - 1:
        number /= _STEP
        place += 1
    digits = 0 if place == 0 or abs(number) >= 100 else 1
    return f"{number:.{digits}f} {units[place]}".rstrip()


def text_of(value: Any) -> str:
    """Return a parameter as text: strings as they are, other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# Forms and files


async def read_form(request: web.Request) -> dict[str, str]:
    """Return the text fields of a small form. Raises InvalidRequest for a malformed body."""
    try:
        form = MultiDict((name, str(value)) for name, value in (await request.post()).items())
    except (ValueError, LookupError, AssertionError) as error:
        raise InvalidRequest("the form is cut off or not encoded as its headers say") from error
    return single_values(form)


async def send_file(
    request: web.Request, root: Path, path: str, *, download: bool
) -> web.StreamResponse:
    """Send a file below `root`. A browser saves it if `download`, else shows it as plain text."""
    file = await open_in_thread(close, open_below, root, path)
    if file is None:
        raise NotFound(f"there is no file {path[:200]!r}")
    return OpenedFile(request, file, file_headers(path, download=download))


def file_headers(path: str, *, download: bool) -> dict[str, str]:
    if not download:
        return {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-cache"}
    name = quote(path.rpartition("/")[2])
    return {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "Cache-Control": "no-cache",
    }
