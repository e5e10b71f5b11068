"""open_core: opens the data directory and builds store, scheduler, supervisor, engines and planner.

`Core` has the parts that the APIs use.
"""

import asyncio
import resource
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from wesemu import node as node_inventory
from wesemu.api.admin.metrics import MachineFigures
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
from wesemu.engines.leases import SystemLeases, declare, declare_again, live_tickets
from wesemu.engines.sandbox import SandboxChoice
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.tools import resolve
from wesemu.node import Node, NodeSettings
from wesemu.runs.clock import Clock, PersistentClock
from wesemu.runs.data_directory import DataDirectory, IdSource
from wesemu.runs.maintenance import DirectoryCheck, repair_index
from wesemu.runs.model import JsonObject, SlaTerms
from wesemu.runs.notifications import RunNotifier
from wesemu.runs.ports import Engine, Planner
from wesemu.runs.publishing import LocalPublisher
from wesemu.runs.retention import Retention
from wesemu.runs.scheduler import Scheduler
from wesemu.runs.service import RunLimits, RunService, ServicePolicy
from wesemu.runs.store import RunStore
from wesemu.runs.supervisor import Supervisor
from wesemu.settings import LimitSettings, Settings, WorkflowSettings
from wesemu.storage.bucket_admin import ObjectServices
from wesemu.storage.buckets import Buckets
from wesemu.storage.seed import START as SEED_START
from wesemu.storage.seed import Seed, read_seed
from wesemu.util.ssrf import AddressGuard
from wesemu.workflows.bundled import BundledPipelines, ToolConfig
from wesemu.workflows.fetch import RemoteWorkflows, WorkflowWeb
from wesemu.workflows.inputs import Inputs, ReferenceIndexer
from wesemu.workflows.locations import Locations
from wesemu.workflows.placement import NodeOffer
from wesemu.workflows.planner import AttachedWorkflows, WorkflowPlanner

log = structlog.get_logger("wesemu.node")

_MOST_THREADS_PER_STEP = 16
"""Threads that fq2bam uses by default."""


@dataclass(frozen=True, slots=True)
class Core:
    """The parts that the APIs use. `wall` is the wall clock; `clock_control` the emulated one."""

    data: DataDirectory
    secret: bytes
    seed: Seed | None
    wall: Clock
    clock_control: PersistentClock
    ids: IdSource
    node: Node
    locations: Locations
    pipelines: Path
    engines: Sequence[Engine]
    objects: ObjectServices
    references: ReferenceStore
    store: RunStore
    changes: RunNotifier
    scheduler: Scheduler
    policy: ServicePolicy
    runs: RunService
    directory_check: DirectoryCheck
    retention: Retention


async def open_core(
    settings: Settings,
    wall: Clock,
    ids: IdSource | None,
    engines: Sequence[Engine] | None,
    sandbox: SandboxChoice,
    opening: AsyncExitStack,
) -> Core:
    """Open all parts; `opening` closes them in reverse order. `ids` replaces those of the seed.

    Raises InvalidRequest for a wrong seed, DataDirectoryRefused, DataDirectoryLocked, StoreError.
    """
    # The lock comes before everything that reads or changes the data.
    data = DataDirectory(await asyncio.to_thread(settings.data.resolve))
    await asyncio.to_thread(data.create, adopt=settings.adopt_data)
    opening.enter_context(data.lock())
    await asyncio.to_thread(data.clean_up)
    seed = await asyncio.to_thread(read_seed, settings.seed) if settings.seed else None
    if seed is not None:
        await asyncio.to_thread(data.seed_secret, seed.digest, SEED_START)
        await asyncio.to_thread(seed.fill_buckets, data.buckets)
    secret = await asyncio.to_thread(data.secret)
    ids = ids or IdSource(None if seed is None else seed.number)
    clock_control = await PersistentClock.open(
        data.clock, wall, settings.clock.speed, start=None if seed is None else SEED_START
    )
    opening.push_async_callback(clock_control.close)
    objects = await asyncio.to_thread(ObjectServices.open, data.buckets, ids)
    store = await RunStore.open(data.index)
    opening.push_async_callback(store.close)
    # After a crash the stored clock may be older than the latest run: time must not go back.
    if (latest := await store.latest_time()) is not None:
        clock_control.clock.not_before(latest)
    await repair_index(store, data.runs)
    pipelines = await asyncio.to_thread(pipelines_folder)
    if engines is None:
        engines = await detect_engines(settings, sandbox, pipelines)
    for engine in engines:
        opening.push_async_callback(engine.close)
    node = await asyncio.to_thread(_node, settings.node, data.leases)
    transfers = await open_transfers(settings, data.cache, LocalPublisher(objects.store), opening)
    references = ReferenceStore(
        data.references,
        data.cache,
        tools=partial(resolve, settings.tools),
        lease=SystemLeases(data.leases).lease,
    )
    await asyncio.to_thread(references.clean_up)
    if seed is not None:
        known = await asyncio.to_thread(references.names)
        for name, fasta in seed.missing_references(known).items():
            await asyncio.to_thread(references.add, name, fasta)
    planner = _planner(settings, data, pipelines, node, engines, references, transfers, opening)
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
        declare_leases=partial(declare_again, data.leases, _capacity(node)),
        publisher=transfers.publisher,
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
        secret,
        seed,
        wall,
        clock_control,
        ids,
        node,
        transfers.locations,
        pipelines,
        engines,
        objects,
        references,
        store,
        changes,
        scheduler,
        policy,
        runs,
        DirectoryCheck(store, data.runs, is_open=runs.is_open, added=scheduler.wake),
        Retention(store, runs, data.runs, days=settings.retention.days),
    )


