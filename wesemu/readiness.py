"""Whether the server can carry runs out: its index answers, its engines are warm, there is disk."""

import asyncio
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from wesemu.runs.ports import Engine
from wesemu.runs.store import RunStore
from wesemu.wording import os_reason, os_sentence

_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 60.0
"""Between the attempts to start an engine."""

LITTLE_DISK = 100 << 20
"""Bytes: with less free space in the data directory no run is worth beginning."""


class Readiness:
    """`begin` warms the engines in the background; `close` gives that up (idempotent)."""

    def __init__(self, engines: Sequence[Engine], store: RunStore, data: Path) -> None:
        self._engines = engines
        self._store = store
        self._data = data
        self._warming: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, str] = {}

    def begin(self) -> None:
        for engine in self._engines:
            self._warming[engine.name] = asyncio.create_task(
                self._warm(engine), name=f"warm {engine.name}"
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
        if warming is not None and warming.done():
            return None
        told = self._failures.get(engine.name)
        if told is None:
            return f"the engine {engine.name} is getting ready"
        return f"the engine {engine.name} did not get ready: {told}; it is tried again"

    async def _warm(self, engine: Engine) -> None:
        """Try until it succeeds: what is wrong may be mended while the server runs."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await engine.warm()
            except Exception as error:
                told = os_sentence(error) if isinstance(error, OSError) else str(error)
                self._failures[engine.name] = told or type(error).__name__
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _disk(self) -> str | None:
        try:
            free = (await asyncio.to_thread(shutil.disk_usage, self._data)).free
        except OSError as error:
            return f"the data directory cannot be read: {os_reason(error)}"
        if free < LITTLE_DISK:
            return f"the disk of the data directory has {free >> 20} MiB left"
        return None
