"""What came out, held against the truth."""

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from wesemu.client import Client, JobDetail, RunDetail
from wesemu.genomics.compare import Comparison, Score, compare
from wesemu.genomics.simulate.fixture import Fixture
from wesemu.genomics.tools import resolve
from wesemu.runs.model import JsonObject, RunState
from wesemu.runs.service_levels import ServiceLevel, promise


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """One run: by which `api` ("ags", "wes") and of which `workflow`. Results go to a folder of
    the bucket that is called as the API."""

    api: str
    workflow: str

    @property
    def name(self) -> str:
        return f"{self.api.upper()} {self.workflow}"

    def key(self, file: str) -> str:
        """Of a result in the bucket: "ags/mapping.bam"."""
        return f"{self.api}/{self.workflow}.{file}"


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """An order carried out, as both APIs tell of it."""

    order: DemoRequest
    job: JobDetail
    run: RunDetail


MAPPED_AT_LEAST = 0.99
SNP_F1_AT_LEAST = 0.99
INDEL_F1_AT_LEAST = 0.95
DUPLICATES_WITHIN = 0.02
"""What Parabricks, which marks as Picard does, may mark more or less than was simulated."""

_FILES = (("mapping", ("bam", "bam.bai")), ("wgs", ("bam", "bam.bai", "vcf.gz", "vcf.gz.tbi")))


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be so; `told` is what was found."""

    name: str
    ok: bool
    told: str


@dataclass(frozen=True, slots=True)
class Flagstat:
    """Of one BAM: `line` as `samtools flagstat` prints it for the mapped reads."""

    line: str
    mapped: float
    reads: int
    duplicates: int


def run_checks(
    data: Path, fixture: Fixture, done: Sequence[FinishedRequest], *, exact: bool = True
) -> Iterator[Check]:
    """Every check, in the order in which a person reads them. Blocks for about a second.

    Not `exact`: files of both APIs are compared by their records, since Parabricks writes its
    paths into headers, and duplicates within DUPLICATES_WITHIN.
    """
    ended = [_ended(each) for each in done]
    yield from ended
    if not all(check.ok for check in ended):
        return
    bucket = data / "buckets" / BUCKET
    for workflow in ("mapping", "wgs"):
        yield _counts(fixture, [each for each in done if each.order.workflow == workflow])
        yield _service_level(fixture, workflow, requests_of(done, "ags", workflow))
    yield from _alignment(fixture, bucket / DemoRequest("ags", "mapping").key("bam"), exact=exact)
    calls = bucket / DemoRequest("ags", "wgs").key("vcf.gz")
    yield from _variants(compare(fixture.truth, calls, fixture.reference))
    for workflow, files in _FILES:
        for file in files:
            yield _identical(bucket, workflow, file, exact=exact)


def _ended(each: FinishedRequest) -> Check:
    ok = each.run.state is RunState.COMPLETE and each.job.status == "Succeeded"
    told = f"{each.run.state}, {each.job.status} ({each.job.name})"
    return Check(each.order.name, ok, told if ok else f"{told}: {each.run.error}")


def _counts(fixture: Fixture, both: Sequence[FinishedRequest]) -> Check:
    """AGS's answer and WES's tags, of the runs that came by either API."""
    truth = (fixture.summary.reads, fixture.summary.bases)
    found = {(each.job.total_reads, each.job.total_bases) for each in both}
    found |= {
        (int(each.run.tags["wesemu.total_reads"]), int(each.run.tags["wesemu.total_bases"]))
        for each in both
    }
    told = " and ".join(f"{reads:,} reads, {bases:,} bases" for reads, bases in sorted(found))
    told += f"; simulated {truth[0]:,} and {truth[1]:,}"
    return Check(f"{both[0].order.workflow} counts", found == {truth}, told)


def _service_level(fixture: Fixture, workflow: str, each: FinishedRequest) -> Check:
    promised = promise(ServiceLevel.SILVER, workflow, fixture.summary.bases)
    minutes, price = each.job.sla_minutes or "0", each.job.sla_price_cny or "0"
    ok = Decimal(minutes) == round(float(promised.minutes), 3) and Decimal(price) == promised.price
    met = {"true": "met", "false": "missed"}.get(each.job.sla_met or "", "not told")
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
    """Counted anew by samtools, whatever the pipeline says of itself. Raises OSError."""
    command = [*resolve().samtools.command, "flagstat", "-O", "json", str(bam)]
    counts = json.loads(_answer(command))["QC-passed reads"]
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
    told = (
        f"precision {score.precision:.4f}  recall {score.recall:.4f}  F1 {score.f1:.4f}; "
        f"{score.tp} of {score.tp + score.fn} found, {score.fp} false"
    )
    return Check(name, score.f1 >= least, told)


def _identical(bucket: Path, workflow: str, file: str, *, exact: bool) -> Check:
    paths = [bucket / DemoRequest(api, workflow).key(file) for api in ("ags", "wes")]
    read = Path.read_bytes if exact else _records
    digests = {hashlib.sha256(read(path)).hexdigest() for path in paths}
    what = "sha256" if exact else "records' sha256"
    told = f"AGS and WES: {what} {digests.copy().pop()[:16]}…" if len(digests) == 1 else "differ"
    return Check(f"{workflow}.{file}", len(digests) == 1, told)


def _records(path: Path) -> bytes:
    """Without headers; of an index what it tells of the file beside it. Raises OSError."""
    tools, told = resolve(), str(path.with_suffix(""))
    commands = {
        ".bam": [*tools.samtools.command, "view", str(path)],
        ".bai": [*tools.samtools.command, "idxstats", told],
        ".gz": [*tools.bcftools.command, "view", "-H", str(path)],
        ".tbi": [*tools.bcftools.command, "index", "--stats", told],
    }
    return _answer(commands[path.suffix])


def _answer(command: Sequence[str]) -> bytes:
    """Raises OSError with the program's words."""
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").strip() or f"{command[0]} failed")
    return done.stdout


