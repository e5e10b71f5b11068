"""The dashboard's dialect, handlers and login. All pages are read with the rights of their owner.

Every page has a JSON twin: its path with `.json` added returns the content that the page shows.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from urllib.parse import quote, urlencode

from aiohttp import web

from wesemu.api.base import (
    OWNER,
    REQUEST_ID,
    Dialect,
    Event,
    EventStreams,
    http_message,
    single,
    single_values,
)
from wesemu.api.connections import base_url
from wesemu.api.csrf import same_origin
from wesemu.api.fault_injection import BUCKET_OPERATIONS, CONTROL, OPERATIONS, operation_name
from wesemu.api.wes.auth import TokenAuthenticator
from wesemu.api.wes.files import OpenedFile
from wesemu.api.wes.models import PREFIX, VERSIONS
from wesemu.api.wes.multipart import FormReader
from wesemu.api.wes.responses import Limits
from wesemu.api.wes.submit import RunSubmission
from wesemu.dashboard import buckets, emulator, new_run, node, run_table
from wesemu.dashboard.pages import (
    HOME,
    REFUSALS,
    OncePerSecond,
    Pages,
    WebPage,
    copy_of,
    file_headers,
    form_status,
    next_second,
    read_form,
    see_other,
    status_of,
)
from wesemu.dashboard.run_routes import RunPages
from wesemu.errors import Forbidden, InvalidRequest, Unauthorized, WesemuError
from wesemu.runs.clock import Clock
from wesemu.runs.model import LOCAL_OWNER, JsonObject, JsonValue, Owner, Run, RunId
from wesemu.runs.notifications import RunNotifier
from wesemu.runs.ports import DryRunResult
from wesemu.runs.queries import RunStatistics
from wesemu.runs.service import RunService
from wesemu.storage.bucket_admin import ObjectServices
from wesemu.storage.objects import open_object
from wesemu.util.cancellation import finish_in_thread
from wesemu.workflows.params import PARAMS

_AGS = "/gs/"
_EMULATOR = f"{HOME}emulator"
_LOGIN = f"{HOME}login"
_STATIC = f"{HOME}static/"
_PUBLIC = (_LOGIN, _STATIC)
"""Paths that need no login."""

_COOKIE = "wesemu_token"
_COOKIE_SECONDS = 30 * 24 * 3600

_VIEWER_STYLES = (
    "'sha256-ITHmamcImsZ/Je1xrdtDLZVvRSpj1Zokb6uHXORB824='",
    "'sha256-NTwDUA6nIvRRpI2lIBtHJqkV0TlTj4HVmI6vI81fIfM='",
)
"""The style sheets that igv.js 3.1.6 adds to a page. Its decoder of CRAM is WebAssembly."""

_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; "
    f"style-src 'self' {' '.join(_VIEWER_STYLES)}; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Content-Security-Policy of all pages: no inline script, nothing from other hosts."""


class DashboardDialect(Dialect):
    """The web pages: login by cookie, errors as pages.

    The cookie contains the user's token. It is HttpOnly and SameSite=Strict, so neither scripts
    nor other sites can use it. Without credentials in the settings, everyone is the owner `local`.
    """

    is_logged = False

    def __init__(self, tokens: TokenAuthenticator, pages: Pages, *, closed: bool) -> None:
        self._tokens = tokens
        self._pages = pages
        self._closed = closed

    def is_control(self, request: web.Request) -> bool:
        return request.path.startswith(_EMULATOR)

    def owns(self, request: web.Request) -> bool:
        return request.path == "/" or request.path.startswith(HOME) or request.path == HOME[:-1]

    async def authenticate(self, request: web.Request) -> Owner:
        """Return the owner that the cookie or the Authorization header names.

        Raises Unauthorized without a valid token, and Forbidden for a form that another site sent.
        """
        _check_origin(request)
        if not self._closed:
            return LOCAL_OWNER
        if request.path == "/" or request.path.startswith(_PUBLIC):
            return Owner("")
        if "Authorization" in request.headers:
            return await self._tokens(request)
        owner = await self._tokens.find_or_verify(request.cookies.get(_COOKIE, ""))
        if owner is None:
            raise Unauthorized("log in with a token of this server")
        return owner

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        # with an owner, the login succeeded; what is missing then is the admin token
        if isinstance(error, Unauthorized) and OWNER not in request and _is_page(request):
            target = f"{_LOGIN}?{urlencode({'next': request.path_qs})}"
            return see_other(request, target)
        status = 500
        message = f"internal error; the server's log has it under {request[REQUEST_ID]}"
        if isinstance(error, web.HTTPException):
            status, message = error.status, http_message(error)
            if status == 404:
                message = f"There is no page {request.path}."
        elif isinstance(error, WesemuError):
            message = str(error)
            status = status_of(error)
        page = WebPage("error.html", str(status), {"status": status, "message": message})
        return self._pages.render_now(page, request, status=status)

    def headers(self, request_id: str) -> dict[str, str]:
        return {
            "Content-Security-Policy": _POLICY,
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "X-Request-Id": request_id,
        }


