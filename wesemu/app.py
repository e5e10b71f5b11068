"""create_app: the only place that wires concrete parts together."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

from aiohttp import web

from wesemu import __version__, nodes
from wesemu.api.ags.authenticator import Authenticator
from wesemu.api.ags.dialect import AgsDialect
from wesemu.api.ags.routes import AgsHandlers
from wesemu.api.control.routes import ControlDialect, ControlHandlers
from wesemu.api.dialect import Dialect
from wesemu.api.middleware import around
from wesemu.api.wes.auth import TokenAuthenticator
from wesemu.api.wes.dialect import WesDialect
from wesemu.api.wes.facts import EngineParameter, ServiceFacts
from wesemu.api.wes.routes import routes as wes_routes
from wesemu.clock import Clock, WallClock
from wesemu.datadir import DataDirectory
from wesemu.genomics.reference import ReferenceStore
from wesemu.ids import IdSource
from wesemu.objects.buckets import Buckets
from wesemu.runs.changes import Changes
from wesemu.runs.model import Resources
from wesemu.runs.ports import Engine, Planner
from wesemu.runs.records import sweep
from wesemu.runs.scheduler import Scheduler
from wesemu.runs.service import RunService
from wesemu.runs.store import RunStore
from wesemu.runs.supervisor import Supervisor
from wesemu.settings import Settings
from wesemu.workflows.attached import AttachedWorkflows
from wesemu.workflows.bundled import BundledPipelines
from wesemu.workflows.indexing import ReferenceIndexer
from wesemu.workflows.inputs import Inputs
from wesemu.workflows.params import PARAMS
from wesemu.workflows.planner import WorkflowPlanner

RUNS: web.AppKey[RunService] = web.AppKey("runs", RunService)


async def create_app(
    settings: Settings,
    *,
    clock: Clock | None = None,
    ids: IdSource | None = None,
    engines: Sequence[Engine] | None = None,
) -> web.Application:
    """A server over `settings.data`, which it holds until the application's clean-up.

    `engines` replaces the engines that the settings ask for. Raises DataDirectoryLocked,
    StoreError.
    """
    clock = clock or WallClock()
    ids = ids or IdSource()
    data = DataDirectory(settings.data.absolute())
    async with AsyncExitStack() as opening:
        await asyncio.to_thread(data.create)
        opening.enter_context(data.lock())
        await asyncio.to_thread(sweep, data.runs)
        store = await RunStore.open(data.index)
        opening.push_async_callback(store.close)
        if engines is None:
            from wesemu.engines.snakemake import SnakemakeEngine

            engines = [SnakemakeEngine(settings.engine.snakemake)]
        for engine in engines:
            opening.push_async_callback(engine.close)

        node = await asyncio.to_thread(nodes.detect, settings.node.cores, settings.node.memory_mb)
        references = ReferenceStore(data.references, data.cache)
        indexer = ReferenceIndexer(references)
        opening.push_async_callback(indexer.close)
        pipelines = await asyncio.to_thread(pipelines_folder)
        planner = _planner(data, pipelines, node, engines, references, indexer)
        changes = Changes()
        supervisor = Supervisor(
            store,
            planner,
            {engine.name: engine for engine in engines},
            changes,
            runs=data.runs,
            clock=clock,
            keep_runs=settings.keep_runs,
        )
        scheduler = Scheduler(store, supervisor.drive, node, clock)
        runs = RunService(
            store,
            planner,
            _Dispatcher(scheduler, supervisor),
            changes,
            runs=data.runs,
            clock=clock,
            ids=ids,
        )
        secret = await asyncio.to_thread(data.secret)
        created = await asyncio.to_thread(data.created)
        facts = _facts(engines, node, created)
        app = _application(settings, runs, engines, facts, clock, ids, secret)
        resources = opening.pop_all()

    async def serve_queue(_: web.Application) -> AsyncIterator[None]:
        async with resources:
            warming = asyncio.gather(*(engine.warm() for engine in engines))
            await scheduler.start()
            yield
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
            await scheduler.close()

    app.cleanup_ctx.append(serve_queue)
    return app


class _Dispatcher:
    """The scheduler starts runs, the supervisor ends them; the service sees one thing."""

    def __init__(self, scheduler: Scheduler, supervisor: Supervisor) -> None:
        self.wake = scheduler.wake
        self.cancel = supervisor.cancel


def _planner(
    data: DataDirectory,
    pipelines: Path,
    node: Resources,
    engines: Sequence[Engine],
    references: ReferenceStore,
    indexer: ReferenceIndexer,
) -> Planner:
    buckets = Buckets(data.buckets)
    inputs = Inputs(buckets, references)
    bundled = BundledPipelines(pipelines, inputs, buckets, indexer, node)
    return WorkflowPlanner(bundled, AttachedWorkflows(node), engines)


def _application(
    settings: Settings,
    runs: RunService,
    engines: Sequence[Engine],
    facts: ServiceFacts,
    clock: Clock,
    ids: IdSource,
    secret: bytes,
) -> web.Application:
    control = ControlDialect()
    keys, tokens = settings.auth.ags_keys, settings.auth.tokens
    wes = WesDialect(TokenAuthenticator(tokens, guarded=bool(keys)))
    ags = AgsDialect(Authenticator(keys, WallClock(), guarded=bool(tokens)))
    dialects: list[Dialect] = [wes, ags, control]
    app = web.Application(middlewares=[around(dialects, ids)])
    app[RUNS] = runs
    app.add_routes(wes_routes(runs, facts, page_key=secret, version=settings.wes.version))
    account = hashlib.sha256(secret).hexdigest()
    handlers = AgsHandlers(
        runs, clock, namespace=str(int(account, 16))[:16], cluster_id=f"c{account[:32]}"
    )
    app.add_routes(handlers.routes())
    app.add_routes(ControlHandlers(engines).routes())
    return app


def _facts(engines: Sequence[Engine], node: Resources, created: datetime) -> ServiceFacts:
    types = {
        kind: versions for engine in engines for kind, versions in engine.workflow_types.items()
    }
    return ServiceFacts(
        version=__version__,
        created=created,
        workflow_types=types,
        engines={engine.name: engine.version for engine in engines},
        bundled=dict.fromkeys(PARAMS, "SMK"),
        parameters=[EngineParameter("cores", "int", str(node.cores))],
    )


def pipelines_folder() -> Path:
    """Where the bundled pipelines lie: in an installed wheel, or beside the package."""
    installed = Path(__file__).parent / "_pipelines"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "pipelines"
