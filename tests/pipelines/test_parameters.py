"""Parameters reach the workflow; its warnings and versions reach the run."""

import asyncio
import json
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wesemu.errors import InvalidRequest, NotFound
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.reports import NEEDS
from wesemu.runs.model import Resources, RunRequest
from wesemu.runs.ports import Plan
from wesemu.runs.run_directory import Workspace
from wesemu.storage.buckets import Buckets
from wesemu.workflows.bundled import BundledPipelines
from wesemu.workflows.inputs import Inputs, ReferenceIndexer
from wesemu.workflows.placement import NodeOffer

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
LANE = {"first": "oss://genes/a.fq", "second": "oss://genes/b.fq"}
GOOD: dict[str, Any] = {"reads": [LANE], "reference": "oss://genes/genome.fa"}


@dataclass
class Server:
    """What `BundledPipelines` makes of a request."""

    bundled: BundledPipelines

    def plan(self, workflow: str, params: dict[str, Any]) -> Plan:
        request = RunRequest(workflow_url=workflow, params=GOOD | params)
        return asyncio.run(self.bundled.plan("snakemake", request, None))

    def results(self, plan: Plan) -> dict[str, str]:
        return {each.name: each.result for each in plan.publications or ()}


@pytest.fixture
def server(tmp_path: Path) -> Server:
    bucket = tmp_path / "buckets" / "genes"
    bucket.mkdir(parents=True)
    for name in ("a.fq", "b.fq", "genome.fa"):
        (bucket / name).write_text(name)
    (bucket / "empty.bed").touch()
    (bucket / "kit.bed").write_text("c1\t1\t9\n")
    (bucket / "sexes.txt").write_text("c1 1 9 M 1\nc1 1 9 F 2\n")
    buckets = Buckets(tmp_path / "buckets")
    references = ReferenceStore(tmp_path / "references", tmp_path / "cache")
    bundled = BundledPipelines(
        PIPELINES,
        Inputs(buckets, references),
        buckets,
        ReferenceIndexer(references),
        NodeOffer(Resources(cores=2, memory_mb=4096)),
    )
    return Server(bundled)


def test_the_names_asked_for_choose_the_formats(server: Server) -> None:
    plan = server.plan(
        "wgs",
        {
            "bam": "oss://genes/out/a.cram",
            "vcf": "oss://genes/out/a.vcf",
            "gvcf": "oss://genes/out/a.g.vcf.gz",
        },
    )
    results = server.results(plan)
    assert results["bam"] == "results/aligned.cram"
    assert results["bam_index"] == "results/aligned.cram.crai"
    assert results["vcf"] == "results/calls.vcf"
    assert results["gvcf"] == "results/calls.g.vcf.gz"
    urls = {each.name: each.url for each in plan.publications or ()}
    assert urls["bam_index"] == "oss://genes/out/a.cram.crai"
    assert urls["gvcf_index"] == "oss://genes/out/a.g.vcf.gz.tbi"


def test_a_failure_is_described_although_an_input_is_gone(server: Server, tmp_path: Path) -> None:
    bucket, workspace = tmp_path / "buckets" / "genes", Workspace(tmp_path / "runs" / "1")
    workspace.work.mkdir(parents=True)
    fault = {"message": f"{bucket}/b.fq and {bucket}/genome.fa are bad", "file": f"{bucket}/b.fq"}
    (workspace.work / "input_error.json").write_text(json.dumps(fault))
    (bucket / "a.fq").unlink()
    run: Any = SimpleNamespace(request=RunRequest(workflow_url="mapping", params=GOOD))
    failure = asyncio.run(server.bundled.describe_failure(run, workspace))
    assert failure is not None
    assert (failure.message, failure.file) == ("b.fq and oss://genes/genome.fa are bad", "b.fq")


def test_the_index_of_long_contigs_is_csi(server: Server, tmp_path: Path) -> None:
    with (tmp_path / "buckets" / "genes" / "genome.fa").open("wb") as file:
        file.truncate(1 << 30)
    wanted = {"bam": "oss://genes/o.bam", "vcf": "oss://genes/o.vcf.gz"}
    plan = server.plan("wgs", wanted)
    indexes = [(each.name, each.url) for each in plan.publications or () if "index" in each.name]
    assert sorted(indexes) == [
        ("bam_index", "oss://genes/o.bam.bai"),
        ("bam_index", "oss://genes/o.bam.csi"),
        ("vcf_index", "oss://genes/o.vcf.gz.csi"),
        ("vcf_index", "oss://genes/o.vcf.gz.tbi"),
    ]
    assert all(each.optional for each in plan.publications or () if "index" in each.name)


@pytest.mark.parametrize(
    ("name", "result", "index"),
    [
        ("a.gvcf", "results/calls.g.vcf", None),
        ("a.g.vcf", "results/calls.g.vcf", None),
        ("a.gvcf.gz", "results/calls.g.vcf.gz", "oss://genes/a.gvcf.gz.tbi"),
        ("A.G.VCF.GZ", "results/calls.g.vcf.gz", "oss://genes/A.G.VCF.GZ.tbi"),
        ("a.vcf.gz", "results/calls.g.vcf.gz", "oss://genes/a.vcf.gz.tbi"),
    ],
)
def test_a_gvcf_needs_no_vcf_and_is_plain_or_indexed_by_its_name(
    server: Server, name: str, result: str, index: str | None
) -> None:
    plan = server.plan("wgs", {"gvcf": f"oss://genes/{name}"})
    assert server.results(plan)["gvcf"] == result
    urls = {each.name: each.url for each in plan.publications or ()}
    assert urls["gvcf"] == f"oss://genes/{name}"
    assert urls.get("gvcf_index") == index
    assert urls["vcf"] is None


