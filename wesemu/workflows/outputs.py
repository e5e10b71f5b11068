"""Outputs of the bundled pipelines: uploads to remote buckets, and publications by parameter."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from wesemu.errors import InvalidRequest, WesemuError
from wesemu.runs.model import OutputFile, RunFailure
from wesemu.runs.ports import Delivery, LocalPublishing, ProgressCallback, Publication
from wesemu.runs.run_directory import Workspace
from wesemu.storage.buckets import Buckets
from wesemu.storage.cache import source_hash
from wesemu.storage.checksums import Crc64
from wesemu.storage.remote import ByteCallback, RemoteKey, WebFile, redacted_url
from wesemu.storage.remote_upload import PendingUpload, RemoteUpload, Uploader
from wesemu.util.text import os_reason
from wesemu.workflows.locations import Locations
from wesemu.workflows.params import MappingParams, WgsParams

# Uploads of results to remote buckets.

_ABORT_SECONDS = 10.0

log = structlog.get_logger("wesemu.delivery")


class RemotePublisher:
    """Uploads results for remote buckets, then publishes the others with `local`.

    Implements `runs.ports.Publisher`.
    """

    def __init__(
        self, local: LocalPublishing, locations: Locations, crc64: Crc64 | None = None
    ) -> None:
        self._local = local
        self._locations = locations
        self._crc64 = crc64
        self._location_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def publish(
        self, workspace: Workspace, publications: Sequence[Publication], report: ProgressCallback
    ) -> Delivery:
        """Upload in order, one result at a time, then publish in local buckets.

        A cancel has no effect once the first object is in its bucket. Stop at the first failure;
        outputs that were not published then have no `published` location and stay in the run
        directory. `report` receives the tags `wesemu.delivery.bytes` and `wesemu.delivery.total`.
        """
        names = _remote_names(publications)
        if not names:
            return await self._local.publish(workspace, publications, report)
        outputs = await self._local.collect(workspace, publications)
        remote_outputs = [each for each in outputs if each.name in names]
        async with AsyncExitStack() as locks:
            # Sorted, so two runs never wait for each other's locks.
            for location in sorted({each.published or "" for each in remote_outputs}):
                await locks.enter_async_context(self._location_lock(location))
            publish = partial(self._local.publish, workspace, publications, report)
            return await self._upload(workspace, outputs, remote_outputs, report, publish)

    async def clean_up(self, workspace: Workspace) -> None:
        """Remove leftovers of `publish`, and abort unfinished uploads: no parts stay in buckets."""
        await self._local.clean_up(workspace)
        uploads = await asyncio.to_thread(_unfinished_uploads, workspace)
        if not uploads:
            return
        try:
            async with asyncio.timeout(_ABORT_SECONDS):
                for record, location in uploads:
                    remote = self._locations.key(location)
                    await Uploader(remote.bucket).abort(remote.key, record)
        except (WesemuError, TimeoutError, OSError) as error:
            log.warning(
                "aborting an upload failed; its parts remain in the bucket",
                run_id=workspace.root.name,
                error=str(error),
            )

    def _location_lock(self, location: str) -> asyncio.Lock:
        """Return the lock of a location: the BAM and its index must be of the same run."""
        return self._location_locks.setdefault(location, asyncio.Lock())

    async def _upload(
        self,
        workspace: Workspace,
        outputs: Sequence[OutputFile],
        remote_outputs: Sequence[OutputFile],
        report: ProgressCallback,
        publish: Callable[[], Awaitable[Delivery]],
    ) -> Delivery:
        """Upload `remote_outputs`, then `publish`."""
        total = sum(each.size for each in remote_outputs)
        arrived: dict[str, int] = {}

        def on_bytes(name: str, done: int, _: int | None) -> None:
            arrived[name] = done
            done = sum(arrived.values())
            report({"wesemu.delivery.bytes": str(done), "wesemu.delivery.total": str(total)})

        # 1. Send what no reader of the buckets sees yet. A cancel ends it.
        uploads: list[tuple[OutputFile, PendingUpload]] = []
        for output in remote_outputs:
            try:
                upload = await self._begin(workspace, output, partial(on_bytes, output.name))
            except (WesemuError, OSError) as error:
                return Delivery(_unpublished(outputs, ()), _failure(output, error))
            uploads.append((output, upload))
        # 2. Create the objects. A cancel that comes after the first one has no effect.
        finishing = asyncio.create_task(_finish(outputs, uploads, publish), name="finish uploads")
        try:
            return await asyncio.shield(finishing)
        except asyncio.CancelledError:
            if not any(upload.visible for _, upload in uploads):
                finishing.cancel()
            await asyncio.wait({finishing})
            if finishing.cancelled():
                raise
            return finishing.result()

    async def _begin(
        self, workspace: Workspace, output: OutputFile, report: ByteCallback
    ) -> PendingUpload:
        assert output.published is not None
        assert output.sha256 is not None
        remote = self._locations.key(output.published)
        record = _record_path(workspace, output.published)
        # The .location file marks an upload, for `clean_up`.
        await asyncio.to_thread(_save_location, record, output.published)
        upload = RemoteUpload(
            workspace.outputs / output.path, remote.key, output.size, output.sha256, record
        )
        return await Uploader(remote.bucket, self._crc64).begin(upload, report)


async def _finish(
    outputs: Sequence[OutputFile],
    uploads: Sequence[tuple[OutputFile, PendingUpload]],
    publish: Callable[[], Awaitable[Delivery]],
) -> Delivery:
    """Create the objects of `uploads` in order, then `publish` the others. Stop at the first
    failure."""
    finished: list[str] = []
    for output, upload in uploads:
        try:
            await upload.finish()
        except (WesemuError, OSError) as error:
            return Delivery(_unpublished(outputs, finished), _failure(output, error))
        finished.append(output.name)
        mark = _location_path(upload.upload.record)
        await asyncio.to_thread(mark.unlink, missing_ok=True)
    try:
        return await publish()
    except (WesemuError, OSError) as error:  # the objects stay, so the run must list them
        return Delivery(_unpublished(outputs, finished), _local_failure(error))


def _unpublished(
    outputs: Sequence[OutputFile], finished: Collection[str]
) -> tuple[OutputFile, ...]:
    """Return `outputs`, of which only `finished` were published."""
    return tuple(
        each if each.name in finished else replace(each, published=None) for each in outputs
    )


def _remote_names(publications: Iterable[Publication]) -> set[str]:
    """Return the names of results for remote buckets.

    The run's plan decides: the settings may have changed since.
    """
    return {each.name for each in publications if each.url is not None and each.destination is None}


_HINT = (
    "nothing is lost: all results are in the run's outputs; correct the problem and fetch them "
    "from there, or send the request again"
)


def _failure(output: OutputFile, error: Exception) -> RunFailure:
    return RunFailure(
        message=f"the result {output.name} was not sent to {output.published}: {error}",
        hint=_HINT,
        file=output.published,
    )


def _local_failure(error: Exception) -> RunFailure:
    reason = os_reason(error) if isinstance(error, OSError) else str(error)
    return RunFailure(
        message=f"the results for the buckets of this server were not published: {reason}",
        hint=_HINT,
    )


def _record_path(workspace: Workspace, location: str) -> Path:
    return workspace.root / "uploads" / f"{source_hash(location)[:16]}.json"


def _location_path(record: Path) -> Path:
    return record.with_suffix(".location")


def _save_location(record: Path, location: str) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    _location_path(record).write_text(location, encoding="utf-8")


def _unfinished_uploads(workspace: Workspace) -> list[tuple[Path, str]]:
    """Return the records of unfinished uploads with their locations."""
    uploads = []
    for location in (workspace.root / "uploads").glob("*.location"):
        record = location.with_suffix(".json")
        if record.is_file():
            uploads.append((record, location.read_text(encoding="utf-8")))
    return uploads


# Names of results and the locations where callers want them.

_VCF_GZ = "results/calls.vcf.gz"
_VCF = "results/calls.vcf"
_GVCF_NAMES = (".gvcf", ".g.vcf", ".gvcf.gz", ".g.vcf.gz", ".vcf.gz")
_REPORTS = {"multiqc": "results/multiqc.html", "snakemake": "results/report.html"}


class Publications:
    """Maps parameters to publications. Errors carry the parameter's name."""

    def __init__(self, buckets: Buckets, locations: Locations) -> None:
        self._buckets = buckets
        self._locations = locations

    def of(self, params: MappingParams, *, is_short: bool = True) -> tuple[Publication, ...]:
        """Return the publications of a run.

        `is_short` means that all contigs fit into BAI and TBI. Otherwise each index is BAI or TBI
        or CSI, whichever the run writes. Raise InvalidRequest, BucketNotFound.
        """
        publications: list[Publication] = []
        if isinstance(params, WgsParams):
            publications += self._variants(params, () if is_short else (".csi",))
        if params.bam or not isinstance(params, WgsParams):
            publications += self._alignment(params, () if is_short else (".csi",))
        return (
            *publications,
            Publication("summary", "results/summary.json", optional=True),
            Publication("flagstat", "results/flagstat.json"),
            Publication("stats", "results/stats.txt"),
            Publication("reads", "results/reads.json"),
            Publication("markdup", "results/markdup.json", optional=True),
            *(Publication(f"{name}_report", _REPORTS[name]) for name in params.chosen_reports),
        )

    def _alignment(self, params: MappingParams, csi: tuple[str, ...]) -> list[Publication]:
        result = f"results/{params.alignment}"
        indexes = (".crai",) if result.endswith(".cram") else (".bai", *csi)
        return self._with_index("bam", params.bam, (".bam", ".cram"), result, indexes)

    def _variants(self, params: WgsParams, csi: tuple[str, ...]) -> list[Publication]:
        publications = [Publication("variants", "results/variants.txt")]
        indexes = (".tbi", *csi)
        if params.gvcf_file is not None:
            gvcf = f"results/{params.gvcf_file}"
            kept = indexes if gvcf.endswith(".gz") else ()
            publications += self._with_index("gvcf", params.gvcf, _GVCF_NAMES, gvcf, kept)
        either = (".vcf.gz", ".vcf")
        if params.is_plain:
            return [*self._with_index("vcf", params.vcf, either, _VCF, ()), *publications]
        return [*self._with_index("vcf", params.vcf, either, _VCF_GZ, indexes), *publications]

    def _with_index(
        self,
        name: str,
        url: str | None,
        suffixes: tuple[str, ...],
        path: str,
        indexes: tuple[str, ...],
    ) -> list[Publication]:
        """Return the publications of a result and its index; several indexes are optional
        alternatives.
        """
        if url is not None and not url.lower().endswith(suffixes):
            raise InvalidRequest(f"{url[:80]!r} must end with {' or '.join(suffixes)}", field=name)
        publications = [self._publication(name, path, url)]
        for suffix in indexes:
            index_url = None if url is None else url + suffix
            index = self._publication(f"{name}_index", path + suffix, index_url)
            publications.append(replace(index, optional=len(indexes) > 1))
        return publications

    def _publication(self, name: str, path: str, url: str | None) -> Publication:
        if url is None:
            return Publication(name, path)
        field = name.removesuffix("_index")
        match self._locations.parse(url, field=field):
            case RemoteKey(sha256=None) as remote:
                if url.endswith("/"):
                    raise InvalidRequest(f"{url} is a folder; name the file to write", field=field)
                return Publication(name, path, None, remote.display_name)
            case RemoteKey() | WebFile():
                raise InvalidRequest(
                    f"{redacted_url(url)}: results go to buckets; write oss://<bucket>/<key>",
                    field=field,
                )
        return Publication(name, path, self._buckets.target(url, field=field), url)
