"""What lies elsewhere, out of the settings: remote buckets, HTTP, the cache of fetched inputs."""

import asyncio
import os
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from wesemu.auth.oidc import JwksCache, key_source
from wesemu.engines import landlock
from wesemu.engines.launch_spec import find_container_tool
from wesemu.engines.leases import live_tickets
from wesemu.engines.library_engine import CwlEngine, WdlEngine, probe_cwl, probe_wdl
from wesemu.engines.sandbox import SandboxChoice, choose_sandbox
from wesemu.engines.slurm import Cluster
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.errors import SystemFault, ToolMissing
from wesemu.node import Choice, Gpu, Inventory, Node, Wanted, choose, has_driver, take_inventory
from wesemu.runs.clock import WallClock
from wesemu.runs.ports import Engine, GpuStatus
from wesemu.settings import GpuSettings, NodeSettings, OidcSettings, RemoteBucketSettings, Settings
from wesemu.storage.cache import BlobCache, InputCache
from wesemu.storage.checksums import find_crc64
from wesemu.storage.download import HttpFetcher
from wesemu.storage.remote import BucketAccess, RemoteBucket, RemoteStore, server_of
from wesemu.util.ssrf import AddressGuard
from wesemu.workflows.locations import RemoteLocations
from wesemu.workflows.outputs import Deliveries
from wesemu.workflows.staging import InputStager

if TYPE_CHECKING:
    from wesemu.auth.oidc import TokenVerifier


# Who verifies JSON Web Tokens, where an issuer is set.


def build_verifier(settings: OidcSettings) -> "TokenVerifier | None":
    """None without an issuer. Raises ToolMissing where the extra `oidc` is not installed."""
    if not settings.issuer:
        return None
    try:
        from wesemu.auth.oidc import TokenPolicy, TokenVerifier
    except ImportError as error:
        raise ToolMissing(
            "auth.oidc.issuer is set, but what verifies its tokens is not installed: "
            "pip install 'wesemu[oidc]'"
        ) from error
    clock = WallClock()
    demands = TokenPolicy(
        issuer=settings.issuer,
        audiences=tuple(settings.audiences),
        owner_claim=settings.owner_claim,
        scopes=tuple(settings.scopes),
        leeway=settings.leeway_seconds,
    )
    return TokenVerifier(
        JwksCache(key_source(settings.issuer, settings.jwks), clock), demands, clock
    )


# The GPUs that the settings have lent; also for the command line, which has no server.


def find_gpus() -> Inventory:
    """What NVML tells, where there is a driver; it is not even loaded where there is none."""
    return take_inventory() if has_driver() else Inventory()


def leased(leases: Path) -> set[int]:
    """The indexes of the GPUs that tasks of this data directory have now."""
    return {device for ticket in live_tickets(leases) for device in ticket.devices}


def gpu_status(node: Node, leases: Path) -> GpuStatus:
    """The node's GPUs, and which of them no task of this data directory has now."""
    taken = leased(leases)
    return GpuStatus(node.devices, tuple(each for each in node.devices if each not in taken))


def choose_gpus(
    settings: NodeSettings,
    *,
    ours: Collection[int] = (),
    look: Callable[[], Inventory] = find_gpus,
) -> Choice:
    """`ours` are leased at the moment: who computes on them is no stranger."""
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
    """With a cluster's executor the GPUs are the cluster's: this machine's do not count."""
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


# The engines that the settings ask for and that a probe has found.


log = structlog.get_logger("wesemu.engines")

PIPELINES_IMPORT = (
    "wesemu.errors",
    "wesemu.genomics.bwa_index",
    "wesemu.genomics.fastq",
    "wesemu.genomics.mappers",
    "wesemu.genomics.parabricks.preflight",
    "wesemu.genomics.ploidy",
    "wesemu.genomics.read_groups",
    "wesemu.genomics.reference_records",
    "wesemu.genomics.regions",
    "wesemu.genomics.reports",
    "wesemu.genomics.tools",
)
"""Modules that the Snakefiles of the bundled pipelines import."""


