"""create_app: builds the server from its settings and runs it in aiohttp's lifecycle.

`core` opens the store, scheduler and engines; this module adds the APIs (WES, AGS, OSS, control).
`composition` builds single parts. No other module puts concrete parts together.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from importlib.util import find_spec

from aiohttp import web
from yarl import URL

from wesemu import __version__
from wesemu.api.admin.controls import (
    ClockHandlers,
    FaultHandlers,
    PruneHandlers,
    RequestLogHandlers,
    ResetHandlers,
)
from wesemu.api.admin.data import ReferenceHandlers, SnapshotHandlers
from wesemu.api.admin.metrics import MetricsHandlers
from wesemu.api.admin.routes import AdminAccess, AdminDialect, EventHandlers, StateHandlers
from wesemu.api.ags.auth import AgsAuthenticator
from wesemu.api.ags.routes import AgsDialect, AgsHandlers
from wesemu.api.base import Dialect
from wesemu.api.connections import Connections, Proxies, connection_limit
from wesemu.api.csrf import CrossOrigins, RequestGuard, names_loopback
from wesemu.api.fault_injection import RequestGate
from wesemu.api.middleware import UnreadableRequests, api_middleware
from wesemu.api.oss.auth import OssAuthenticator
from wesemu.api.oss.routes import OssDialect, OssHandlers
from wesemu.api.wes.auth import TokenAuthenticator, Verifier
from wesemu.api.wes.files import RunEvents
from wesemu.api.wes.responses import EngineParameter, Limits, ServiceFacts
from wesemu.api.wes.routes import WesDialect
from wesemu.api.wes.routes import routes as wes_routes
from wesemu.api.wes.submit import RunSubmission
from wesemu.composition import build_verifier, find_sandbox
from wesemu.core import Core, machine_figures, open_core
from wesemu.dashboard.emulator import Controls
from wesemu.dashboard.node import MachineFacts
from wesemu.dashboard.pages import Pages
from wesemu.dashboard.routes import DashboardDialect, DashboardHandlers
from wesemu.dashboard.run_routes import RunPages
from wesemu.engine_parameters import PARAMETERS
from wesemu.engines.leases import live_tickets
from wesemu.errors import ToolMissing
from wesemu.genomics.tools import Tool, installed_tools
from wesemu.node import Node
from wesemu.provenance.collect import CrateBuilder
from wesemu.runs.admin_service import AdminService
from wesemu.runs.clock import Clock, WallClock
from wesemu.runs.data_directory import IdSource, Readiness
from wesemu.runs.disk_full import disk_named
from wesemu.runs.maintenance import add_runs
from wesemu.runs.model import JsonObject, JsonValue, RunId
from wesemu.runs.ports import Engine
from wesemu.runs.run_directory import Workspace
from wesemu.runs.service import RunService
from wesemu.runs.webhooks import Callbacks
from wesemu.settings import Settings
from wesemu.storage.buckets import Buckets
from wesemu.storage.seed import START as SEED_START
from wesemu.storage.seed import Seed
from wesemu.storage.snapshots import PathMarks, SnapshotState
from wesemu.util.ssrf import AddressGuard
from wesemu.workflows.params import PARAMS

RUNS: web.AppKey[RunService] = web.AppKey("runs", RunService)
STARTING: web.AppKey[list[str]] = web.AppKey("starting", list)
"""What still has to happen before the server is ready: one sentence each."""
UNREADABLE: web.AppKey[UnreadableRequests] = web.AppKey("unreadable", UnreadableRequests)

_COUNTED = ("cores", "gpus")
"""Resources that are numbers; the others are bytes."""


async def create_app(
    settings: Settings,
    *,
    clock: Clock | None = None,
    ids: IdSource | None = None,
    engines: Sequence[Engine] | None = None,
) -> web.Application:
    """Return a server over `settings.data`, which it locks until the clean-up of the application.

    `clock` replaces the wall clock below the emulated one, `engines` the engines of the settings,
    `ids` those of the seed (all for tests). Raises InvalidRequest for a wrong seed,
    DataDirectoryRefused, DataDirectoryLocked, StoreError, DiskFull.
    """
    # `opening` closes everything if a step fails; on success, the clean-up of the application does.
    async with AsyncExitStack() as opening:
        sandbox = await asyncio.to_thread(find_sandbox, settings)
        with disk_named(settings.data):
            core = await open_core(settings, clock or WallClock(), ids, engines, sandbox, opening)
        callbacks = _callbacks(settings, core)
        opening.push_async_callback(callbacks.close)
        ahead = [engine for engine in core.engines if engine.name not in settings.engine.lazy]
        readiness = Readiness(ahead, core.store, core.data.root)
        opening.push_async_callback(readiness.close)
        if (verifier := await asyncio.to_thread(build_verifier, settings.auth.oidc)) is not None:
            opening.push_async_callback(verifier.close)
        request_gate = RequestGate(core.wall)
        controls = _controls(settings, core, request_gate)
        app = await build_apis(
            settings, core, callbacks, request_gate, verifier, readiness, controls
        )
        add_controls(app, settings, core, controls, request_gate, readiness, sandbox.kind)
        app[RUNS] = core.runs
        resources = opening.pop_all()

    # The engines warm up and the queue is served only while the server listens. At shutdown the
    # scheduler stops before `resources` closes the store that it uses.
    async def serve_queue(_: web.Application) -> AsyncIterator[None]:
        async with resources:
            readiness.begin()
            await callbacks.start()
            await core.scheduler.start()
            await core.retention.start()
            core.directory_check.start()
            yield
            await core.directory_check.close()
            await core.retention.close()
            await core.scheduler.close()

    app.cleanup_ctx.append(serve_queue)
    return app


def open_connections(settings: Settings, app: web.Application, files: int) -> Connections:
    """Return a connection manager; `files` is the process's limit of open files."""
    wanted = settings.server
    return Connections(
        wanted.connections or connection_limit(files),
        idle=wanted.idle_seconds,
        headers=wanted.header_seconds,
        stalled=wanted.stalled_seconds,
        unreadable=app[UNREADABLE],
    )