def test_targets_of_another_assembly_are_refused_at_once_where_the_contigs_are_known(
    server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "buckets" / "genes"
    (folder / "genome.fa.fai").write_text("chr1\t24\t6\t24\t25\n")
    with pytest.raises(InvalidRequest, match="no contig 'c1'") as caught:
        server.plan("wgs", {"targets": "oss://genes/kit.bed"})
    assert caught.value.field == "targets"
    assert "oss://genes/kit.bed, line 1" in caught.value.message
    (folder / "genome.fa.fai").write_text("c1\t24\t6\t24\t25\n")
    server.plan("wgs", {"targets": "oss://genes/kit.bed"})


def test_interleaved_reads_are_one_file(server: Server) -> None:
    lane = {"first": LANE["first"], "interleaved": True}
    assert server.plan("mapping", {"reads": [lane]}).input_bytes == len("a.fq")


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"reads": [{"first": LANE["first"]}]}, "reads.0"),
        ({"reads": [LANE | {"interleaved": True}]}, "reads.0"),
        ({"reads": [{"first": "oss://genes/", "interleaved": True}]}, "reads.0.first"),
        ({"quality_offset": 59}, "quality_offset"),
        ({"optical_distance": -1}, "optical_distance"),
        ({"mapper": "bowtie"}, "mapper"),
        ({"caller": "strelka"}, "caller"),
        ({"caller": "freebayes", "gvcf": "oss://genes/a.g.vcf.gz"}, "workflow_params"),
        ({"gvcf": "oss://genes/a.bcf"}, "gvcf"),
        ({"ploidy": 0}, "ploidy"),
        ({"ploidy": True}, "ploidy"),
        ({"ploidy": 1.5}, "ploidy"),
        ({"ploidy": 3}, "ploidy"),
        ({"ploidy": "1", "caller": "deepvariant"}, "ploidy"),
        ({"ploidy": "oss://genes/none.txt"}, "ploidy"),
        ({"ploidy": "oss://genes/sexes.txt"}, "ploidy"),
        ({"ploidy": "oss://genes/sexes.txt", "sex": "X"}, "ploidy"),
        ({"ploidy": 2, "sex": "M"}, "sex"),
        ({"targets": "oss://genes/none.bed"}, "targets"),
        ({"targets": "oss://genes/empty.bed"}, "targets"),
        ({"targets": "kit.bed"}, "targets"),
        ({"targets": "oss://genes/"}, "targets"),
        ({"targets": "oss://genes/kit.bed", "vcf": "oss://genes/kit.bed"}, "vcf"),
        ({"cram_version": "2.1"}, "cram_version"),
        ({"bam": "oss://genes/a.sam"}, "bam"),
        ({"reports": ["fastqc"]}, "reports.0"),
    ],
)
def test_what_cannot_be_is_refused_at_once(server: Server, params, field) -> None:
    with pytest.raises((InvalidRequest, NotFound)) as caught:
        server.plan("wgs", params)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "tool"),
    [
        ("mapper", "minimap2"),
        ("mapper", "bwa-mem2"),
        ("caller", "freebayes"),
        ("caller", "gatk"),
        ("caller", "deepvariant"),
    ],
)
def test_a_tool_that_is_not_installed_is_reported_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, field: str, tool: str
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InvalidRequest, match=f"{tool} is not installed") as caught:
        server.plan("wgs", {field: tool})
    assert caught.value.field == field


def test_reports_are_outputs_if_they_are_asked_for(server: Server) -> None:
    if missing := [package for package in NEEDS.values() if find_spec(package) is None]:
        pytest.skip(f"the extra `reports` is not installed: {missing}")
    assert not any("report" in name for name in server.results(server.plan("wgs", {})))
    results = server.results(server.plan("mapping", {"reports": ["snakemake", "multiqc"]}))
    assert results["multiqc_report"] == "results/multiqc.html"
    assert results["snakemake_report"] == "results/report.html"


def test_a_report_that_cannot_be_made_is_refused_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "multiqc", None)
    with pytest.raises(InvalidRequest, match=r"wesemu\[reports\]") as caught:
        server.plan("mapping", {"reports": ["multiqc"]})
    assert caught.value.field == "reports"


def test_warnings_and_versions_become_tags(server: Server, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "run")
    results = workspace.work / "results"
    results.mkdir(parents=True)
    (results / "reads.json").write_text('{"total_reads": 2, "total_bases": 300}')
    summary = {"tools": {"bwa": "0.7.17"}, "warnings": ["Few map.", "No variant was called."]}
    (results / "summary.json").write_text(json.dumps(summary))
    told = asyncio.run(server.bundled.results(workspace))
    assert told.tools == {"bwa": "0.7.17"}
    assert told.tags == {"wesemu.warnings": "Few map. No variant was called."}
