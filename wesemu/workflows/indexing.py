"""References made ready off the event loop: one thread for each that is being indexed."""

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wesemu.errors import InputError
from wesemu.genomics.reference import ReferenceStore

_THREADS = 4


class ReferenceIndexer:
    """Runs `ReferenceStore.ready` for many runs at once.

    Runs that want the same reference wait for one thread. Indexing goes on when the run that
    asked is cancelled, since the next one profits; `close` ends it.
    """

    def __init__(self, references: ReferenceStore) -> None:
        self._references = references
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="reference")
        self._turns: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ready(self, fasta: Path, name: str, mapper: str = "bwa") -> Path:
        """The FASTA for `fasta`, which the caller called `name`, indexed for `mapper`.

        Raises InputError (in the caller's words) for a file that is no usable FASTA, SystemFault.
        """
        async with self._turns[fasta]:
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._references.ready, fasta, mapper
                )
            except InputError as error:
                raise InputError(error.message.replace(str(fasta), name), file=name) from error

    async def close(self) -> None:
        """End what is being indexed. Idempotent."""
        self._references.close()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