async def build_apis(
    settings: Settings,
    core: Core,
    callbacks: Callbacks,
    request_gate: RequestGate,
    verifier: Verifier | None,
    readiness: Readiness,
    controls: "_Controls",
) -> web.Application:
    """Return an application with the WES, AGS and OSS APIs and the dashboard; `add_controls` adds
    the control API.

    Signatures are checked with the wall clock. Credentials of one API protect the others, too.
    """
    auth, keys = settings.auth, settings.auth.ags_keys
    by_token = TokenAuthenticator(auth.tokens, guarded=bool(keys), verifier=verifier)
    bearer = by_token.find_or_verify if auth.bearers else None
    admin_access = AdminAccess(auth.admin_token, enabled=settings.controls)
    pages = await asyncio.to_thread(partial(Pages, closed=auth.closed))
    apis: list[Dialect] = [
        DashboardDialect(by_token, pages, closed=auth.closed),
        WesDialect(by_token),
        AgsDialect(AgsAuthenticator(keys, WallClock(), bearer=bearer)),
        AdminDialect(admin_access),
    ]
    oss = OssDialect(
        OssAuthenticator(keys, WallClock(), bearer=bearer),
        core.objects.buckets,
        apis,
        OssHandlers(core.objects),
    )
    dialects = [oss, *apis]
    origins = CrossOrigins(settings.server.cors_origins)
    app = web.Application(
        middlewares=[
            api_middleware(
                dialects,
                core.ids,
                request_gate,
                _request_guard(settings, origins),
                proxies=Proxies(settings.server.trusted_proxies, settings.server.public_url),
                origins=origins,
            )
        ]
    )
    app.on_response_prepare.append(origins.add_headers)
    app[UNREADABLE] = UnreadableRequests(dialects, core.ids)
    created = await asyncio.to_thread(core.data.created)
    facts = _service_info(core, settings.node.default, created)
    app.add_routes(
        wes_routes(
            core.runs,
            facts,
            page_key=core.secret,
            version=settings.wes.version,
            check_callback=callbacks.check,
            crates=await asyncio.to_thread(_crate_builder, core),
            events=(events := RunEvents(core.runs)),
        )
    )
    app.on_shutdown.append(events.close)
    app.add_routes(_ags_handlers(core).routes())
    clock = core.clock_control.clock
    dashboard = DashboardHandlers(
        core.runs,
        core.store.statistics,
        core.changes,
        core.objects,
        RunPages(core.runs, Buckets(core.data.buckets), clock, pages),
        clock,
        _machine(settings, core, readiness),
        RunSubmission(core.runs, facts, Limits(), callbacks.check),
        Controls(
            admin_access,
            core.clock_control,
            settings.sla.pace.value,
            controls.faults,
            controls.resets,
            controls.snapshots,
            request_gate.requests,
        ),
        core.references.names,
        by_token,
        pages,
    )
    app.on_shutdown.append(dashboard.close)
    app.add_routes(dashboard.routes())
    return app


