"""A crate as a stream of bytes: a ZIP that is made while it is sent, never whole anywhere."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from wesemu.objects.buckets import Buckets
from wesemu.provenance.facts import Inclusion, gather
from wesemu.runs.model import Run
from wesemu.runs.workspace import Workspace

_CHUNK = 256 << 10


class CrateMaker:
    """Makes crates in threads. Reads `buckets` for the inputs, `pipelines` for the bundled ones."""

    def __init__(self, buckets: Buckets, pipelines: Path) -> None:
        self._buckets = buckets
        self._pipelines = pipelines

    async def chunks(
        self, run: Run, workspace: Workspace, *, url: str, log: str, inclusion: Inclusion
    ) -> AsyncGenerator[bytes]:
        """Of a run that has ended. Raises OSError."""

        def make() -> Iterator[bytes]:
            facts = gather(
                run,
                workspace,
                url=url,
                log=log,
                inclusion=inclusion,
                buckets=self._buckets,
                pipelines=self._pipelines,
            )
            crate = import_module("wesemu.provenance.crate").build(facts)
            stream: Iterator[bytes] = crate.stream_zip(chunk_size=_CHUNK)
            return stream

        stream = await asyncio.to_thread(make)
        try:
            while chunk := await asyncio.to_thread(next, stream, b""):
                yield chunk
        finally:
            with suppress(ValueError):  # broken off: the archive complains that it is not whole
                await asyncio.to_thread(getattr(stream, "close", bool))