BUCKET = "demo"
REFERENCE = "demo"


Show = Callable[[str, RunState, int, int], None]
"""Is told a run's name, its state, its tasks that have ended, and all of them."""


ORDERS = tuple(
    DemoRequest(api, workflow) for workflow in ("mapping", "wgs") for api in ("ags", "wes")
)


async def carry_out(client: Client, show: Show, *, cuda: bool = False) -> list[FinishedRequest]:
    """Send all four at once, perhaps for the `cuda` node, and wait for their ends, good or bad.

    Raises ClientError.
    """
    for order in ORDERS:  # so that they are shown in this order
        show(order.name, RunState.QUEUED, 0, 0)
    tasks = [
        asyncio.create_task(_carry_out(client, order, show, cuda), name=order.name)
        for order in ORDERS
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _carry_out(client: Client, order: DemoRequest, show: Show, cuda: bool) -> FinishedRequest:
    send = _by_ags if order.api == "ags" else _by_wes
    run_id = await send(client, order, cuda)
    async for run in client.wes.follow(run_id):
        show(order.name, run.state, run.tasks_done, len(run.tasks))
    job = await client.ags.job(f"{order.workflow}-gpu-{run.handle}")
    return FinishedRequest(order, job, run)


async def _by_ags(client: Client, order: DemoRequest, cuda: bool) -> str:
    place = {"wesemu_node": "cuda"} if cuda else {}
    name = await client.ags.start(_ags_fields(order) | place)
    handle = name.rpartition("-")[2]
    return next(run.id for run in await client.wes.runs() if run.handle == handle)


def _ags_fields(order: DemoRequest) -> dict[str, str]:
    """`mapping` as the API reference's table has it, `wgs` as the `ags` command line sends it."""
    if order.workflow == "mapping":
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
            "mapping_bam_out_path": order.api,
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
        "wgs_vcf_file_name": order.key("vcf.gz"),
        "wgs_bam_file_name": order.key("bam"),
    }


async def _by_wes(client: Client, order: DemoRequest, cuda: bool) -> str:
    params: JsonObject = {
        "reads": [
            {"first": f"oss://{BUCKET}/reads_1.fq.gz", "second": f"oss://{BUCKET}/reads_2.fq.gz"}
        ],
        "reference": REFERENCE,
        "bam": f"oss://{BUCKET}/{order.key('bam')}",
    }
    if order.workflow == "wgs":
        params["vcf"] = f"oss://{BUCKET}/{order.key('vcf.gz')}"
    return await client.wes.submit(
        order.workflow,
        params,
        tags={"project": "wesemu demo"},
        engine_parameters={"node": "cuda"} if cuda else {},
    )


def requests_of(done: Sequence[FinishedRequest], api: str, workflow: str) -> FinishedRequest:
    """The one of `done` that was ordered so."""
    return next(each for each in done if each.order == DemoRequest(api, workflow))