@dataclass(frozen=True, slots=True)
class _Controls:
    """What the control API and the dashboard's page of the emulator share."""

    admin: AdminService
    faults: FaultHandlers
    resets: ResetHandlers
    snapshots: SnapshotHandlers


def _controls(settings: Settings, core: Core, request_gate: RequestGate) -> _Controls:
    admin = AdminService(
        core.store,
        core.runs,
        core.changes,
        core.scheduler.wait_idle,
        core.directory_check.close,
        core.data.runs,
    )
    faults = FaultHandlers(request_gate.faults, core.policy)

    async def restore() -> None:
        faults.clear_all()
        request_gate.requests.clear()
        await core.clock_control.adjust(speed=settings.clock.speed)

    resets = ResetHandlers(
        admin,
        request_gate.gate,
        core.ids,
        restore=restore,
        empty_buckets=core.objects.buckets.empty,
        to_seed=None if core.seed is None else partial(_to_seed, settings, core, core.seed),
    )
    return _Controls(admin, faults, resets, _snapshots(core, admin, resets))


def add_controls(
    app: web.Application,
    settings: Settings,
    core: Core,
    controls: _Controls,
    request_gate: RequestGate,
    readiness: Readiness,
    sandbox: str,
) -> None:
    """Add the routes of the control API to `app`, and close its event streams on shutdown.

    `sandbox` names the sandbox of users' own workflows, such as "landlock".
    """
    pace = settings.sla.pace.value
    events = EventHandlers(controls.admin)
    places: dict[str, JsonValue] = {
        "data": str(core.data.root),
        "pipelines": str(core.pipelines),
        "pace": pace,
        "node": _node(core.node),
        "sandbox": sandbox,
    }
    references = ReferenceHandlers(core.references, core.data)

    starting = app[STARTING] = []

    async def problems() -> list[str]:
        resetting = ["the server is being reset"] if request_gate.gate.is_closed else []
        return resetting + starting + await readiness.problems()

    for part in (
        StateHandlers(core.engines, problems, partial(_tools, settings.tools), places),
        ClockHandlers(core.clock_control, core.wall, pace),
        controls.faults,
        RequestLogHandlers(request_gate.requests),
        events,
        MetricsHandlers(
            controls.admin,
            request_gate.metrics,
            core.clock_control.clock,
            partial(machine_figures, core, settings),
        ),
        controls.resets,
        controls.snapshots,
        references,
        PruneHandlers(core.retention),
    ):
        app.add_routes(part.routes())
    app.on_shutdown.append(controls.resets.close)
    app.on_shutdown.append(references.close)
    app.on_shutdown.append(events.close)


async def _to_seed(settings: Settings, core: Core, seed: Seed) -> None:
    """Fill the empty buckets again; begin emulated time and ids anew."""
    await asyncio.to_thread(seed.fill_buckets, core.data.buckets)
    await core.clock_control.restart(SEED_START, settings.clock.speed)
    core.ids.seed(seed.number)


def _snapshots(core: Core, admin: AdminService, resets: ResetHandlers) -> SnapshotHandlers:
    places = {"data": str(core.data.root), "pipelines": str(core.pipelines)}
    if sys.prefix != sys.base_prefix:  # a virtual environment, whose tools logs name
        places["python"] = sys.prefix

    async def state() -> SnapshotState:
        await admin.settled()
        clock = core.clock_control.clock
        runs = await core.store.ids()
        return SnapshotState(clock.now(), clock.rate.speed, core.ids.state(), tuple(runs))

    async def restore(state: SnapshotState) -> None:
        await core.directory_check.close()  # it compares what is replaced here
        await add_runs(core.store, [Workspace(core.data.runs / run_id) for run_id in state.runs])
        for run_id in state.runs:
            core.changes.notify(RunId(run_id))
        await core.clock_control.restart(state.emulated, state.speed)
        core.ids.restore(state.ids)

    return SnapshotHandlers(
        core.data,
        PathMarks(places),
        resets,
        state=state,
        check=lambda state: IdSource().restore(state.ids),
        restore=restore,
    )


def _callbacks(settings: Settings, core: Core) -> Callbacks:
    guard = AddressGuard(settings.callbacks.networks)
    secret = settings.callbacks.secret
    callbacks = Callbacks(core.store.outbox, guard, WallClock(), secret=secret)
    core.store.watch(callbacks.moved)
    return callbacks


