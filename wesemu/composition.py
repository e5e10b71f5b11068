"""Builders that turn settings into parts: token verifier, GPUs, engines, remote storage.

The command line uses some of them without a server.
"""

import asyncio
import os
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from wesemu.engines import isolation
from wesemu.engines.launch_spec import find_container_tool
from wesemu.engines.leases import live_tickets
from wesemu.engines.library_engine import CwlEngine, WdlEngine, probe_cwl, probe_wdl
from wesemu.engines.sandbox import SandboxChoice, choose_sandbox
from wesemu.engines.slurm import Cluster
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.errors import SystemFault, ToolMissing
from wesemu.node import (
    Choice,
    Gpu,
    GpuSettings,
    Inventory,
    Node,
    NodeSettings,
    Wanted,
    choose,
    has_driver,
    take_inventory,
)
from wesemu.runs.clock import WallClock
from wesemu.runs.ports import Engine, GpuStatus, LocalPublishing, Publisher
from wesemu.settings import OidcSettings, Settings
from wesemu.storage.cache import BlobCache, InputCache
from wesemu.storage.checksums import find_crc64
from wesemu.storage.download import HttpFetcher
from wesemu.storage.remote import RemoteBucket, RemoteBucketSettings, RemoteStore, server_of
from wesemu.util.ssrf import AddressGuard
from wesemu.workflows.locations import Locations
from wesemu.workflows.outputs import RemotePublisher
from wesemu.workflows.staging import InputStager

if TYPE_CHECKING:
    from wesemu.auth.oidc import TokenVerifier


# OpenID Connect.


def build_verifier(settings: OidcSettings) -> "TokenVerifier | None":
    """Return None without an issuer. Raises ToolMissing if the extra `oidc` is not installed."""
    if not settings.issuer:
        return None
    try:
        from wesemu.auth.oidc import JwksCache, TokenPolicy, TokenVerifier, key_source
    except ImportError as error:
        raise ToolMissing(
            "auth.oidc.issuer is set, but the extra 'oidc', which verifies its tokens, is not "
            "installed: pip install 'wesemu[oidc]'"
        ) from error
    clock = WallClock()
    policy = TokenPolicy(
        issuer=settings.issuer,
        audiences=tuple(settings.audiences),
        owner_claim=settings.owner_claim,
        scopes=tuple(settings.scopes),
        leeway=settings.leeway_seconds,
    )
    return TokenVerifier(
        JwksCache(key_source(settings.issuer, settings.jwks), clock), policy, clock
    )


# GPUs.


def find_gpus() -> Inventory:
    """Query NVML if there is a driver; without one, the library is not even loaded."""
    return take_inventory() if has_driver() else Inventory()


def leased(leases: Path) -> set[int]:
    """Return the indexes of the GPUs that tasks of this data directory lease now."""
    return {device for ticket in live_tickets(leases) for device in ticket.devices}


def gpu_status(node: Node, leases: Path) -> GpuStatus:
    """Return the node's GPUs, and those that no task of this data directory leases now."""
    taken = leased(leases)
    return GpuStatus(node.devices, tuple(each for each in node.devices if each not in taken))