def _is_page(request: web.Request) -> bool:
    return request.method in ("GET", "HEAD") and not request.path.endswith(".json")


def _check_origin(request: web.Request) -> None:
    """Raise Forbidden if a form of another site sent a changing request."""
    if request.method in ("GET", "HEAD"):
        return
    origin = request.headers.get("Origin")
    if origin is not None and not same_origin(origin, request):
        raise Forbidden("this form was sent by another site")


class DashboardHandlers:
    """All pages. `run_pages` are those of one run; `objects` are the local buckets.

    `machine` reports the node. `references` returns the names of the registered references; it
    blocks.
    """

    def __init__(
        self,
        runs: RunService,
        statistics: RunStatistics,
        changes: RunNotifier,
        objects: ObjectServices,
        run_pages: RunPages,
        clock: Clock,
        machine: node.MachineFacts,
        submission: RunSubmission,
        controls: emulator.Controls,
        references: Callable[[], list[str]],
        tokens: TokenAuthenticator,
        pages: Pages,
    ) -> None:
        self._runs = runs
        self._statistics = statistics
        self._changes = changes
        self._objects = objects
        self._run_pages = run_pages
        self._clock = clock
        self._machine = machine
        self._submission = submission
        self._controls = controls
        self._references = references
        self._tokens = tokens
        self._pages = pages
        self._streams = EventStreams()
        self._refreshes = OncePerSecond[web.Response]()
        self._announcements = OncePerSecond[bytes]()

    def routes(self) -> list[web.RouteDef]:
        pages = {
            "": self.run_table,
            **self._run_pages.pages(),
            "new": self.new_run,
            "node": self.node,
            "node/storage": self.storage,
            "emulator": self.emulator,
            "api": self.api,
            "buckets": self.buckets,
            "buckets/{bucket}": self.objects,
            "buckets/{bucket}/preview": self.preview,
        }
        return [
            web.get("/", self.home),
            web.get(HOME[:-1], self.home),
            # First the JSON: `{run_id}` would match `ID.json`, too.
            *(web.get(f"{HOME}{path or 'index'}.json", handler) for path, handler in pages.items()),
            *(web.get(HOME + path, handler) for path, handler in pages.items()),
            web.get(f"{HOME}events", self.events),
            web.get(_LOGIN, self.login_form),
            web.post(_LOGIN, self.login),
            web.post(f"{HOME}logout", self.logout),
            web.post(f"{HOME}new", self.start),
            web.post(_EMULATOR, self.control),
            web.post(f"{_EMULATOR}/snapshot", self.save_snapshot),
            web.post(f"{_EMULATOR}/load", self.load_snapshot),
            *self._run_pages.routes(),
            web.get(HOME + "objects/{bucket}/{key:.+}", self.object),
            web.post(f"{HOME}buckets", self.create_bucket),
            web.post(HOME + "buckets/{bucket}", self.upload),
            web.get(_STATIC + "{name}", self._pages.static),
        ]

    async def close(self, app: web.Application) -> None:
        """End all event streams. For `web.Application.on_shutdown`."""
        await self._streams.close(app)

    # Login

    async def home(self, request: web.Request) -> web.Response:
        return see_other(request, HOME)

    async def login_form(self, request: web.Request) -> web.Response:
        page = WebPage("login.html", "Log in", {"next": _local_path(single(request.query, "next"))})
        return await self._pages.render(page, request)

    async def login(self, request: web.Request) -> web.Response:
        """Check the token of the form, store it in the cookie, and return to the wanted page."""
        form = await read_form(request)
        token, target = form.get("token", "").strip(), _local_path(form.get("next", ""))
        owner = await self._tokens.find_or_verify(token)
        if owner is None:
            content = {"next": target, "message": "The server does not know this token."}
            return await self._pages.render(
                WebPage("login.html", "Log in", content), request, status=401
            )
        response = see_other(request, target)
        response.set_cookie(
            _COOKIE,
            token,
            max_age=_COOKIE_SECONDS,
            path="",  # of the request, which a proxy may extend
            httponly=True,
            samesite="Strict",
            secure=base_url(request).startswith("https:"),
        )
        return response

    async def logout(self, request: web.Request) -> web.Response:
        response = see_other(request, _LOGIN)
        response.del_cookie(_COOKIE, path="")
        return response

    # Runs

    async def run_table(self, request: web.Request) -> web.Response:
        if "X-Wesemu-Refresh" in request.headers:
            key = request[OWNER], base_url(request), request.path_qs
            return copy_of(await self._refreshes.get(key, partial(self._run_table, request)))
        return await self._run_table(request)

    async def _run_table(self, request: web.Request) -> web.Response:
        page = await run_table.page(
            self._runs,
            self._statistics,
            request[OWNER],
            single_values(request.query),
            self._clock.now(),
            base_url(request),
        )
        return await self._pages.render(page, request)

    async def new_run(self, request: web.Request) -> web.Response:
        """Show the form of a pipeline, filled with the chosen files, if there are any."""
        files = await self._known_files()
        pipeline = single(request.query, "pipeline") or next(iter(PARAMS))
        try:
            values = new_run.chosen(request.query.getall("file", []))
        except InvalidRequest as error:
            page = new_run.page(pipeline, files, message=str(error))
            return await self._pages.render(page, request, status=400)
        page = new_run.page(pipeline, files, values=values)
        return await self._pages.render(page, request)

    async def start(self, request: web.Request) -> web.Response:
        """Start the run of a form, or plan it, and show what is wrong with it beside the form."""
        pipeline = single(request.query, "pipeline")
        values: dict[str, str] = {}
        try:
            if pipeline:
                values = await read_form(request)
                result = await self._submit(request[OWNER], pipeline, values)
            else:
                plans = single(request.query, "dry_run") == "true"
                result = await self._submission.receive(request[OWNER], request, dry_run=plans)
        except REFUSALS as error:
            page = new_run.page(
                pipeline, await self._known_files(), values=values, message=str(error)
            )
            return await self._pages.render(page, request, status=form_status(error))
        if isinstance(result, Run):
            return see_other(request, f"{HOME}runs/{result.id}")
        page = new_run.page(pipeline, await self._known_files(), values=values, planned=result)
        return await self._pages.render(page, request)

    async def _submit(
        self, owner: Owner, pipeline: str, values: Mapping[str, str]
    ) -> Run | DryRunResult:
        asked = new_run.request_of(pipeline, values)
        if values.get("dry_run") == "true":
            return await self._runs.dry_run(owner, asked)
        return await self._runs.submit(owner, asked)

    async def _known_files(self) -> JsonObject:
        return await asyncio.to_thread(new_run.known_files, self._objects, self._references)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream the ids of the owner's runs that change, once a second."""
        return await self._streams.send(request, self._changed(request[OWNER]))

    async def _changed(self, owner: Owner) -> AsyncGenerator[bytes]:
        with self._changes.watch() as changed:
            await next_second()
            yield bytes(Event("ready", ""))
            while True:
                await changed.wait()
                await next_second()
                ids = tuple(run_id for run_id, _ in await changed.take())
                work = partial(self._announce, owner, ids)
                if announcement := await self._announcements.get((owner, ids), work):
                    yield announcement

    async def _announce(self, owner: Owner, ids: Sequence[RunId]) -> bytes:
        """Return the events of those runs that belong to the owner."""
        known = await self._runs.many(owner, ids)
        return b"".join(bytes(Event("run", run_id)) for run_id in known)

    # Node and buckets

    async def node(self, request: web.Request) -> web.Response:
        return await self._pages.render(await node.page(self._machine, request[OWNER]), request)

    async def storage(self, request: web.Request) -> web.Response:
        page = await node.storage(self._machine, self._runs, request[OWNER])
        return await self._pages.render(page, request)

    async def emulator(self, request: web.Request) -> web.Response:
        return await self._pages.render(emulator.page(self._controls, request), request)

    async def control(self, request: web.Request) -> web.Response:
        """Change the clock, add or clear faults, or reset, as a form of the page asks."""
        await emulator.apply(self._controls, request, await read_form(request))
        return see_other(request, _EMULATOR)

    async def save_snapshot(self, request: web.Request) -> web.StreamResponse:
        return await emulator.save_snapshot(self._controls, request)

    async def load_snapshot(self, request: web.Request) -> web.Response:
        await emulator.load_snapshot(self._controls, request)
        return see_other(request, _EMULATOR)

    async def api(self, request: web.Request) -> web.Response:
        return await self._pages.render(_api_page(request), request)

    async def buckets(self, request: web.Request) -> web.Response:
        page = await asyncio.to_thread(buckets.overview, self._objects)
        return await self._pages.render(page, request)

    async def objects(self, request: web.Request) -> web.Response:
        query = single_values(request.query)
        page = await asyncio.to_thread(
            buckets.objects, self._objects, request.match_info["bucket"], query
        )
        return await self._pages.render(page, request)

    async def preview(self, request: web.Request) -> web.Response:
        query = single_values(request.query)
        page = await asyncio.to_thread(
            buckets.preview, self._objects, request.match_info["bucket"], query
        )
        return await self._pages.render(page, request)

    async def create_bucket(self, request: web.Request) -> web.Response:
        name = (await read_form(request)).get("name", "")
        await finish_in_thread(self._objects.buckets.create, name)
        return see_other(request, f"{HOME}buckets/{quote(name)}")

    async def object(self, request: web.Request) -> web.StreamResponse:
        """Send an object, with ranges."""
        bucket, key = request.match_info["bucket"], request.match_info["key"]
        _, file = await open_object(self._objects.store, bucket, key)
        return OpenedFile(request, file, file_headers(key, download=True))

    async def upload(self, request: web.Request) -> web.Response:
        """Store the files of a multipart form in the bucket, below the form's `prefix`."""
        bucket = request.match_info["bucket"]
        form = FormReader.of(request, upload=Limits().upload, parts=Limits().parts)
        prefix = await buckets.receive(self._objects.store, bucket, form)
        query = urlencode({"prefix": prefix}) if prefix else ""
        target = f"{HOME}buckets/{quote(bucket)}" + (f"?{query}" if query else "")
        return see_other(request, target)