def _machine(settings: Settings, core: Core, readiness: Readiness) -> MachineFacts:
    """Return the facts about this machine for the dashboard."""

    def resources() -> JsonObject:
        figures = machine_figures(core, settings)
        disk_used = figures.disk_total - figures.disk_free
        amounts = [
            *((name, figures.leased[name], offered) for name, offered in figures.offered.items()),
            ("disk", disk_used, figures.disk_total),
            ("cache of inputs", figures.cache, figures.cache_limit),
        ]
        rows: list[JsonValue] = [
            {"name": name, "leased": leased, "offered": offered, "bytes": name not in _COUNTED}
            for name, leased, offered in amounts
        ]
        return {"resources": rows, "waiting_tasks": figures.waiting_tasks}

    facts: JsonObject = {
        "version": __version__,
        **{f"engine {engine.name}": engine.version for engine in core.engines},
        "data directory": str(core.data.root),
    }
    references = core.references
    return MachineFacts(
        core.node,
        core.store,
        resources,
        partial(live_tickets, core.data.leases),
        readiness.problems,
        lambda: [(name, references.describe(name)) for name in references.names()],
        facts,
    )


def _node(node: Node) -> JsonValue:
    """Return the node as JSON, as detected when the server started."""
    content: JsonObject = json.loads(json.dumps(asdict(node)))
    return content


def _tools(commands: Mapping[str, str]) -> list[JsonValue]:
    """Return the tools that runs use, for `info`; the error if a tool is missing."""
    try:
        tools = installed_tools(commands)
    except ToolMissing as error:
        return [{"error": error.message}]
    return [_tool(tool) for tool in tools]


def _tool(tool: Tool) -> JsonObject:
    content: JsonObject = {"name": tool.name, "version": tool.version, "source": tool.source}
    return content | {"note": tool.note} if tool.note else content


def _host_names(settings: Settings) -> list[str]:
    public = URL(settings.server.public_url).host if settings.server.public_url else None
    return [*settings.hosts, *([public] if public else [])]


def _request_guard(settings: Settings, origins: CrossOrigins) -> RequestGuard:
    return RequestGuard(
        is_open=not settings.auth.closed,
        hosts=_host_names(settings) if names_loopback(settings.host) else None,
        insecure=settings.insecure,
        origins=origins,
    )


def _crate_builder(core: Core) -> CrateBuilder | None:
    """Return the builder of RO-Crates; None if the extra `crate` is not installed."""
    if find_spec("rocrate") is None:
        return None
    return CrateBuilder(Buckets(core.data.buckets), core.pipelines)


def _ags_handlers(core: Core) -> AgsHandlers:
    """Build the AGS handlers. Account and cluster id are derived from the data directory's secret,
    so they stay the same over restarts."""
    account = hashlib.sha256(core.secret).hexdigest()
    return AgsHandlers(
        core.runs,
        core.clock_control.clock,
        namespace=str(int(account, 16))[:16],
        cluster_id=f"c{account[:32]}",
    )


def _service_info(core: Core, place: str, created: datetime) -> ServiceFacts:
    engines, node = core.engines, core.node
    types = {
        kind: versions for engine in engines for kind, versions in engine.workflow_types.items()
    }
    return ServiceFacts(
        version=__version__,
        created=created,
        workflow_types=types,
        engines={engine.name: engine.version for engine in engines},
        bundled=dict.fromkeys(PARAMS, "SMK"),
        carriers={kind: engine.name for engine in engines for kind in engine.workflow_types},
        protocols=core.locations.protocols,
        parameters=_parameters(core, place),
        tags=_node_tags(node),
    )


def _parameters(core: Core, place: str) -> list[EngineParameter]:
    """Return the parameters of this server's engines, with the defaults of this node."""
    defaults = {"cores": str(core.node.cores), "node": place}
    engines = {engine.name for engine in core.engines}
    return [
        EngineParameter(each.name, each.kind, defaults.get(each.name, each.default))
        for each in PARAMETERS
        if not each.engines or engines.intersection(each.engines)
    ]


def _node_tags(node: Node) -> dict[str, str]:
    """Return tags of the GPUs that tasks may lease, for clients that choose between servers."""
    tags = {"wesemu.node.gpus": str(len(node.gpus))}
    tags |= {f"wesemu.node.gpu.{gpu.index}": str(gpu) for gpu in node.gpus}
    if node.gpu_driver is not None:
        tags["wesemu.node.gpu_driver"] = node.gpu_driver
    return tags
