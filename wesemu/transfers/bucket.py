"""A bucket that lies elsewhere: its objects as sources, and as places for results."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wesemu.errors import InputError
from wesemu.objects.buckets import check_key
from wesemu.transfers.errors import Refusal
from wesemu.transfers.patience import DELAYS, persevere
from wesemu.transfers.source import Expected
from wesemu.transfers.store import RemoteObject, RemoteStore
from wesemu.transfers.threads import detached

_SIGNED_SECONDS = 3600
_MOST_KEYS = 10_000

_T = TypeVar("_T")


class RemoteBucket:
    """The bucket that is called `name` here; keys lie below `prefix` there.

    The service's SDK is loaded and `connect` called when first needed. `part_size` in bytes.
    Buckets of one service have the same `server`.
    Methods raise InputError for what the service refuses, RemoteFault where it fails for good.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], RemoteStore],
        *,
        server: str,
        prefix: str = "",
        part_size: int = 16 << 20,
        delays: Sequence[float] = DELAYS,
    ) -> None:
        self.name = name
        self.server = server
        self.part_size = part_size
        self._connect = connect
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._delays = delays
        self._store: RemoteStore | None = None
        self._connecting = threading.Lock()

    def shown(self, key: str) -> str:
        return f"oss://{self.name}/{key}"

    def check(self, key: str, *, field: str | None = None) -> None:
        """Raises InvalidRequest for a key that would leave the prefix or be no path."""
        check_key(key, field=field)

    async def find(self, key: str) -> RemoteObject | None:
        """The object of a key, None where there is none."""
        return await self.ask(key, lambda store, there: store.head(there))

    async def below(self, folder: str) -> list[str]:
        """The keys below a folder, relative to it; 10,000 at most."""
        start = f"{folder.rstrip('/')}/"
        keys = await self.ask(start, lambda store, there: store.keys(there, _MOST_KEYS))
        return [key.removeprefix(self._prefix + start) for key in keys if not key.endswith("/")]

    async def ask(self, key: str, question: Callable[[RemoteStore, str], _T]) -> _T:
        """What the service answers about a key, which is given to `question` as it is there."""

        async def attempt() -> _T:
            def work() -> _T:
                return question(self._connected(), self._prefix + key)

            return await detached(work, f"bucket {self.name}")

        name = self.shown(key)
        try:
            return await persevere(name, attempt, self._delays)
        except Refusal as refusal:
            raise InputError(
                f"{name} {refusal.reason}; look at the settings of remote_buckets.{self.name} and "
                "at what its credentials may do",
                file=name,
            ) from None

    def _connected(self) -> RemoteStore:
        with self._connecting:
            if self._store is None:
                self._store = self._connect()
            return self._store


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An object of a remote bucket; implements `Source`. Nobody but the settings chose its
    address, which is signed for an hour."""

    bucket: RemoteBucket
    object_key: str
    sha256: str | None = None
    guarded: bool = False

    @property
    def shown(self) -> str:
        return self.bucket.shown(self.object_key)

    @property
    def key(self) -> str:
        return self.shown

    @property
    def asked(self) -> str:
        return self.shown

    @property
    def server(self) -> str:
        return self.bucket.server

    async def describe(self) -> Expected:
        found = await self.bucket.find(self.object_key)
        if found is None:
            raise InputError(
                f"{self.shown} is not there; upload it, or correct the key", file=self.shown
            )
        return Expected(found.size, found.etag, found.checksums)

    async def address(self) -> str:
        return await self.bucket.ask(
            self.object_key, lambda store, there: store.sign(there, _SIGNED_SECONDS)
        )
