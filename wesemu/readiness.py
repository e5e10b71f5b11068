"""Whether the server can carry runs out: its index answers, its engines are warm, there is disk."""

import asyncio
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from wesemu.runs.ports import Engine
from wesemu.runs.store import RunStore

LITTLE_DISK = 100 << 20
"""Bytes: with less free space in the data directory no run is worth beginning."""


class Readiness:
    """`begin` warms the engines in the background; `close` gives that up (idempotent)."""

    def __init__(self, engines: Sequence[Engine], store: RunStore, data: Path) -> None:
        self._engines = engines
        self._store = store
        self._data = data
        self._warming: dict[str, asyncio.Task[None]] = {}

    def begin(self) -> None:
        for engine in self._engines:
            self._warming[engine.name] = asyncio.create_task(
                engine.warm(), name=f"warm {engine.name}"
            )

    async def close(self) -> None:
        for warming in self._warming.values():
            warming.cancel()
        await asyncio.gather(*self._warming.values(), return_exceptions=True)

    async def hindrances(self) -> list[str]:
        """One sentence for each thing that is not ready; none: the server serves."""
        found = [await self._index(), *map(self._engine, self._engines), await self._disk()]
        return [told for told in found if told is not None]

    async def _index(self) -> str | None:
        try:
            await self._store.all_state_counts()
        except (sqlite3.Error, ValueError) as error:
            return f"the index does not answer: {error}"
        return None

    def _engine(self, engine: Engine) -> str | None:
        warming = self._warming.get(engine.name)
        if warming is None or not warming.done():
            return f"the engine {engine.name} is getting ready"
        if warming.cancelled() or (error := warming.exception()) is None:
            return None
        return f"the engine {engine.name} did not get ready: {error}"

    async def _disk(self) -> str | None:
        try:
            free = (await asyncio.to_thread(shutil.disk_usage, self._data)).free
        except OSError as error:
            return f"the data directory cannot be looked at: {error.strerror}"
        if free < LITTLE_DISK:
            return f"the disk of the data directory has {free >> 20} MiB left"
        return None