async def detect_engines(settings: Settings, chosen: SandboxChoice) -> list[Engine]:
    """Snakemake, and the engines of the extras `cwl` and `wdl` where they are installed."""
    sandbox = chosen.sandbox
    if sandbox is None and settings.engine.sandbox != "none":
        log.warning("users' own workflows run without a sandbox", reason=chosen.kind)
    engines: list[Engine] = [
        SnakemakeEngine(
            settings.engine.snakemake,
            executor=settings.node.executor,
            cluster=_cluster(settings.node),
            modules=PIPELINES_IMPORT,
            sandbox=sandbox,
            passed=settings.engine.environment,
        )
    ]
    within = replace(sandbox, program="") if sandbox and landlock.version() else sandbox
    if within and within.program:
        log.warning("CWL and WDL are not offered: bubblewrap cannot run them, and no Landlock")
        return engines
    hosted = [(probe_cwl, CwlEngine), (probe_wdl, WdlEngine)]
    found = [(await asyncio.to_thread(probe), kind) for probe, kind in hosted]
    usable = [(probe.version, kind) for probe, kind in found if probe.version is not None]
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
    """As `choose_sandbox`, by the settings."""
    engine = settings.engine
    return choose_sandbox(
        engine.sandbox,
        settings.data.absolute(),
        readable=engine.readable,
        writable=engine.writable,
        network=engine.network,
    )


def _cluster(node: NodeSettings) -> Cluster:
    return Cluster(node.slurm_partition, node.slurm_account, tuple(node.slurm_options))


_GIB = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteTransfers:
    """The ways in and out."""

    elsewhere: RemoteLocations
    stage: InputStager
    deliveries: Deliveries


async def open_transfers(
    settings: Settings, cache: Path, opening: AsyncExitStack
) -> RemoteTransfers:
    """`cache` is the data directory's; `opening` ends what is being fetched. Asks nobody."""
    inputs = settings.inputs
    guard = AddressGuard(inputs.networks, setting="inputs.networks")
    elsewhere = RemoteLocations(
        buckets={
            name: remote_bucket(name, bucket) for name, bucket in settings.remote_buckets.items()
        },
        guard=guard,
        http=inputs.http,
        roots=tuple(root.absolute() for root in inputs.file_roots),
    )
    crc64 = await asyncio.to_thread(find_crc64)
    shelf = BlobCache(cache / "inputs", int(inputs.cache_gib * _GIB))
    await asyncio.to_thread(shelf.clean_up)
    fetcher = HttpFetcher(guard, largest=int(inputs.largest_gib * _GIB))
    store = InputCache(shelf, fetcher, crc64)
    opening.push_async_callback(store.close)
    return RemoteTransfers(elsewhere, InputStager(elsewhere, store), Deliveries(elsewhere, crc64))


def remote_bucket(name: str, settings: RemoteBucketSettings) -> RemoteBucket:
    """Asks nobody."""
    return RemoteBucket(
        name,
        connector(name, settings),
        server=_server(settings),
        prefix=settings.prefix,
        part_size=settings.part_mib * _MIB,
    )


def _server(settings: RemoteBucketSettings) -> str:
    """By the endpoint, of which oss2 takes a mere host too; else by the service and its region."""
    endpoint = settings.endpoint
    if not endpoint:
        return f"{settings.type} {settings.region}".rstrip()
    try:
        return server_of(endpoint if "://" in endpoint else f"http://{endpoint}")
    except ValueError:
        return endpoint  # the run that needs it is told what is wrong


def connector(name: str, settings: RemoteBucketSettings) -> Callable[[], RemoteStore]:
    """Connects to a bucket; the SDK is imported when a run first needs it."""
    access = BucketAccess(
        bucket=settings.bucket or name,
        endpoint=settings.endpoint,
        region=settings.region,
        key_id=settings.access_key_id.get_secret_value(),
        secret=settings.access_key_secret.get_secret_value(),
        token=settings.security_token.get_secret_value(),
        anonymous=settings.anonymous,
        path_style=settings.path_style,
    )

    def connect() -> RemoteStore:
        try:
            if settings.type == "s3":
                from wesemu.storage.s3 import S3Store

                return S3Store(access)
            from wesemu.storage.oss import OssStore

            return OssStore(access)
        except ImportError as error:
            raise SystemFault(
                f"the bucket {name!r} needs the extra {settings.type!r}, which is not installed: "
                f"pip install 'wesemu[{settings.type}]'"
            ) from error

    return connect
