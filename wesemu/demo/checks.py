"""The requests of the demo and the checks of their results against the truth."""

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from wesemu.client import AsyncClient, JobDetail, RunDetail
from wesemu.genomics.compare import Comparison, Score, compare
from wesemu.genomics.simulate.fixture import Fixture
from wesemu.genomics.tools import resolve
from wesemu.runs.model import JsonObject, RunState
from wesemu.runs.sla import ServiceLevel, promise

# --- the four requests ---

BUCKET = "demo"
REFERENCE = "demo"

ShowProgress = Callable[[str, RunState, int, int], None]
"""Called with the name and state of a run, the number of ended tasks and of all tasks."""


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """One run of `workflow` through `api` ("ags" or "wes").

    The results are written to a folder of the bucket: `ags/` or `wes/`.
    """

    api: str
    workflow: str

    @property
    def name(self) -> str:
        return f"{self.api.upper()} {self.workflow}"

    def key(self, file: str) -> str:
        """Return the key of a result in the bucket, such as "ags/mapping.bam"."""
        return f"{self.api}/{self.workflow}.{file}"


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request whose run has ended: `job` from the AGS API, `run` from the WES API."""

    request: DemoRequest
    job: JobDetail
    run: RunDetail


REQUESTS = tuple(
    DemoRequest(api, workflow) for workflow in ("mapping", "wgs") for api in ("ags", "wes")
)


async def run_requests(
    client: AsyncClient, show: ShowProgress, *, cuda: bool = False
) -> list[FinishedRequest]:
    """Submit all requests at once, for the node `cuda` if set, and wait until the runs end.

    Raise ClientError.
    """
    for request in REQUESTS:  # fixes the request of the rows
        show(request.name, RunState.QUEUED, 0, 0)
    tasks = [
        asyncio.create_task(_run_request(client, request, show, cuda), name=request.name)
        for request in REQUESTS
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _run_request(
    client: AsyncClient, request: DemoRequest, show: ShowProgress, cuda: bool
) -> FinishedRequest:
    send = _submit_ags if request.api == "ags" else _submit_wes
    run_id = await send(client, request, cuda)
    async for run in client.wes.follow(run_id):
        show(request.name, run.state, run.tasks_done, run.tasks_total)
    job = await client.ags.job(f"{request.workflow}-gpu-{run.handle}")
    return FinishedRequest(request, job, run)


async def _submit_ags(client: AsyncClient, request: DemoRequest, cuda: bool) -> str:
    place = {"wesemu_node": "cuda"} if cuda else {}
    name = await client.ags.start(_ags_fields(request) | place)
    handle = name.rpartition("-")[2]
    return next(run.id for run in await client.wes.runs() if run.handle == handle)


def _ags_fields(request: DemoRequest) -> dict[str, str]:
    """Return the fields of StartWorkflow.

    `mapping` has the fields of the API reference, `wgs` those of the `ags` command line.
    """
    if request.workflow == "mapping":
        return {
            "workflow_type": "mapping",
            "service": "s",
            "mapping_oss_region": "cn-shenzhen",
            "mapping_bucket_name": BUCKET,
            "mapping_fastq_path": "",
            "mapping_fastq_first_filename": "reads_1.fq.gz",
            "mapping_fastq_second_filename": "reads_2.fq.gz",
            "mapping_reference_path": f"reference/{REFERENCE}",
            "mapping_is_mark_dup": "true",
            "mapping_bam_out_path": request.api,
            "mapping_bam_out_filename": "mapping.bam",
        }
    return {
        "workflow_type": "WGS",
        "wgs_service": "s",
        "wgs_oss_region": "cn-shenzhen",
        "wgs_bucket_name": BUCKET,
        "wgs_fastq_first_name": "reads_1.fq.gz",
        "wgs_fastq_second_name": "reads_2.fq.gz",
        "wgs_reference_file": f"reference/{REFERENCE}",
        "wgs_vcf_file_name": request.key("vcf.gz"),
        "wgs_bam_file_name": request.key("bam"),
    }


async def _submit_wes(client: AsyncClient, request: DemoRequest, cuda: bool) -> str:
    params: JsonObject = {
        "reads": [
            {"first": f"oss://{BUCKET}/reads_1.fq.gz", "second": f"oss://{BUCKET}/reads_2.fq.gz"}
        ],
        "reference": REFERENCE,
        "bam": f"oss://{BUCKET}/{request.key('bam')}",
    }
    if request.workflow == "wgs":
        params["vcf"] = f"oss://{BUCKET}/{request.key('vcf.gz')}"
    return await client.wes.submit(
        request.workflow,
        params,
        tags={"project": "wesemu demo"},
        engine_parameters={"node": "cuda"} if cuda else {},
    )


def find_request(done: Sequence[FinishedRequest], api: str, workflow: str) -> FinishedRequest:
    """Return the finished request of `api` and `workflow`."""
    return next(each for each in done if each.request == DemoRequest(api, workflow))


# --- checks ---

MAPPED_AT_LEAST = 0.99
SNP_F1_AT_LEAST = 0.99
INDEL_F1_AT_LEAST = 0.95
DUPLICATES_WITHIN = 0.02
"""Tolerated relative difference for Parabricks, which marks duplicates like Picard."""

_FILES = (("mapping", ("bam", "bam.bai")), ("wgs", ("bam", "bam.bai", "vcf.gz", "vcf.gz.tbi")))


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `detail` describes what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Flagstat:
    """Counts of one BAM. `line` is the line of `samtools flagstat` for the mapped reads.

    `mapped` is a fraction of the primary reads.
    """

    line: str
    mapped: float
    reads: int
    duplicates: int


def run_checks(
    data: Path, fixture: Fixture, done: Sequence[FinishedRequest], *, exact: bool = True
) -> Iterator[Check]:
    """Yield all checks in the order in which to print them. Block for about a second.

    Without `exact`, compare files by their records, because Parabricks writes its paths into
    headers, and tolerate DUPLICATES_WITHIN.
    """
    ended = [_ended(each) for each in done]
    yield from ended
    if not all(check.ok for check in ended):
        return
    bucket = data / "buckets" / BUCKET
    for workflow in ("mapping", "wgs"):
        yield _counts(fixture, [each for each in done if each.request.workflow == workflow])
        yield _service_level(fixture, workflow, find_request(done, "ags", workflow))
    yield from _alignment(fixture, bucket / DemoRequest("ags", "mapping").key("bam"), exact=exact)
    calls = bucket / DemoRequest("ags", "wgs").key("vcf.gz")
    yield from _variants(compare(fixture.truth, calls, fixture.reference))
    for workflow, files in _FILES:
        for file in files:
            yield _identical(bucket, workflow, file, exact=exact)


def _ended(each: FinishedRequest) -> Check:
    ok = each.run.state is RunState.COMPLETE and each.job.status == "Succeeded"
    states = f"{each.run.state}, {each.job.status} ({each.job.name})"
    return Check(each.request.name, ok, states if ok else f"{states}: {each.run.error}")


def _counts(fixture: Fixture, both: Sequence[FinishedRequest]) -> Check:
    """Check the counts in AGS's responses and WES's tags, for the runs of both APIs."""
    truth = (fixture.summary.reads, fixture.summary.bases)
    found = {(each.job.total_reads, each.job.total_bases) for each in both}
    found |= {
        (each.run.figures.total_reads or 0, each.run.figures.total_bases or 0) for each in both
    }
    counts = " and ".join(f"{reads:,} reads, {bases:,} bases" for reads, bases in sorted(found))
    counts += f"; simulated {truth[0]:,} and {truth[1]:,}"
    return Check(f"{both[0].request.workflow} counts", found == {truth}, counts)


def _service_level(fixture: Fixture, workflow: str, each: FinishedRequest) -> Check:
    promised = promise(ServiceLevel.SILVER, workflow, fixture.summary.bases)
    minutes, price = each.job.sla_minutes or "0", each.job.sla_price_cny or "0"
    ok = Decimal(minutes) == round(float(promised.minutes), 3) and Decimal(price) == promised.price
    met = {"true": "met", "false": "missed"}.get(each.job.sla_met or "", "unknown")
    return Check(f"{workflow} SLA", ok, f"silver: {minutes} min ({met}), {price} CNY")


def _alignment(fixture: Fixture, bam: Path, *, exact: bool) -> Iterator[Check]:
    found = flagstat(bam)
    truth = fixture.summary
    ok = found.mapped >= MAPPED_AT_LEAST and found.reads == truth.reads
    yield Check("flagstat", ok, found.line)
    tolerance = 0.0 if exact else DUPLICATES_WITHIN * truth.duplicate_reads
    yield Check(
        "duplicates",
        abs(found.duplicates - truth.duplicate_reads) <= tolerance,
        f"{found.duplicates:,} reads marked; simulated {truth.duplicate_reads:,}",
    )


def flagstat(bam: Path) -> Flagstat:
    """Count the reads with samtools, independently of the pipeline. Raise OSError on failure."""
    command = [*resolve().samtools.command, "flagstat", "-O", "json", str(bam)]
    counts = json.loads(_output_of(command))["QC-passed reads"]
    share = counts["primary mapped"] / max(counts["primary"], 1)
    return Flagstat(
        line=f"{counts['mapped']} + 0 mapped ({counts['mapped %']:.2f}% : N/A)",
        mapped=share,
        reads=counts["primary"],
        duplicates=counts["primary duplicates"],
    )


def _variants(found: Comparison) -> Iterator[Check]:
    yield _score("SNPs", found.snps, SNP_F1_AT_LEAST)
    yield _score("indels", found.indels, INDEL_F1_AT_LEAST)


def _score(name: str, score: Score, least: float) -> Check:
    detail = (
        f"precision {score.precision:.4f}  recall {score.recall:.4f}  F1 {score.f1:.4f}; "
        f"{score.tp} of {score.tp + score.fn} found, {score.fp} false"
    )
    return Check(name, score.f1 >= least, detail)


def _identical(bucket: Path, workflow: str, file: str, *, exact: bool) -> Check:
    paths = [bucket / DemoRequest(api, workflow).key(file) for api in ("ags", "wes")]
    read = Path.read_bytes if exact else _records
    digests = {hashlib.sha256(read(path)).hexdigest() for path in paths}
    what = "sha256" if exact else "records' sha256"
    detail = f"AGS and WES: {what} {digests.copy().pop()[:16]}…" if len(digests) == 1 else "differ"
    return Check(f"{workflow}.{file}", len(digests) == 1, detail)


def _records(path: Path) -> bytes:
    """Return the records without headers, or the statistics of an index. Raise OSError."""
    tools, indexed = resolve(), str(path.with_suffix(""))
    commands = {
        ".bam": [*tools.samtools.command, "view", str(path)],
        ".bai": [*tools.samtools.command, "idxstats", indexed],
        ".gz": [*tools.bcftools.command, "view", "-H", str(path)],
        ".tbi": [*tools.bcftools.command, "index", "--stats", indexed],
    }
    return _output_of(commands[path.suffix])


def _output_of(command: Sequence[str]) -> bytes:
    """Return the stdout of a command. Raise OSError with its stderr if it fails."""
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").strip() or f"{command[0]} failed")
    return done.stdout
