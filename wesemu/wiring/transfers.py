"""What lies elsewhere, out of the settings: remote buckets, HTTP, the cache of fetched inputs."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from wesemu.errors import SystemFault
from wesemu.objects.crc64 import find_crc64
from wesemu.public_addresses import AddressGuard
from wesemu.settings import RemoteBucketSettings, Settings
from wesemu.transfers.bucket import RemoteBucket
from wesemu.transfers.cache import InputCache
from wesemu.transfers.http import HttpFetcher
from wesemu.transfers.shelf import Shelf
from wesemu.transfers.source import server_of
from wesemu.transfers.store import Access, RemoteStore
from wesemu.workflows.delivery import Deliveries
from wesemu.workflows.elsewhere import Elsewhere
from wesemu.workflows.staging import Stage

_GIB = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Transfers:
    """The ways in and out."""

    elsewhere: Elsewhere
    stage: Stage
    deliveries: Deliveries


async def open_transfers(settings: Settings, cache: Path, opening: AsyncExitStack) -> Transfers:
    """`cache` is the data directory's; `opening` ends what is being fetched. Asks nobody."""
    inputs = settings.inputs
    guard = AddressGuard(inputs.networks, setting="inputs.networks")
    elsewhere = Elsewhere(
        buckets={
            name: remote_bucket(name, bucket) for name, bucket in settings.remote_buckets.items()
        },
        guard=guard,
        http=inputs.http,
        roots=tuple(root.absolute() for root in inputs.file_roots),
    )
    crc64 = await asyncio.to_thread(find_crc64)
    shelf = Shelf(cache / "inputs", int(inputs.cache_gib * _GIB))
    await asyncio.to_thread(shelf.sweep)
    fetcher = HttpFetcher(guard, largest=int(inputs.largest_gib * _GIB))
    store = InputCache(shelf, fetcher, crc64)
    opening.push_async_callback(store.close)
    return Transfers(elsewhere, Stage(elsewhere, store), Deliveries(elsewhere, crc64))


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
    access = Access(
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
                from wesemu.transfers.s3 import S3Store

                return S3Store(access)
            from wesemu.transfers.oss import OssStore

            return OssStore(access)
        except ImportError as error:
            raise SystemFault(
                f"the bucket {name!r} needs the extra {settings.type!r}, which is not installed: "
                f"pip install 'wesemu[{settings.type}]'"
            ) from error

    return connect
