"""The core over one data directory, with its planner, engines and clock."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from wesemu import nodes
from wesemu.clock import Clock
from wesemu.datadir import DataDirectory
from wesemu.engines.leases import declare
from wesemu.engines.tickets import Capacity
from wesemu.genomics.reference import ReferenceStore
from wesemu.ids import IdSource
from wesemu.nodes import Node
from wesemu.objects.buckets import Buckets
from wesemu.runs.changes import Changes
from wesemu.runs.policy import ServicePolicy
from wesemu.runs.ports import Engine, Planner
from wesemu.runs.records import sweep
from wesemu.runs.scheduler import Scheduler
from wesemu.runs.service import RunService
from wesemu.runs.store import RunStore
from wesemu.runs.supervisor import Supervisor
from wesemu.runs.terms import Terms
from wesemu.settings import NodeSettings, Settings
from wesemu.timekeeper import TimeKeeper
from wesemu.wiring.engines import found_engines
from wesemu.wiring.gpus import choose_gpus, leased
from wesemu.workflows.attached import AttachedWorkflows
from wesemu.workflows.bundled import BundledPipelines
from wesemu.workflows.indexing import ReferenceIndexer
from wesemu.workflows.inputs import Inputs
from wesemu.workflows.placement import Offer
from wesemu.workflows.planner import WorkflowPlanner

log = structlog.get_logger("wesemu.node")


@dataclass(frozen=True, slots=True)
class Core:
    """The parts that the APIs and the controls are built on.

    `wall` is this machine's clock, `keeper` the emulated one's.
    """

    data: DataDirectory
    wall: Clock
    keeper: TimeKeeper
    ids: IdSource
    node: Node
    pipelines: Path
    engines: Sequence[Engine]
    store: RunStore
    changes: Changes
    scheduler: Scheduler
    policy: ServicePolicy
    runs: RunService


async def open_core(
    settings: Settings,
    wall: Clock,
    ids: IdSource,
    engines: Sequence[Engine] | None,
    opening: AsyncExitStack,
) -> Core:
    """Open everything that `opening` closes again. Raises DataDirectoryLocked, StoreError."""
    data = DataDirectory(settings.data.absolute())
    await asyncio.to_thread(data.create)
    opening.enter_context(data.lock())
    keeper = await TimeKeeper.open(data.clock, wall, settings.clock.speed)
    opening.push_async_callback(keeper.close)
    await asyncio.to_thread(sweep, data.runs)
    store = await RunStore.open(data.index)
    opening.push_async_callback(store.close)
    if engines is None:
        engines = await found_engines(settings)
    for engine in engines:
        opening.push_async_callback(engine.close)
    node = await asyncio.to_thread(_node, settings.node, data.leases)
    pipelines = await asyncio.to_thread(pipelines_folder)
    planner = _planner(data, pipelines, _offer(settings.node, node), engines, opening)
    changes = Changes()
    supervisor = Supervisor(
        store,
        planner,
        {engine.name: engine for engine in engines},
        changes,
        runs=data.runs,
        clock=keeper.clock,
        wall=wall,
        keep_runs=settings.keep_runs,
        leases=data.leases,
    )
    scheduler = Scheduler(
        store, supervisor.drive, node.runs, keeper.clock, gpus=node.resources.gpus
    )
    policy = ServicePolicy(_terms(settings))
    runs = RunService(
        store,
        planner,
        _Dispatcher(scheduler, supervisor),
        changes,
        policy=policy,
        runs=data.runs,
        clock=keeper.clock,
        ids=ids,
    )
    return Core(
        data, wall, keeper, ids, node, pipelines, engines, store, changes, scheduler, policy, runs
    )


class _Dispatcher:
    """The scheduler starts runs, the supervisor ends them; the service sees one thing."""

    def __init__(self, scheduler: Scheduler, supervisor: Supervisor) -> None:
        self.wake = scheduler.wake
        self.cancel = supervisor.cancel


def _node(settings: NodeSettings, leases: Path) -> Node:
    """This machine, declared as the place of its tasks' leases."""
    chosen = choose_gpus(settings, ours=leased(leases))
    node = nodes.detect(
        settings.cores,
        settings.memory_mb,
        gpus=chosen.gpus,
        notes=chosen.notes,
        runs=settings.runs,
    )
    for note in node.notes:
        log.warning("about this machine's GPUs", note=note)
    declare(leases, Capacity(node.cores, node.memory_mb, node.devices))
    return node


def _offer(settings: NodeSettings, node: Node) -> Offer:
    return Offer(
        node.resources,
        default=settings.default,
        without_gpu=settings.without_gpu,
        gpu_memory_mb=node.gpu_memory_mb,
        gpu_driver=node.gpu_driver,
    )


def _planner(
    data: DataDirectory,
    pipelines: Path,
    offer: Offer,
    engines: Sequence[Engine],
    opening: AsyncExitStack,
) -> Planner:
    references = ReferenceStore(data.references, data.cache)
    indexer = ReferenceIndexer(references)
    opening.push_async_callback(indexer.close)
    buckets = Buckets(data.buckets)
    inputs = Inputs(buckets, references)
    bundled = BundledPipelines(pipelines, inputs, buckets, indexer, offer)
    return WorkflowPlanner(bundled, AttachedWorkflows(offer), engines)


def _terms(settings: Settings) -> Terms:
    return Terms(
        pace=settings.sla.pace,
        factor=settings.sla.bases_factor,
        read_length_penalty=settings.sla.read_length_penalty,
    )


def pipelines_folder() -> Path:
    """Where the bundled pipelines lie: in an installed wheel, or beside the package."""
    package = Path(__file__).parents[1]
    installed = package / "_pipelines"
    return installed if installed.is_dir() else package.parent / "pipelines"
