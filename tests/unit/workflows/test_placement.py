"""Placement: node = auto, cpu or cuda, and runs without a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from support.scripted import START

from wesemu.errors import EngineFault, InvalidRequest
from wesemu.runs.model import LOCAL_OWNER, Placement, Resources, Run, RunId, RunRequest, RunState
from wesemu.runs.run_directory import Workspace
from wesemu.runs.sla import ServiceLevel
from wesemu.workflows.bundled import gpu_problem
from wesemu.workflows.placement import (
    NodeOffer,
    acceleration,
    place,
    resources_at_start,
    write_note,
)

CPU_NODE = NodeOffer(Resources(cores=8))
GPU_NODE = NodeOffer(Resources(cores=8, gpus=4), gpu_memory_mb=16_000, gpu_driver="580.1")
UNABLE = "the pipeline cannot"
PIPELINES = Path(__file__).resolve().parents[3] / "pipelines"


def a_run(placed: tuple[Placement, Resources], **parameters: str) -> Run:
    placement, resources = placed
    return Run(
        id=RunId("1"),
        sequence=1,
        handle="abcde",
        owner=LOCAL_OWNER,
        state=RunState.QUEUED,
        workflow="mapping",
        service_level=ServiceLevel.SILVER,
        request=RunRequest("mapping", engine_parameters=parameters),
        resources=resources,
        created=START,
        placement=placement,
    )


def refused(offer: NodeOffer = GPU_NODE, **parameters: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        place(parameters, offer)
    return caught.value


def test_auto_takes_gpus_where_there_are_some_and_the_workflow_can_use_them() -> None:
    placement, resources = place({}, GPU_NODE)
    assert resources == Resources(cores=8, gpus=4)
    assert placement == Placement("auto")
    for other in (place({}, CPU_NODE), place({}, GPU_NODE, gpu_problem=UNABLE)):
        assert other == (Placement("cpu"), Resources(cores=8))


def test_auto_is_settled_for_a_pipeline_that_takes_an_accelerator() -> None:
    placement, resources = place({}, GPU_NODE, gpu_capable=True)
    assert resources == Resources(cores=8, gpus=4, least_gpus=1)
    assert placement == Placement("cuda")
    assert place({}, CPU_NODE, gpu_capable=True)[0].kind == "cpu"


@pytest.mark.parametrize("kind", ["cpu", " CPU "])
def test_cpu_leases_no_gpu(kind: str) -> None:
    assert place({"node": kind}, GPU_NODE, gpu_capable=True) == (
        Placement("cpu"),
        Resources(cores=8),
    )


def test_cuda_gets_one_gpu_a_task_or_as_many_as_are_asked_for() -> None:
    assert place({"node": "cuda"}, GPU_NODE)[1] == Resources(8, gpus=4, least_gpus=1)
    asked = Resources(8, gpus=3, least_gpus=3)
    assert place({"node": "cuda", "gpus": "3"}, GPU_NODE)[1] == asked
    assert place({"gpus": "3"}, GPU_NODE)[1] == asked


def test_the_settings_say_where_runs_go_that_do_not() -> None:
    assert place({}, replace(GPU_NODE, default="cpu"))[0].kind == "cpu"
    assert place({}, replace(GPU_NODE, default="cuda"))[0].kind == "cuda"
    assert place({"node": "cuda"}, replace(GPU_NODE, default="cpu"))[0].kind == "cuda"


def test_more_gpus_than_there_are_is_refused_with_the_figure() -> None:
    error = refused(node="cuda", gpus="5")
    assert error.message == "it is 5; this node has 4 GPUs"
    assert error.field == "workflow_engine_parameters.gpus"


@pytest.mark.parametrize("gpus", ["0", "-1", "two", "1.5", "1001"])
def test_what_is_no_number_of_gpus_is_refused(gpus: str) -> None:
    assert refused(gpus=gpus).field == "workflow_engine_parameters.gpus"


def test_gpus_on_the_cpu_are_refused() -> None:
    assert "node = cpu" in refused(node="cpu", gpus="1").message


def test_another_place_is_refused() -> None:
    assert refused(node="tpu").message == "it is 'tpu'; write auto, cpu or cuda"


@pytest.mark.parametrize(
    ("parameters", "field"),
    [({"node": "cuda"}, "node"), ({"gpus": "1"}, "gpus"), ({"node": "auto", "gpus": "1"}, "node")],
)
def test_without_a_gpu_a_run_for_cuda_is_refused(parameters: dict[str, str], field: str) -> None:
    error = refused(CPU_NODE, **parameters)
    assert error.field == f"workflow_engine_parameters.{field}"
    assert "this node has none" in error.message
    assert "wesemu doctor --gpu" in error.message


def test_without_a_gpu_it_waits_if_the_settings_say_so() -> None:
    placement, resources = place({"node": "cuda"}, replace(CPU_NODE, without_gpu="queue"))
    assert resources == Resources(8, gpus=1, least_gpus=1)
    assert placement.kind == "cuda"
    assert "waits for a server with one" in str(placement.note)


def test_without_a_gpu_the_cpu_does_it_if_the_settings_say_so_and_tells() -> None:
    placement, resources = place({"node": "cuda"}, replace(CPU_NODE, without_gpu="cpu"))
    assert resources == Resources(8)
    assert placement.kind == "cpu"
    assert "the CPU runs it" in str(placement.note)


def test_a_pipeline_without_steps_for_gpus_says_so() -> None:
    placement, _ = place({"node": "cuda"}, GPU_NODE, gpu_problem=UNABLE)
    assert placement.kind == "cuda"
    assert placement.note == f"asked for cuda, but {UNABLE}"


def test_a_waiting_run_gets_the_gpus_of_the_server_that_begins_it() -> None:
    run = a_run(place({"node": "cuda"}, replace(CPU_NODE, without_gpu="queue")), node="cuda")
    assert resources_at_start(run, GPU_NODE) == Resources(8, gpus=4, least_gpus=1)
    with pytest.raises(EngineFault, match="needs 1 GPUs, and this server has 0 now"):
        resources_at_start(run, CPU_NODE)


def test_what_was_asked_for_stays_and_the_cpu_stays_the_cpu() -> None:
    asked = {"node": "cuda", "gpus": "2"}
    assert resources_at_start(a_run(place(asked, GPU_NODE), **asked), GPU_NODE).gpus == 2
    run = a_run(place({"node": "cpu"}, GPU_NODE), node="cpu")
    assert resources_at_start(run, GPU_NODE) == Resources(8)


def test_a_pipeline_gets_its_accelerator_on_cuda_only() -> None:
    run = a_run(place({"gpus": "2"}, GPU_NODE), gpus="2")
    assert acceleration(run.placement, run.resources, GPU_NODE) == {
        "accelerator": "cuda",
        "gpus": 2,
        "gpu_memory_mb": 16_000,
        "gpu_driver": "580.1",
    }
    declared = replace(GPU_NODE, gpu_memory_mb=None, gpu_driver=None)
    assert acceleration(run.placement, run.resources, declared)["gpu_memory_mb"] is None
    assert acceleration(*place({}, CPU_NODE), CPU_NODE) == {}


def test_the_note_is_in_the_runs_own_log(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_note(a_run(place({}, CPU_NODE)), workspace)
    assert not workspace.stderr.exists()
    write_note(a_run(place({"node": "cuda"}, replace(CPU_NODE, without_gpu="cpu"))), workspace)
    assert workspace.stderr.read_text().startswith("wesemu: asked for cuda; this node has no GPU")


def a_pipeline(folder: Path, **properties: object) -> Path:
    schemas = folder / "workflow" / "schemas"
    schemas.mkdir(parents=True)
    (schemas / "config.schema.yaml").write_text(yaml.safe_dump({"allOf": [{"$ref": "own.yaml"}]}))
    (schemas / "own.yaml").write_text(yaml.safe_dump({"properties": properties}))
    return folder


def test_a_pipeline_takes_an_accelerator_if_its_schema_says_so(tmp_path: Path) -> None:
    assert gpu_problem(a_pipeline(tmp_path / "able", accelerator={"enum": ["cpu", "cuda"]})) is None
    unable = gpu_problem(a_pipeline(tmp_path / "unable", sample={}))
    assert unable == "the pipeline unable has no steps for GPUs: the CPU runs it"
