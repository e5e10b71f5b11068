"""Parameters of the pipelines, and what settings add to their configuration."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from wesemu.core import _tool_config
from wesemu.errors import InvalidRequest
from wesemu.node import Gpu, Node
from wesemu.settings import Settings
from wesemu.workflows.bundled import ToolConfig, add_tool_settings, check_mapper
from wesemu.workflows.params import MappingParams, WgsParams
from wesemu.workflows.results import check_caller, check_tools

READS = [{"first": "a.fq", "second": "b.fq"}]
TOOLS = ToolConfig({"runtime": "docker", "image": "x:4.7.1-1"}, {"mine": "m {reads}"})
CUDA = {"accelerator": "cuda", "caller": "bcftools"}


def wgs(**more: object) -> WgsParams:
    return WgsParams.model_validate({"reads": READS, **more})


def test_settings_reach_the_configuration_on_a_gpu_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docker").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert add_tool_settings({"caller": "bcftools"}, wgs(), TOOLS) == {"caller": "bcftools"}
    config = add_tool_settings(CUDA, wgs(), TOOLS)
    assert config["parabricks"] == TOOLS.parabricks
    assert config["caller"] == "haplotypecaller"


def test_a_caller_that_was_asked_for_stays() -> None:
    assert add_tool_settings(CUDA, wgs(caller="bcftools"), TOOLS)["caller"] == "bcftools"


@pytest.mark.parametrize("name", ["optical_distance", "bam_level", "ploidy"])
def test_true_is_no_number(name: str) -> None:
    with pytest.raises(ValidationError, match="write a whole number"):
        wgs(**{name: True})


def test_a_gpu_caller_on_the_cpu_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="CUDA node only") as caught:
        check_caller(wgs(caller="haplotypecaller"))
    check_caller(wgs(caller="deepvariant"))  # which runs on a CPU as well
    assert caught.value.field == "caller"


def test_a_mapper_of_the_settings_is_chosen_by_its_name() -> None:
    params = MappingParams.model_validate({"reads": READS, "mapper": "mine"})
    check_mapper(params, TOOLS)
    config = add_tool_settings({"mapper": "mine"}, params, TOOLS)
    assert config == {"mapper": "bwa", "own_mapper": {"name": "mine", "command": "m {reads}"}}
    with pytest.raises(
        InvalidRequest, match="use one of bwa, bwa-mem2, bwa-mem3, minimap2"
    ) as caught:
        check_mapper(params, ToolConfig())
    assert caught.value.field == "mapper"


def test_settings_become_the_object_parabricks() -> None:
    settings = Settings.model_validate(
        {"parabricks": {"image": "pb.sif", "memory_limit": 80, "retry_low_memory": False}}
    )
    node = Node(cores=24, memory_mb=1, gpus=(Gpu(0), Gpu(1), Gpu(2)), runs=1)
    assert _tool_config(settings, node).parabricks == {
        "runtime": "auto",
        "image": str(Path("pb.sif").absolute()),
        "low_memory": "auto",
        "retry_low_memory": False,
        "temporary": None,
        "memory_limit": 80,
        "threads": 8,
    }
    lone = Node(cores=64, memory_mb=1, gpus=(Gpu(0),), runs=1)
    assert _tool_config(settings, lone).parabricks["threads"] == 16


def test_the_commands_of_the_settings_reach_the_pipeline() -> None:
    params = MappingParams.model_validate({"reads": READS})
    tools = ToolConfig(commands={"samtools": "/opt/samtools"})
    assert add_tool_settings({}, params, tools) == {"tools": {"samtools": "/opt/samtools"}}


def test_a_command_that_is_not_there_is_refused_before_anything_runs() -> None:
    params = MappingParams.model_validate({"reads": READS, "mapper": "minimap2"})
    check_tools(params, cuda=False, commands={"minimap2": "sh -c true", "bwa": "wheel"})
    for name in ("samtools", "minimap2"):
        with pytest.raises(InvalidRequest, match=f"setting tools.{name} is '/none/x'"):
            check_tools(params, cuda=False, commands={"minimap2": "sh", name: "/none/x"})


def test_reads_that_are_names_are_refused_with_the_shape_of_a_lane() -> None:
    with pytest.raises(ValidationError, match=r"must be an object .*first.*second"):
        WgsParams.model_validate({"reads": ["a_1.fq.gz", "a_2.fq.gz"]})
