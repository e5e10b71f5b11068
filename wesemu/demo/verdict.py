"""What came out, held against the truth."""

import hashlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from wesemu.demo.orders import BUCKET, Done, Order, of
from wesemu.genomics.compare import Comparison, Score, compare
from wesemu.genomics.simulate import Fixture
from wesemu.genomics.tools import resolve
from wesemu.runs.model import RunState
from wesemu.sla import ServiceLevel, promise

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


def examine(
    data: Path, fixture: Fixture, done: Sequence[Done], *, exact: bool = True
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
        yield _service_level(fixture, workflow, of(done, "ags", workflow))
    yield from _alignment(fixture, bucket / Order("ags", "mapping").key("bam"), exact=exact)
    calls = bucket / Order("ags", "wgs").key("vcf.gz")
    yield from _variants(compare(fixture.truth, calls, fixture.reference))
    for workflow, files in _FILES:
        for file in files:
            yield _identical(bucket, workflow, file, exact=exact)


def _ended(each: Done) -> Check:
    ok = each.run.state is RunState.COMPLETE and each.job.status == "Succeeded"
    told = f"{each.run.state}, {each.job.status} ({each.job.name})"
    return Check(each.order.name, ok, told if ok else f"{told}: {each.run.error}")


def _counts(fixture: Fixture, both: Sequence[Done]) -> Check:
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


def _service_level(fixture: Fixture, workflow: str, each: Done) -> Check:
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
    paths = [bucket / Order(api, workflow).key(file) for api in ("ags", "wes")]
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
