"""Handlers that bring data to the server: `/_wesemu/snapshots` and `/_wesemu/references`."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
from aiohttp import web

from wesemu.api.admin import models
from wesemu.api.admin.controls import ResetHandlers
from wesemu.api.admin.routes import answer, read, read_nothing
from wesemu.api.base import single_values
from wesemu.errors import Conflict, InvalidRequest, WesemuError
from wesemu.runs.data_directory import INCOMING_PREFIX, DataDirectory
from wesemu.runs.disk_full import room_for_files, too_little_room
from wesemu.storage import snapshots
from wesemu.storage.buckets import Buckets
from wesemu.storage.snapshots import PathMarks, SnapshotCounts, SnapshotState
from wesemu.util.cancellation import close, open_in_thread

log = structlog.get_logger("wesemu.references")

_CHUNK = 1 << 20
_MAPPERS = ("bwa", "bwa-mem2", "bwa-mem3")


@asynccontextmanager
async def _temporary_folder(data: DataDirectory) -> AsyncIterator[Path]:
    """Yield a new folder on the disk of the data directory, and delete it afterwards."""
    folder = await open_in_thread(_remove, _new_folder, data)
    try:
        yield folder
    finally:
        await asyncio.to_thread(_remove, folder)


def _new_folder(data: DataDirectory) -> Path:
    data.make_folders()
    return Path(tempfile.mkdtemp(prefix=INCOMING_PREFIX, dir=data.cache))


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


async def _receive_body(
    request: web.Request, file: Path, progress: Callable[[int], None] = lambda size: None
) -> None:
    """Write the body of a request to `file`. Raises as `receive` does."""
    chunks = request.content.iter_chunked(_CHUNK)
    await receive(chunks, file, size=request.content_length or 0, progress=progress)


async def receive(
    chunks: AsyncIterator[bytes],
    file: Path,
    *,
    size: int = 0,
    progress: Callable[[int], None] = lambda size: None,
) -> None:
    """Write a stream to a file. Raises DiskFull if the disk has too little space.

    `size` is the number of expected bytes, if it is known; `progress` gets that of bytes so far.
    """
    room = await asyncio.to_thread(room_for_files, file.parent)
    received = 0
    target = await open_in_thread(close, file.open, "wb")
    with target:
        async for chunk in chunks:
            received += len(chunk)
            if max(size, received) > room:
                raise too_little_room(room, max(size, received))
            await asyncio.to_thread(target.write, chunk)
            progress(received)


class SnapshotHandlers:
    """Saves and loads snapshots.

    `state` returns the part of a snapshot that is not in files. `check` raises InvalidRequest for
    an invalid state. `restore` applies a state, and adds the runs to the index.
    """

    def __init__(
        self,
        data: DataDirectory,
        marks: PathMarks,
        resets: ResetHandlers,
        *,
        state: Callable[[], Awaitable[SnapshotState]],
        check: Callable[[SnapshotState], None],
        restore: Callable[[SnapshotState], Awaitable[None]],
    ) -> None:
        self._data = data
        self._marks = marks
        self._resets = resets
        self._state = state
        self._check = check
        self._restore = restore

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/_wesemu/snapshots", self.save),
            web.put("/_wesemu/snapshots", self.load),
        ]

    async def save(self, request: web.Request) -> web.StreamResponse:
        """Send a snapshot of this moment. Runs that have not ended are left out."""
        await read_nothing(request)
        async with _temporary_folder(self._data) as folder:
            file = folder / "snapshot.tar"
            state = await self._state()
            await asyncio.to_thread(snapshots.save, self._data, self._marks, file, state)
            response = web.StreamResponse(
                headers={
                    "Content-Type": snapshots.MEDIA_TYPE,
                    "Content-Disposition": 'attachment; filename="wesemu-snapshot.tar"',
                }
            )
            response.content_length = (await asyncio.to_thread(file.stat)).st_size
            await response.prepare(request)
            content = await open_in_thread(close, file.open, "rb")
            with content:
                while chunk := await asyncio.to_thread(content.read, _CHUNK):
                    await response.write(chunk)
            await response.write_eof()
        return response

    async def load(self, request: web.Request) -> web.Response:
        """Replace runs, buckets and time by those of a snapshot. A wrong one changes nothing."""
        return answer(await self.load_file(partial(_receive_body, request)))

    async def load_file(self, fill: Callable[[Path], Awaitable[None]]) -> models.SnapshotReport:
        """As `load`; `fill` writes the snapshot to a file."""
        async with _temporary_folder(self._data) as folder:
            file, unpacked = folder / "snapshot.tar", folder / "unpacked"
            await fill(file)
            state = await asyncio.to_thread(snapshots.unpack, file, unpacked, self._marks)
            self._check(state)
            counts: list[SnapshotCounts] = []

            async def install() -> None:
                counts.append(await asyncio.to_thread(snapshots.install, unpacked, self._data))
                await self._restore(state)

            await self._resets.run(install, buckets=True)
        [brought] = counts
        return models.SnapshotReport(
            runs=brought.runs, buckets=brought.buckets, references=brought.references
        )


class Summary(Protocol):
    """A registered reference; see `genomics.reference.ReferenceSummary`."""

    @property
    def sequences(self) -> int | None: ...
    @property
    def alternates(self) -> int: ...
    @property
    def indexes(self) -> tuple[str, ...]: ...


class References(Protocol):
    """The store of references; see `genomics.reference.ReferenceStore`. Its methods block."""

    def check_name(self, name: str) -> str: ...
    def names(self) -> list[str]: ...
    def describe(self, name: str) -> Summary: ...
    def add(self, name: str, fasta: Path, mapper: str = "bwa") -> Path: ...
    def remove(self, name: str) -> None: ...


class ReferenceHandlers:
    """Registers references in the background. `close` waits for them at shutdown."""

    def __init__(self, references: References, data: DataDirectory) -> None:
        self._references = references
        self._data = data
        self._buckets = Buckets(data.buckets)
        self._adding: dict[str, models.ReferenceReport] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_wesemu/references", self.show),
            web.post("/_wesemu/references", self.add),
            web.delete("/_wesemu/references/{name}", self.remove),
        ]

    async def close(self, _: web.Application) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def show(self, request: web.Request) -> web.Response:
        known = {report.name: report for report in await asyncio.to_thread(self._registered)}
        reports = known | self._adding
        return answer(models.ReferenceList(references=[reports[name] for name in sorted(reports)]))

    async def add(self, request: web.Request) -> web.Response:
        """Register a FASTA: an upload with the name in the query, or a location as JSON."""
        if request.query_string:
            return await self._add_upload(request)
        body = await read(request, models.ReferenceFromBucket)
        with self._reserved(body.name, "indexing") as report:
            fasta = await asyncio.to_thread(
                self._buckets.existing_file, body.location, field="location"
            )
        self._start(self._index(report, fasta, body.mapper), report.name)
        return answer(report, 202)

    async def _add_upload(self, request: web.Request) -> web.Response:
        values = single_values(request.query)
        if set(values) - {"name", "mapper"} or not values.get("name"):
            raise InvalidRequest("the query has `name`, and may have `mapper`", field="name")
        mapper = values.get("mapper", "bwa")
        if mapper not in _MAPPERS:
            raise InvalidRequest(f"mapper must be one of {', '.join(_MAPPERS)}", field="mapper")
        with self._reserved(values["name"], "receiving") as report:
            folder = await open_in_thread(_remove, _new_folder, self._data)
            fasta = folder / f"{report.name}.fa"

            def received(size: int) -> None:
                report.bytes = size

            try:
                await _receive_body(request, fasta, received)
            except BaseException:
                await asyncio.to_thread(_remove, folder)
                raise
        report.state = "indexing"
        self._start(self._index(report, fasta, mapper, folder), report.name)
        return answer(report, 202)

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a reference, or the report of one that could not be added."""
        await read_nothing(request)
        name = self._references.check_name(request.match_info["name"])
        adding = self._adding.get(name)
        if adding is not None and adding.state != "failed":
            raise Conflict(f"the reference {name} is being added; wait until it is ready")
        if self._adding.pop(name, None) is None or name in await asyncio.to_thread(
            self._references.names
        ):
            await asyncio.to_thread(self._references.remove, name)
        return await self.show(request)

    @contextmanager
    def _reserved(self, name: str, state: str) -> Iterator[models.ReferenceReport]:
        """Reserve a name, and free it if the `with` block raises. Raises InvalidRequest, and
        Conflict while it is being added."""
        name = self._references.check_name(name)
        previous = self._adding.get(name)
        if previous is not None and previous.state != "failed":
            raise Conflict(f"the reference {name} is being added; wait until it is ready")
        report = self._adding[name] = models.ReferenceReport(name=name, state=state)
        try:
            yield report
        except BaseException:
            del self._adding[name]
            raise

    def _start(self, work: Awaitable[None], name: str) -> None:
        task = asyncio.ensure_future(work)
        task.set_name(f"add reference {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _index(
        self, report: models.ReferenceReport, fasta: Path, mapper: str, folder: Path | None = None
    ) -> None:
        """Index a reference. A failure stays in the list until the name is used again."""
        try:
            await asyncio.to_thread(self._add_file, report.name, fasta, mapper, folder)
        except WesemuError as error:
            report.state, report.error = "failed", error.message.replace(f"{fasta.parent}/", "")
        except OSError as error:
            report.state, report.error = "failed", error.strerror or "the system gives no reason"
        except Exception:
            report.state, report.error = "failed", "internal error; the server's log says more"
            log.exception("internal error", name=report.name)
        else:
            del self._adding[report.name]
        log.info("reference added", name=report.name, state=report.state, reason=report.error)

    def _add_file(self, name: str, fasta: Path, mapper: str, folder: Path | None) -> None:
        """Index a FASTA, then remove its `folder`: not earlier, also if the server shuts down."""
        try:
            self._references.add(name, fasta, mapper)
        finally:
            if folder is not None:
                _remove(folder)

    def _registered(self) -> list[models.ReferenceReport]:
        reports = []
        for name in self._references.names():
            found = self._references.describe(name)
            reports.append(
                models.ReferenceReport(
                    name=name,
                    state="ready",
                    sequences=found.sequences,
                    alternates=found.alternates,
                    indexes=[*found.indexes],
                )
            )
        return reports
