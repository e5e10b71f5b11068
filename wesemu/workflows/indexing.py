"""References made ready off the event loop: one thread for each that is being indexed."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wesemu.errors import InputError, SystemFault
from wesemu.genomics.reference import ReferenceStore

_CLOSE_SECONDS = 2.0
_THREADS = 4


@dataclass(slots=True)
class _Turn:
    """Who wants one file, the one whose turn it is among them."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0


class ReferenceIndexer:
    """Runs `ReferenceStore.ready` for many runs at once.

    Runs that want the same file wait for one thread, by whatever path each of them has it: what
    was fetched lies as a link in every run directory. Indexing goes on when the run that
    asked is cancelled, since the next one profits; `close` ends it.
    """

    def __init__(self, references: ReferenceStore) -> None:
        self._references = references
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="reference")
        self._working: set[Future[Path]] = set()
        self._turns: dict[tuple[int, int], _Turn] = {}

    @property
    def records_folder(self) -> Path:
        """Where it is remembered which indexes were compared with their FASTA."""
        return self._references.records_folder

    async def ready(self, fasta: Path, name: str, mapper: str = "bwa") -> Path:
        """The FASTA for `fasta`, which the caller called `name`, indexed for `mapper`.

        Raises InputError (in the caller's words) for a file that is no usable FASTA, SystemFault.
        """
        async with self._turn(fasta):
            try:
                work = self._threads.submit(self._references.ready, fasta, mapper)
                self._working.add(work)
                work.add_done_callback(self._working.discard)
                return await asyncio.wrap_future(work)
            except InputError as error:
                message = error.message.replace(str(fasta), name)
                raise InputError(message, file=name, record=error.record) from error
            except SystemFault as error:
                raise type(error)(error.message.replace(str(fasta), name)) from error

    @asynccontextmanager
    async def _turn(self, fasta: Path) -> AsyncIterator[None]:
        status = await asyncio.to_thread(fasta.stat)
        file = (status.st_dev, status.st_ino)
        turn = self._turns.setdefault(file, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[file]

    async def close(self) -> None:
        """End what is being indexed. Idempotent. A thread that reads a huge FASTA is left behind:
        it has made nothing yet."""
        self._references.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(wait, set(self._working), timeout=_CLOSE_SECONDS)
