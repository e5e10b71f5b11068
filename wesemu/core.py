"""The core of the server, put together: store, scheduler, engines, planner, services."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from wesemu import node as node_inventory
from wesemu.api.csrf import names_loopback
from wesemu.composition import (
    RemoteTransfers,
    choose_gpus,
    detect_engines,
    gpu_status,
    leased,
    open_transfers,
)
from wesemu.engines.lease_queue import Capacity
from wesemu.engines.leases import SystemLeases, declare
from wesemu.engines.sandbox import SandboxChoice
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.tools import resolve
from wesemu.node import Node
from wesemu.runs.admin_service import Retention
from wesemu.runs.clock import Clock, PersistentClock
from wesemu.runs.data_directory import DataDirectory, IdSource
from wesemu.runs.maintenance import clean_up, reconcile
from wesemu.runs.model import JsonObject, SlaTerms
from wesemu.runs.notifications import RunNotifier
from wesemu.runs.ports import Engine, Planner
from wesemu.runs.publishing import Publisher
from wesemu.runs.scheduler import Scheduler
from wesemu.runs.service import RunLimits, RunService, ServicePolicy
from wesemu.runs.store import RunStore
from wesemu.runs.supervisor import Supervisor
from wesemu.settings import LimitSettings, NodeSettings, Settings, WorkflowSettings
from wesemu.storage.bucket_admin import ObjectServices
from wesemu.storage.buckets import Buckets
from wesemu.util.ssrf import AddressGuard
from wesemu.workflows.bundled import BundledPipelines, ToolConfig
from wesemu.workflows.fetch import RemoteWorkflows, WorkflowWeb
from wesemu.workflows.inputs import Inputs, ReferenceIndexer
from wesemu.workflows.locations import RemoteLocations
from wesemu.workflows.placement import NodeOffer
from wesemu.workflows.planner import AttachedWorkflows, WorkflowPlanner

log = structlog.get_logger("wesemu.node")

_CORES_A_GPU = 16
"""What fq2bam asks for by itself."""


@dataclass(frozen=True, slots=True)
class Core:
    """The parts that the APIs and the controls are built on.

    `wall` is this machine's clock, `clock_control` the emulated one's.
    """

    data: DataDirectory
    wall: Clock
    clock_control: PersistentClock
    ids: IdSource
    node: Node
    remote_locations: RemoteLocations
    pipelines: Path
    engines: Sequence[Engine]
    objects: ObjectServices
    store: RunStore
    changes: RunNotifier
    scheduler: Scheduler
    policy: ServicePolicy
    runs: RunService
    retention: Retention


async def open_core(
    settings: Settings,
    wall: Clock,
    ids: IdSource,
    engines: Sequence[Engine] | None,
    sandbox: SandboxChoice,
    opening: AsyncExitStack,
) -> Core:
    """Open everything that `opening` closes again.

    Raises DataDirectoryRefused, DataDirectoryLocked, StoreError.
    """
    data = DataDirectory(settings.data.absolute())
    await asyncio.to_thread(data.create, adopt=settings.adopt_data)
    opening.enter_context(data.lock())
    clock_control = await PersistentClock.open(data.clock, wall, settings.clock.speed)
    opening.push_async_callback(clock_control.close)
    objects = await asyncio.to_thread(ObjectServices.open, data.buckets, ids)
    store = await RunStore.open(data.index)
    opening.push_async_callback(store.close)
    if (latest := await store.latest_time()) is not None:
        clock_control.clock.not_before(latest)
    await reconcile(store, data.runs)
    await clean_up(data.runs, store)
    if engines is None:
        engines = await detect_engines(settings, sandbox)
    for engine in engines:
        opening.push_async_callback(engine.close)
    node = await asyncio.to_thread(_node, settings.node, data.leases)
    pipelines = await asyncio.to_thread(pipelines_folder)
    transfers = await open_transfers(settings, data.cache, opening)
    planner = _planner(settings, data, pipelines, node, engines, transfers, opening)
    changes = RunNotifier()
    limits = _limits(settings.limits)
    supervisor = Supervisor(
        store,
        planner,
        {engine.name: engine for engine in engines},
        changes,
        runs=data.runs,
        clock=clock_control.clock,
        wall=wall,
        keep_runs=settings.keep_runs,
        leases=data.leases,
        publisher=Publisher(objects.store),
        limits=limits,
    )
    scheduler = Scheduler(
        store, supervisor.drive, node.runs, clock_control.clock, gpus=node.resources.gpus
    )
    policy = ServicePolicy(_terms(settings))
    runs = RunService(
        store,
        planner,
        _Dispatcher(scheduler, supervisor),
        changes,
        policy=policy,
        runs=data.runs,
        clock=clock_control.clock,
        ids=ids,
        gpu_status=partial(gpu_status, node, data.leases),
        limits=limits,
    )
    return Core(
        data,
        wall,
        clock_control,
        ids,
        node,
        transfers.elsewhere,
        pipelines,
        engines,
        objects,
        store,
        changes,
        scheduler,
        policy,
        runs,
        Retention(store, runs, data.runs, days=settings.retention.days),
    )


class _Dispatcher:
    """The scheduler starts runs, the supervisor ends them; the service sees one thing."""

    def __init__(self, scheduler: Scheduler, supervisor: Supervisor) -> None:
        self.wake = scheduler.wake
        self.cancel = supervisor.cancel


def _node(settings: NodeSettings, leases: Path) -> Node:
    """This machine, declared as the place of its tasks' leases."""
    chosen = choose_gpus(settings, ours=leased(leases))
    node = node_inventory.detect(
        settings.cores,
        settings.memory_mb,
        gpus=chosen.gpus,
        notes=chosen.notes,
        runs=settings.runs,
    )
    for note in node.notes:
        log.warning("about this machine's GPUs", note=note)
    declare(leases, _capacity(node))
    return node


