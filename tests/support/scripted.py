"""The scripted engine that stands in for Snakemake, and a bucket with small files."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wesemu.runs.clock import ManualClock
from wesemu.runs.ports import LaunchRequest
from wesemu.testing.fake_engine import Script, ScriptedEngine, own_script

START = datetime(2020, 1, 15, 8, 30, 25, tzinfo=UTC)
READS = {"total_reads": 4000, "total_bases": 600_000}
REFERENCE = ">chr1\nACGTACGTACGTACGTACGTACGT\n"


def scripted_engine(clock: ManualClock) -> ScriptedEngine:
    """Return an engine in place of Snakemake, which writes tiny results of the bundled pipelines.

    A sample with a name `wait-…` waits for `engine.release("wait-…")`; the sample `fail` fails.
    """
    return ScriptedEngine(
        clock, name="snakemake", script=script_of, workflow_types={"SMK": ("9.27.1",)}
    )


def script_of(job: LaunchRequest) -> Script:
    pipeline = job.workflow_file.parents[1].name
    if pipeline not in ("mapping", "wgs"):
        return own_script(job)
    sample = str(job.config["sample"])
    steps: list[Mapping[str, Any]] = []
    if sample.startswith("wait"):
        steps.append({"wait": sample})
    steps.append({"task": "align", "exit_code": 1 if sample == "fail" else 0})
    results = {
        "aligned.bam": "BAM",
        "aligned.bam.bai": "BAI",
        "reads.json": json.dumps(READS),
        "flagstat.json": "{}",
        "stats.txt": "SN\n",
    }
    if pipeline == "wgs":
        results |= {"variants.txt": "SN\n", str(job.config["vcf"]): "VCF"}
        results |= {"calls.vcf.gz.tbi": "TBI"} if job.config["vcf"] == "calls.vcf.gz" else {}
        if gvcf := job.config["gvcf"]:
            results |= {str(gvcf): "gVCF"}
            results |= {f"{gvcf}.tbi": "TBI"} if str(gvcf).endswith(".gz") else {}
    steps += [{"write": f"results/{name}", "text": text} for name, text in results.items()]
    return steps


def fill_bucket(data: Path, bucket: str = "genes") -> Path:
    """Create a bucket with `fastq/a_1.fq.gz`, `fastq/a_2.fq.gz` and `reference/tiny/genome.fa`."""
    folder = data / "buckets" / bucket
    (folder / "fastq").mkdir(parents=True)
    (folder / "fastq" / "a_1.fq.gz").write_bytes(b"one")
    (folder / "fastq" / "a_2.fq.gz").write_bytes(b"two")
    (folder / "reference" / "tiny").mkdir(parents=True)
    (folder / "reference" / "tiny" / "genome.fa").write_text(REFERENCE)
    return folder