def choose_gpus(
    settings: NodeSettings, *, ours: Collection[int] = (), look: Callable[[], Inventory] = find_gpus
) -> Choice:
    """Choose the GPUs that the settings offer to tasks.

    Tasks of this server lease the GPUs `ours`, so processes on them are not foreign.
    """
    wanted = _wanted(settings)
    if wanted == 0:
        return Choice()
    return choose(
        wanted,
        look(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        lend_busy=settings.lend_busy_gpus,
        ours=ours,
    )


def _wanted(settings: NodeSettings) -> Wanted:
    """Return the GPUs that the settings name. On a cluster, `auto` means none of this machine."""
    if settings.gpus == "auto" and settings.executor != "local":
        return 0
    if not isinstance(settings.gpus, list):
        return settings.gpus
    return [
        Gpu(each.index, name=each.name, memory_mb=each.memory_mb, driver=each.driver)
        if isinstance(each, GpuSettings)
        else Gpu(each)
        for each in settings.gpus
    ]


# Engines and sandbox.

log = structlog.get_logger("wesemu.engines")

PIPELINES_IMPORT = (
    "wesemu.errors",
    "wesemu.genomics.bwa_index",
    "wesemu.genomics.fastq",
    "wesemu.genomics.mappers",
    "wesemu.genomics.parabricks.preflight",
    "wesemu.genomics.fasta",
    "wesemu.genomics.ploidy",
    "wesemu.genomics.read_groups",
    "wesemu.genomics.reference_records",
    "wesemu.genomics.regions",
    "wesemu.genomics.reports",
    "wesemu.genomics.tools",
    "wesemu.genomics.wheel_tools",
)
"""Modules that the Snakefiles of the bundled pipelines import."""


async def detect_engines(
    settings: Settings, chosen: SandboxChoice, pipelines: Path
) -> list[Engine]:
    """Return Snakemake, and the engines of the extras `cwl` and `wdl` if they are installed.

    `pipelines` is the folder of the bundled pipelines.
    """
    sandbox = chosen.sandbox
    if sandbox is None and settings.engine.sandbox != "none":
        log.warning("workflows of users run without a sandbox", reason=chosen.kind)
    engines: list[Engine] = [
        SnakemakeEngine(
            settings.engine.snakemake,
            executor=settings.node.executor,
            cluster=_cluster(settings.node),
            modules=PIPELINES_IMPORT,
            pipelines=pipelines,
            sandbox=sandbox,
            passed=settings.engine.environment,
            deployment=settings.engine.deployment,
        )
    ]
    # The workers of CWL and WDL restrict themselves with Landlock; bubblewrap cannot start them.
    within = replace(sandbox, program="") if sandbox and isolation.landlock_version() else sandbox
    if within and within.program:
        log.warning("CWL and WDL are off: they need Landlock, and bubblewrap cannot replace it")
        return engines
    candidates = [(probe_cwl, CwlEngine), (probe_wdl, WdlEngine)]
    probes = [(await asyncio.to_thread(probe), kind) for probe, kind in candidates]
    usable = [(probe.version, kind) for probe, kind in probes if probe.version is not None]
    containers = await asyncio.to_thread(find_container_tool) if usable else None
    use = settings.engine.wdl.containers
    engines += [
        kind(
            version,
            containers=None if kind is WdlEngine and use == "never" else containers,
            always_contained=use == "always",
            sandbox=within,
            passed=settings.engine.environment,
        )
        for version, kind in usable
    ]
    return engines


def find_sandbox(settings: Settings) -> SandboxChoice:
    """Call `choose_sandbox` with the settings."""
    engine = settings.engine
    return choose_sandbox(
        engine.sandbox,
        settings.data,
        readable=engine.readable,
        writable=engine.writable,
        network=engine.network,
    )


def _cluster(node: NodeSettings) -> Cluster:
    return Cluster(
        node.slurm_partition,
        node.slurm_account,
        tuple(node.slurm_options),
        plugin_options=tuple(node.plugin_options),
    )


# Remote storage.

_GIB = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteTransfers:
    """Locations, the stager of remote inputs, and the publisher of results."""

    locations: Locations
    stage: InputStager
    publisher: Publisher


async def open_transfers(
    settings: Settings, cache: Path, local: LocalPublishing, opening: AsyncExitStack
) -> RemoteTransfers:
    """Build the remote transfers without a connection. `opening` ends running downloads.

    `cache` is the cache folder of the data directory, `local` publishes on this machine.
    """
    inputs = settings.inputs
    guard = AddressGuard(inputs.networks, setting="inputs.networks")
    locations = Locations(
        buckets={
            name: remote_bucket(name, bucket) for name, bucket in settings.remote_buckets.items()
        },
        guard=guard,
        http=inputs.http,
        roots=tuple(root.absolute() for root in inputs.file_roots),
    )
    crc64 = await asyncio.to_thread(find_crc64)
    blobs = BlobCache(cache / "inputs", int(inputs.cache_gib * _GIB))
    await asyncio.to_thread(blobs.clean_up)
    fetcher = HttpFetcher(guard, largest=int(inputs.largest_gib * _GIB))
    input_cache = InputCache(blobs, fetcher, crc64)
    opening.push_async_callback(input_cache.close)
    publisher = RemotePublisher(local, locations, crc64)
    return RemoteTransfers(locations, InputStager(input_cache), publisher)


def remote_bucket(name: str, settings: RemoteBucketSettings) -> RemoteBucket:
    """Build a remote bucket without a connection."""
    return RemoteBucket(
        name,
        connector(name, settings),
        server=_server(settings),
        prefix=settings.prefix,
        part_size=settings.part_mib * _MIB,
    )


def _server(settings: RemoteBucketSettings) -> str:
    """Return a name for the bucket's server: of the endpoint, or else the service and region.

    oss2 accepts an endpoint without a scheme, too.
    """
    endpoint = settings.endpoint
    if not endpoint:
        return f"{settings.type} {settings.region}".rstrip()
    try:
        return server_of(endpoint if "://" in endpoint else f"http://{endpoint}")
    except ValueError:
        return endpoint  # the SDK reports the invalid endpoint when a run needs the bucket


def connector(name: str, settings: RemoteBucketSettings) -> Callable[[], RemoteStore]:
    """Return a function that connects to the bucket. It imports the SDK, which is slow."""
    bucket = settings.bucket or name

    def connect() -> RemoteStore:
        try:
            if settings.type == "s3":
                from wesemu.storage.s3 import S3Store

                return S3Store(bucket, settings)
            from wesemu.storage.oss import OssStore

            return OssStore(bucket, settings)
        except ImportError as error:
            raise SystemFault(
                f"the bucket {name!r} needs the extra {settings.type!r}, which is not installed: "
                f"pip install 'wesemu[{settings.type}]'"
            ) from error

    return connect
