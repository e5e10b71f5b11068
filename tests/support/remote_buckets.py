"""Remote buckets on this machine: S3 of moto, and OSS of wesemu."""

import copy
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from wesemu.storage.remote import RemoteBucketSettings, RemoteStore

KEY_ID = "LTAIexample"
SECRET = "a secret that nobody may read"


class Side(Protocol):
    """Direct access to a remote bucket with the name `there`."""

    kind: str
    there: str
    endpoint: str

    def put(self, key: str, content: bytes) -> None: ...

    def get(self, key: str) -> bytes: ...

    def keys(self) -> list[str]: ...

    def store(self) -> RemoteStore: ...


def settings_of(side: Side, **more: Any) -> dict[str, Any]:
    """Return the settings of the bucket, as in wesemu.toml."""
    return {
        "type": side.kind,
        "bucket": side.there,
        "endpoint": side.endpoint,
        "region": "us-east-1",
        "access_key_id": KEY_ID,
        "access_key_secret": SECRET,
        "path_style": side.kind == "s3",
        **more,
    }


@dataclass
class S3Side:
    """A bucket of S3. `first` is another store, whose client is reused, because boto3 is slow."""

    endpoint: str
    there: str
    first: Any
    kind: str = "s3"

    def __post_init__(self) -> None:
        self._client = self.first._client
        self._client.create_bucket(Bucket=self.there)

    def put(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=self.there, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        return bytes(self._client.get_object(Bucket=self.there, Key=key)["Body"].read())

    def keys(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self.there)
        return [each["Key"] for each in found.get("Contents", ())]

    def uploads(self) -> int:
        return len(self._client.list_multipart_uploads(Bucket=self.there).get("Uploads", ()))

    def store(self) -> RemoteStore:
        store: Any = copy.copy(self.first)
        store._bucket = self.there
        return store  # type: ignore[no-any-return]


@dataclass
class OssSide:
    """A bucket of OSS in a folder below `root`."""

    endpoint: str
    root: Path
    there: str
    kind: str = "oss"

    def put(self, key: str, content: bytes) -> None:
        path = self.root / self.there / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def get(self, key: str) -> bytes:
        return (self.root / self.there / key).read_bytes()

    def keys(self) -> list[str]:
        folder = self.root / self.there
        found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        return sorted(key for key in found if not key.startswith(".wesemu/"))

    def uploads(self) -> int:
        folder = self.root / self.there / ".wesemu" / "uploads"
        return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0

    def store(self) -> RemoteStore:
        from wesemu.storage.oss import OssStore

        return OssStore(self.there, RemoteBucketSettings.model_validate(settings_of(self)))


@contextmanager
def moto() -> Iterator[tuple[str, RemoteStore]]:
    """Start moto's S3 on a free port. Yield its address and the store of a bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    _wait_for(host, port)
    address = f"http://{host}:{port}"
    from wesemu.storage.s3 import S3Store

    settings = RemoteBucketSettings(
        type="s3",
        endpoint=address,
        region="us-east-1",
        access_key_id=SecretStr(KEY_ID),
        access_key_secret=SecretStr(SECRET),
        path_style=True,
    )
    yield (
        address,
        S3Store("any", settings),
    )
    server.stop()


def _wait_for(host: str, port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
    raise TimeoutError("moto does not answer")
