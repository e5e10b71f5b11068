"""What a bundled pipeline makes, and where the caller wants it."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from wesemu.errors import InvalidRequest, WesemuError
from wesemu.runs.model import OutputFile, RunFailure, RunId
from wesemu.runs.ports import Delivery, ProgressCallback, Publication
from wesemu.runs.run_directory import Workspace
from wesemu.runs.serialization import read_plan
from wesemu.storage.buckets import Buckets
from wesemu.storage.cache import name_of
from wesemu.storage.checksums import Crc64
from wesemu.storage.remote import ByteCallback as Progress
from wesemu.storage.remote import redacted_url
from wesemu.storage.upload import RemoteUpload, Uploader
from wesemu.workflows.locations import RemoteKey, RemoteLocations
from wesemu.workflows.params import MappingParams, WgsParams

# Results leave for remote buckets, once they are whole in the run directory.


_FAREWELL_SECONDS = 10.0

log = structlog.get_logger("wesemu.delivery")


class Deliveries:
    """Sends outputs whose `published` location is in a remote bucket."""

    def __init__(self, elsewhere: RemoteLocations, crc64: Crc64 | None = None) -> None:
        self._elsewhere = elsewhere
        self._crc64 = crc64
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def deliver(
        self, workspace: Workspace, outputs: Sequence[OutputFile], tell: ProgressCallback
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
        tell: ProgressCallback,
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

    async def abort_uploads(self, run_id: RunId, workspace: Workspace) -> None:
        """The run has ended: parts of what did not arrive are not kept in the buckets."""
        records = await asyncio.to_thread(_records, workspace)
        if not records:
            return
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                for record, location in records:
                    remote = self._elsewhere.key(location)
                    await Uploader(remote.bucket).abort(remote.key, record)
        except (WesemuError, TimeoutError, OSError) as error:
            log.warning("parts of an upload are left in a bucket", run_id=run_id, error=str(error))

    async def _send(self, workspace: Workspace, output: OutputFile, tell: Progress) -> None:
        assert output.published is not None
        assert output.sha256 is not None
        remote = self._elsewhere.key(output.published)
        record = _record(workspace, output.published)
        await asyncio.to_thread(_begin, record, output.published)
        upload = RemoteUpload(
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


_VCF_GZ = "results/calls.vcf.gz"
_VCF = "results/calls.vcf"
_GVCF_NAMES = (".gvcf", ".g.vcf", ".gvcf.gz", ".g.vcf.gz", ".vcf.gz")
_REPORTS = {"multiqc": "results/multiqc.html", "snakemake": "results/report.html"}


class Publications:
    """Names the results of requests. Errors carry the parameter's name."""

    def __init__(self, buckets: Buckets, elsewhere: RemoteLocations) -> None:
        self._buckets = buckets
        self._elsewhere = elsewhere

    def of(self, params: MappingParams, *, is_short: bool = True) -> tuple[Publication, ...]:
        """`is_short`: every contig surely fits into BAI and TBI. If not, the index is whichever of
        these or CSI the run makes. Raises InvalidRequest, BucketNotFound."""
        wanted: list[Publication] = []
        if isinstance(params, WgsParams):
            wanted += self._variants(params, () if is_short else (".csi",))
        if params.bam or not isinstance(params, WgsParams):
            wanted += self._alignment(params, () if is_short else (".csi",))
        return (
            *wanted,
            Publication("summary", "results/summary.json", optional=True),
            Publication("flagstat", "results/flagstat.json"),
            Publication("stats", "results/stats.txt"),
            Publication("reads", "results/reads.json"),
            Publication("markdup", "results/markdup.json", optional=True),
            *(Publication(f"{name}_report", _REPORTS[name]) for name in params.chosen_reports),
        )

    def _alignment(self, params: MappingParams, other: tuple[str, ...]) -> list[Publication]:
        result = f"results/{params.alignment}"
        indexes = (".crai",) if result.endswith(".cram") else (".bai", *other)
        return self._with_index("bam", params.bam, (".bam", ".cram"), result, indexes)

    def _variants(self, params: WgsParams, other: tuple[str, ...]) -> list[Publication]:
        wanted = [Publication("variants", "results/variants.txt")]
        indexes = (".tbi", *other)
        if params.gvcf_file is not None:
            gvcf = f"results/{params.gvcf_file}"
            kept = indexes if gvcf.endswith(".gz") else ()
            wanted += self._with_index("gvcf", params.gvcf, _GVCF_NAMES, gvcf, kept)
        either = (".vcf.gz", ".vcf")
        if params.is_plain:
            return [*self._with_index("vcf", params.vcf, either, _VCF, ()), *wanted]
        return [*self._with_index("vcf", params.vcf, either, _VCF_GZ, indexes), *wanted]

    def _with_index(
        self,
        name: str,
        url: str | None,
        suffixes: tuple[str, ...],
        result: str,
        indexes: tuple[str, ...],
    ) -> list[Publication]:
        """The result and its index; of several indexes the one that there will be."""
        if url is not None and not url.lower().endswith(suffixes):
            raise InvalidRequest(
                f"{name}: {url[:80]!r} must end with {' or '.join(suffixes)}", field=name
            )
        wanted = [self._publication(name, result, url)]
        for suffix in indexes:
            index_url = None if url is None else url + suffix
            index = self._publication(f"{name}_index", result + suffix, index_url)
            wanted.append(replace(index, optional=len(indexes) > 1))
        return wanted

    def _publication(self, name: str, result: str, url: str | None) -> Publication:
        if url is None:
            return Publication(name, result)
        field = name.removesuffix("_index")
        if self._elsewhere.is_remote(url):
            return Publication(name, result, None, self._remote_target(url, field))
        return Publication(name, result, self._buckets.target(url, field=field), url)

    def _remote_target(self, url: str, field: str) -> str:
        """The location of a result in a remote bucket, as it is told."""
        remote = self._elsewhere.remote(url, field=field)
        if not isinstance(remote, RemoteKey) or remote.sha256 is not None:
            raise InvalidRequest(
                f"{redacted_url(url)}: results go to buckets; write oss://<bucket>/<key>",
                field=field,
            )
        if url.endswith("/"):
            raise InvalidRequest(f"{url} is a folder; name the file to write", field=field)
        return remote.bucket.shown(remote.key)
