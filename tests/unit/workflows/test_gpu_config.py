"""GPU settings in the configuration of a bundled pipeline: only on a CUDA node."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from support.scripted import START, fill_bucket

from wesemu.errors import InvalidRequest
from wesemu.genomics import tools
from wesemu.genomics.reference import ReferenceStore
from wesemu.runs.model import LOCAL_OWNER, JsonObject, Resources, Run, RunId, RunRequest, RunState
from wesemu.runs.run_directory import Workspace
from wesemu.storage.buckets import Buckets
from wesemu.workflows import results
from wesemu.workflows.bundled import BundledPipelines, ToolConfig
from wesemu.workflows.inputs import Inputs, ReferenceIndexer
from wesemu.workflows.placement import NodeOffer

READS = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
KEYS = {"accelerator", "gpus", "gpu_memory_mb", "gpu_driver"}
OFFER = NodeOffer(Resources(cores=2, gpus=2), gpu_memory_mb=24_000, gpu_driver="580.1")


async def config_of(
    folder: Path,
    parameters: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    able: bool,
    pbrun: bool = True,
) -> JsonObject:
    """The configuration that `mapping` gets, its schema with an accelerator if it is `able`, and a
    program `pbrun` on PATH."""
    schema = folder / "pipelines" / "mapping" / "workflow" / "schemas" / "config.schema.yaml"
    properties = {"accelerator": {"enum": ["cpu", "cuda"]}} if able else {}

    def lay_out() -> None:
        schema.parent.mkdir(parents=True)
        schema.write_text(yaml.safe_dump({"properties": properties}))
        fill_bucket(folder)
        (folder / "run").mkdir()
        if pbrun:
            (folder / "pbrun").touch(mode=0o755)

    await asyncio.to_thread(lay_out)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    buckets = Buckets(folder / "buckets")
    references = ReferenceStore(folder / "references", folder / "cache")
    indexer = ReferenceIndexer(references)
    bundled = BundledPipelines(
        folder / "pipelines",
        Inputs(buckets, references),
        buckets,
        indexer,
        OFFER,
        tools=ToolConfig({"runtime": "native"}),
    )
    params: JsonObject = {"reads": [dict(READS)], "reference": "oss://genes/reference/tiny"}
    request = RunRequest("mapping", params=params, engine_parameters=parameters)
    try:
        plan = await bundled.plan("snakemake", request, None)
        run = Run(
            id=RunId("run"),
            sequence=1,
            handle="abcde",
            owner=LOCAL_OWNER,
            state=RunState.INITIALIZING,
            workflow="mapping",
            service_level=plan.service_level,
            request=request,
            resources=plan.resources,
            created=START,
            placement=plan.placement,
        )
        job = await bundled.prepare(run, Workspace(folder / "run"), lambda tags: None)
    finally:
        await indexer.close()
    assert job.engine_parameters == {}
    return {name: value for name, value in job.config.items() if name in KEYS}


@pytest.mark.parametrize("parameters", [{"node": "cuda", "gpus": "2"}, {"gpus": "2"}])
async def test_on_cuda_it_gets_the_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, str]
) -> None:
    assert await config_of(tmp_path, parameters, monkeypatch, able=True) == {
        "accelerator": "cuda",
        "gpus": 2,
        "gpu_memory_mb": 24_000,
        "gpu_driver": "580.1",
    }


async def test_auto_means_cuda_for_a_pipeline_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await config_of(tmp_path, {}, monkeypatch, able=True)
    assert told["accelerator"] == "cuda"


@pytest.mark.parametrize(
    ("parameters", "able"), [({"node": "cpu"}, True), ({"node": "cuda"}, False), ({}, False)]
)
async def test_nothing_is_written_where_it_would_mean_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, str], able: bool
) -> None:
    assert await config_of(tmp_path, parameters, monkeypatch, able=able) == {}


@pytest.mark.parametrize("parameters", [{}, {"node": "cuda"}])
async def test_without_parabricks_the_cpu_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, str]
) -> None:
    assert await config_of(tmp_path, parameters, monkeypatch, able=True, pbrun=False) == {}


async def test_a_gpu_needs_no_mapper_for_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tools.wheel_version
    for module in (tools, results):
        monkeypatch.setattr(
            module, "wheel_version", lambda name: None if name == "bwa mem" else known(name)
        )
    monkeypatch.setattr(tools, "bwa_mem3_fault", lambda: "bwa-mem3 needs a CPU with AVX2")
    monkeypatch.setenv("PATH", "/nowhere")
    told = await config_of(tmp_path / "gpu", {"node": "cuda"}, monkeypatch, able=True)
    assert told["accelerator"] == "cuda"
    [index] = tmp_path.glob("gpu/cache/references/*/genome.fa.*bwt*")
    assert index.name == "genome.fa.bwt", "fq2bam's"
    with pytest.raises(InvalidRequest, match=r"with AVX2\. Install bwa") as caught:
        await config_of(tmp_path / "cpu", {"node": "cpu"}, monkeypatch, able=True)
    assert caught.value.field == "mapper"
