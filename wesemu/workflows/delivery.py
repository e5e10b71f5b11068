"""Results leave for remote buckets, once they are whole in the run directory."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from wesemu.errors import WesemuError
from wesemu.objects.crc64 import Crc64
from wesemu.runs.model import OutputFile, RunFailure, RunId
from wesemu.runs.ports import Delivery, Tell
from wesemu.runs.records import read_plan
from wesemu.runs.workspace import Workspace
from wesemu.transfers.shelf import name_of
from wesemu.transfers.source import Tell as Progress
from wesemu.transfers.upload import Upload, Uploader
from wesemu.workflows.elsewhere import Elsewhere

_FAREWELL_SECONDS = 10.0

log = structlog.get_logger("wesemu.delivery")


class Deliveries:
    """Sends outputs whose `published` location is in a remote bucket."""

    def __init__(self, elsewhere: Elsewhere, crc64: Crc64 | None = None) -> None:
        self._elsewhere = elsewhere
        self._crc64 = crc64
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def deliver(
        self, workspace: Workspace, outputs: Sequence[OutputFile], tell: Tell
    ) -> Delivery:
        """Send them one after the other, in order. After a failure nothing more is sent, and what
        has not arrived is told as not published; it stays in the run directory.

        `tell` is told `wesemu.delivery.bytes` and `wesemu.delivery.total`.
        """
        names = await asyncio.to_thread(_promised, workspace)
        leaving = [each for each in outputs if each.name in names and each.published is not None]
        async with AsyncExitStack() as turns:
            for location in sorted({each.published or "" for each in leaving}):
                await turns.enter_async_context(self._turn(location))
            return await self._deliver(workspace, outputs, leaving, tell)

    def _turn(self, location: str) -> asyncio.Lock:
        """One run at a time writes a location: a BAM and its index are of one run."""
        return self._turns.setdefault(location, asyncio.Lock())

    async def _deliver(
        self,
        workspace: Workspace,
        outputs: Sequence[OutputFile],
        leaving: Sequence[OutputFile],
        tell: Tell,
    ) -> Delivery:
        total, before = sum(each.size for each in leaving), 0
        arrived: set[str] = set()

        def told(done: int, _: int | None) -> None:
            tell({"wesemu.delivery.bytes": str(before + done), "wesemu.delivery.total": str(total)})

        try:
            for output in leaving:
                await self._send(workspace, output, told)
                before += output.size
                arrived.add(output.name)
        except (WesemuError, OSError) as error:
            kept = tuple(
                replace(each, published=None)
                if each in leaving and each.name not in arrived
                else each
                for each in outputs
            )
            return Delivery(kept, _failure(output, error))
        return Delivery(tuple(outputs))

    async def forget(self, run_id: RunId, workspace: Workspace) -> None:
        """The run has ended: parts of what did not arrive are not kept in the buckets."""
        records = await asyncio.to_thread(_records, workspace)
        if not records:
            return
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                for record, location in records:
                    remote = self._elsewhere.key(location)
                    await Uploader(remote.bucket).abandon(remote.key, record)
        except (WesemuError, TimeoutError, OSError) as error:
            log.warning("parts of an upload are left in a bucket", run_id=run_id, error=str(error))

    async def _send(self, workspace: Workspace, output: OutputFile, tell: Progress) -> None:
        assert output.published is not None
        assert output.sha256 is not None
        remote = self._elsewhere.key(output.published)
        record = _record(workspace, output.published)
        await asyncio.to_thread(_begin, record, output.published)
        upload = Upload(
            workspace.outputs / output.path, remote.key, output.size, output.sha256, record
        )
        await Uploader(remote.bucket, self._crc64).send(upload, tell)
        await asyncio.to_thread(record.with_suffix(".location").unlink, missing_ok=True)


def _promised(workspace: Workspace) -> set[str]:
    """Names of the outputs that were to go to remote buckets when the run was accepted; the
    settings may have changed since."""
    plan = read_plan(workspace)
    return {
        each.name
        for each in plan.publications or ()
        if each.url is not None and each.destination is None
    }


def _failure(output: OutputFile, error: Exception) -> RunFailure:
    return RunFailure(
        message=f"the result {output.name} was not sent to {output.published}: {error}",
        hint="nothing is lost: all results are in the run's outputs; mend what is wrong and fetch "
        "them from there, or send the request again",
        file=output.published,
    )


def _record(workspace: Workspace, location: str) -> Path:
    return workspace.root / "uploads" / f"{name_of(location)[:16]}.json"


def _begin(record: Path, location: str) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    record.with_suffix(".location").write_text(location, encoding="utf-8")


def _records(workspace: Workspace) -> list[tuple[Path, str]]:
    """Uploads that were begun and have not ended, with their locations."""
    found = []
    for location in (workspace.root / "uploads").glob("*.location"):
        record = location.with_suffix(".json")
        if record.is_file():
            found.append((record, location.read_text(encoding="utf-8")))
    return found