def _capacity(node: Node) -> Capacity:
    return Capacity(node.cores, node.memory_mb, node.devices)


def _offer(settings: NodeSettings, node: Node) -> NodeOffer:
    return NodeOffer(
        node.resources,
        default=settings.default,
        without_gpu=settings.without_gpu,
        gpu_memory_mb=node.gpu_memory_mb,
        gpu_driver=node.gpu_driver,
    )


def _planner(
    settings: Settings,
    data: DataDirectory,
    pipelines: Path,
    node: Node,
    engines: Sequence[Engine],
    transfers: RemoteTransfers,
    opening: AsyncExitStack,
) -> Planner:
    offer = _offer(settings.node, node)
    references = ReferenceStore(
        data.references,
        data.cache,
        tools=partial(resolve, settings.tools),
        lease=SystemLeases(data.leases).lease,
    )
    indexer = ReferenceIndexer(references)
    opening.push_async_callback(indexer.close)
    buckets = Buckets(data.buckets)
    bundled = BundledPipelines(
        pipelines,
        Inputs(buckets, references, transfers.elsewhere),
        buckets,
        indexer,
        offer,
        transfers.elsewhere,
        transfers.stage,
        transfers.deliveries,
        _own_tools(settings, node),
    )
    return WorkflowPlanner(
        bundled,
        AttachedWorkflows(offer, _senders(settings)),
        engines,
        _remote(settings.workflows, opening),
    )


def _remote(settings: WorkflowSettings, opening: AsyncExitStack) -> RemoteWorkflows:
    guard = AddressGuard(settings.networks, setting="workflows.networks")
    web = WorkflowWeb(guard, settings.hosts) if settings.fetch else None
    remote = RemoteWorkflows(web, settings.folders)
    opening.push_async_callback(remote.close)
    return remote


def _senders(settings: Settings) -> list[str]:
    """The owners who may send workflows."""
    if settings.workflows.owners == "auto":
        return [] if settings.auth.closed or not names_loopback(settings.host) else ["*"]
    return settings.workflows.owners


def _own_tools(settings: Settings, node: Node) -> ToolConfig:
    parabricks = settings.parabricks.model_dump()
    given: JsonObject = {name: value or None for name, value in parabricks.items()}
    # tasks run elsewhere
    if settings.parabricks.image.endswith(".sif"):
        given["image"] = str(Path(settings.parabricks.image).absolute())
    if settings.parabricks.temporary:
        given["temporary"] = str(Path(settings.parabricks.temporary).absolute())
    # so that every card can be at work
    cores_a_card = node.cores // max(1, len(node.devices))
    given["threads"] = max(1, min(_CORES_A_GPU, cores_a_card))
    given["retry_low_memory"] = settings.parabricks.retry_low_memory
    return ToolConfig(parabricks=given, mappers=settings.mappers, commands=settings.tools)


def _limits(settings: LimitSettings) -> RunLimits:
    return RunLimits(
        minutes=settings.run_minutes,
        size=settings.bytes,
        runs_per_owner=settings.runs_per_owner,
    )


def _terms(settings: Settings) -> SlaTerms:
    return SlaTerms(
        pace=settings.sla.pace,
        factor=settings.sla.bases_factor,
        read_length_penalty=settings.sla.read_length_penalty,
    )


def pipelines_folder() -> Path:
    """Where the bundled pipelines lie: in an installed wheel, or beside the package."""
    package = Path(__file__).parent
    installed = package / "_pipelines"
    return installed if installed.is_dir() else package.parent / "pipelines"