def _local_path(text: str) -> str:
    """Return a path of the dashboard to return to; its home for anything else."""
    is_local = text.startswith(HOME) and "\\" not in text and "//" not in text
    return text if is_local and text.isprintable() else HOME


def _api_page(request: web.Request) -> WebPage:
    """Return the page of the APIs: addresses, documents, operations.

    The operations are the routes of the application, so none is missing.
    """
    content: JsonObject = {
        "url": base_url(request),
        "wes": {"prefix": PREFIX, "operations": _operations(request, f"{PREFIX}/")},
        "versions": [
            {"name": version.name, "prefix": version.prefix} for version in VERSIONS.values()
        ],
        "ags": {"operations": _operations(request, _AGS)},
        "oss": {"operations": [*BUCKET_OPERATIONS]},
        "control": {"operations": _operations(request, CONTROL)},
    }
    return WebPage("api.html", "API", content)


def _operations(request: web.Request, prefix: str) -> list[JsonValue]:
    """Return name, method and path of the routes below `prefix`."""
    found: list[JsonValue] = []
    for route in request.app.router.routes():
        path = "" if route.resource is None else route.resource.canonical
        if path.startswith(prefix) and route.method != "HEAD":
            name = operation_name(route.method, path)
            named = name if name in OPERATIONS else ""
            found.append({"name": named, "method": route.method, "path": path})
    return found
