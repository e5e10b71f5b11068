"""Indexing of references: one thread for a file, under any name."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from support.waiting import soon

from wesemu.workflows.inputs import ReferenceIndexer


class Slow:
    """Stands for the store: holds a thread while `slow` is asked for."""

    def __init__(self) -> None:
        self.asked: list[Path] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def ready(self, fasta: Path, mapper: str) -> Path:
        self.asked.append(fasta)
        if fasta.name == "genome.fa":
            self.begun.set()
            assert self.go_on.wait(60)
        return fasta

    def close(self) -> None:
        pass


async def test_links_of_one_file_leave_threads_for_others(tmp_path: Path) -> None:
    store: Any = Slow()
    indexer = ReferenceIndexer(store)
    first, other = tmp_path / "genome.fa", tmp_path / "other.fa"
    first.write_text(">a")
    other.write_text(">b")
    links = [tmp_path / str(number) / "genome.fa" for number in range(6)]
    for link in links:
        link.parent.mkdir()
        link.hardlink_to(first)
    works = [asyncio.create_task(indexer.ready(link, "g")) for link in links]
    await asyncio.to_thread(store.begun.wait, 60)
    try:
        async with soon():
            assert await indexer.ready(other, "o") == other
        assert len(store.asked) == 2, "one link's, and the other file"
    finally:
        store.go_on.set()
    assert sorted(await asyncio.gather(*works)) == links
    assert not indexer._file_locks
    await indexer.close()