class _Dispatcher:
    """`Dispatcher` of the service: the scheduler starts runs, the supervisor cancels them."""

    def __init__(self, scheduler: Scheduler, supervisor: Supervisor) -> None:
        self.wake = scheduler.wake
        self.cancel = supervisor.cancel


def _node(settings: NodeSettings, leases: Path) -> Node:
    """Detect this machine and declare its capacity in the folder of the leases."""
    chosen = choose_gpus(settings, ours=leased(leases))
    node = node_inventory.detect(
        settings.cores, settings.memory_mb, gpus=chosen.gpus, notes=chosen.notes, runs=settings.runs
    )
    for note in node.notes:
        log.warning("note about GPUs", note=note)
    declare(leases, _capacity(node))
    return node


def _capacity(node: Node) -> Capacity:
    return Capacity(node.cores, node.memory_mb, node.devices)


def _node_offer(settings: NodeSettings, node: Node) -> NodeOffer:
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
    references: ReferenceStore,
    transfers: RemoteTransfers,
    opening: AsyncExitStack,
) -> Planner:
    offer = _node_offer(settings.node, node)
    indexer = ReferenceIndexer(references)
    opening.push_async_callback(indexer.close)
    buckets = Buckets(data.buckets)
    bundled = BundledPipelines(
        pipelines,
        Inputs(buckets, references, transfers.locations),
        buckets,
        indexer,
        offer,
        transfers.locations,
        transfers.stage,
        _tool_config(settings, node),
    )
    return WorkflowPlanner(
        bundled,
        AttachedWorkflows(offer, _senders(settings)),
        engines,
        _remote_workflows(settings.workflows, opening),
    )


def _remote_workflows(settings: WorkflowSettings, opening: AsyncExitStack) -> RemoteWorkflows:
    guard = AddressGuard(settings.networks, setting="workflows.networks")
    web = WorkflowWeb(guard, settings.hosts) if settings.fetch else None
    remote = RemoteWorkflows(web, settings.folders)
    opening.push_async_callback(remote.close)
    return remote


def _senders(settings: Settings) -> list[str]:
    """Return the owners who may send workflows of their own."""
    if settings.workflows.owners == "auto":
        return [] if settings.auth.closed or not names_loopback(settings.host) else ["*"]
    return settings.workflows.owners


def _tool_config(settings: Settings, node: Node) -> ToolConfig:
    parabricks = settings.parabricks.model_dump()
    given: JsonObject = {name: value or None for name, value in parabricks.items()}
    # Tasks run in other folders, so relative paths of the settings become absolute.
    if settings.parabricks.image.endswith(".sif"):
        given["image"] = str(Path(settings.parabricks.image).absolute())
    if settings.parabricks.temporary:
        given["temporary"] = str(Path(settings.parabricks.temporary).absolute())
    # Threads per step, such that steps on all GPUs fit on the node at the same time.
    cores_per_gpu = node.cores // max(1, len(node.devices))
    given["threads"] = max(1, min(_MOST_THREADS_PER_STEP, cores_per_gpu))
    given["retry_low_memory"] = settings.parabricks.retry_low_memory
    return ToolConfig(parabricks=given, mappers=settings.mappers, commands=settings.tools)


def _limits(settings: LimitSettings) -> RunLimits:
    return RunLimits(
        minutes=settings.run_minutes, size=settings.bytes, runs_per_owner=settings.runs_per_owner
    )


def _terms(settings: Settings) -> SlaTerms:
    return SlaTerms(
        pace=settings.sla.pace,
        factor=settings.sla.bases_factor,
        read_length_penalty=settings.sla.read_length_penalty,
    )


def machine_figures(core: Core, settings: Settings) -> MachineFigures:
    """Return resources, leases, disk, cache and open files. Blocks."""
    tickets = live_tickets(core.data.leases)
    held = [ticket for ticket in tickets if ticket.held]
    disk = shutil.disk_usage(core.data.root)
    return MachineFigures(
        offered={
            "cores": core.node.cores,
            "memory": core.node.memory_mb << 20,
            "gpus": len(core.node.gpus),
        },
        leased={
            "cores": sum(ticket.cores for ticket in held),
            "memory": sum(ticket.memory_mb for ticket in held) << 20,
            "gpus": sum(len(ticket.devices) for ticket in held),
        },
        waiting_tasks=len(tickets) - len(held),
        disk_free=disk.free,
        disk_total=disk.total,
        cache=_size_below(core.data.cache / "inputs" / "blobs"),
        cache_limit=int(settings.inputs.cache_gib * (1 << 30)),
        open_files=_open_files(),
        open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def _open_files() -> int:
    """Return the number of open files; 0 on systems without /proc."""
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def _size_below(folder: Path) -> int:
    """Return the bytes of the files in the folders of `folder`; vanished files do not count."""
    size = 0
    for path in folder.glob("*/*"):
        with suppress(OSError):
            size += path.stat().st_size
    return size


def pipelines_folder() -> Path:
    """Return the folder of the bundled pipelines: in the wheel, or beside the package."""
    package = Path(__file__).parent
    installed = package / "_pipelines"
    return installed if installed.is_dir() else package.parent / "pipelines"
