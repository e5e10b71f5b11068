"""`wesemu run … --node --gpus`: the placement of a job is chosen, stored and shown."""

import json

import pytest
from api.test_verbs import MAPPING, WGS, send, wesemu

from wesemu.cli.output import ExitStatus
from wesemu.node import NodeSettings
from wesemu.settings import Settings

__all__ = ["wesemu"]


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Two declared GPUs, and what a test asks for besides."""
    declared = {"cores": 2, "memory_mb": 4096, "gpus": 2} | getattr(request, "param", {})
    settings.node = NodeSettings.model_validate(declared)
    return settings


async def answers(wesemu, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """AGS's answer and WES's tags."""
    _, out, _ = await wesemu("get", name, "--json")
    told = json.loads(out)
    return told["ags"], told["wes"]["request"]["tags"]


async def test_cuda_with_two_gpus_is_what_the_server_is_asked_for(wesemu) -> None:
    ags, tags = await answers(wesemu, await send(wesemu, *MAPPING, "--node", "cuda", "--gpus", "2"))
    echoed = json.loads(ags["user_input_data"])
    assert (echoed["wesemu_node"], echoed["wesemu_gpus"]) == ("cuda", "2")
    assert (ags["node"], tags["wesemu.node"]) == ("cuda", "cuda")


async def test_gpus_alone_mean_cuda_and_the_cpu_can_be_chosen(wesemu) -> None:
    assert (await answers(wesemu, await send(wesemu, *WGS, "--gpus", "1")))[0]["node"] == "cuda"
    assert (await answers(wesemu, await send(wesemu, *WGS, "--node", "cpu")))[0]["node"] == "cpu"


async def test_more_gpus_than_there_are_end_with_the_figure(wesemu) -> None:
    status, out, err = await wesemu(*MAPPING, "--gpus", "3")
    assert (status, out) == (ExitStatus.REFUSED, "")
    assert "--gpus" in err
    assert "wesemu_gpus" not in err
    assert "this node has 2 GPUs" in err


@pytest.mark.parametrize("wrong", [("--node", "tpu"), ("--gpus", "0"), ("--gpus", "two")])
async def test_what_is_no_place_is_a_wrong_flag(wesemu, wrong: tuple[str, str]) -> None:
    assert (await wesemu(*MAPPING, *wrong))[0] == ExitStatus.USAGE


@pytest.mark.parametrize("settings", [{"gpus": 0, "without_gpu": "cpu"}], indirect=True)
async def test_the_cpu_instead_of_a_gpu_is_shown_by_watch_and_by_get(wesemu) -> None:
    status, out, err = await wesemu(*MAPPING, "--node", "cuda", "--watch")
    name = json.loads(out)["JobName"]
    note = f"{name}: asked for cuda; this node has no GPU: the CPU runs it (node.without_gpu)\n"
    assert (status, note in err) == (0, True)
    assert note in (await wesemu("get", name))[2]


@pytest.mark.parametrize("settings", [{"gpus": 0}], indirect=True)
async def test_without_a_gpu_cuda_is_refused_with_what_to_do(wesemu) -> None:
    status, _, err = await wesemu(*WGS, "--node", "cuda")
    assert status == ExitStatus.REFUSED
    assert "this node has none" in err
    assert "wesemu doctor --gpu" in err
