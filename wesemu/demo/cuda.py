"""The demo on a node with GPUs: how its server is set up, and what really uses a card."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wesemu.client import Client, RunDetail
from wesemu.demo.orders import Done, Show
from wesemu.demo.verdict import Check
from wesemu.genomics.gpu_selftest import summary
from wesemu.runs.model import PLACE, PLACE_NOTE, JsonObject, RunState

_NAME = "GPU self-test"
_FILES = ("Snakefile", "schemas/config.schema.yaml", "envs/gpu.yaml")


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The workflow in the folder `workflow`, on so many random reads."""

    workflow: Path
    reads: int


@dataclass(frozen=True, slots=True)
class CudaNode:
    """`settings` are the environment variables of the demo's server. `selftest` is None where
    Parabricks carries the runs out; else the CPU's tools do, and the self-test uses the card."""

    settings: Mapping[str, str]
    selftest: SelfTest | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """The self-test's run, and its report if it has left one."""

    run: RunDetail
    report: JsonObject | None


async def count_on_gpu(client: Client, selftest: SelfTest, reads: Path, show: Show) -> Counted:
    """Send the self-test as a user's own workflow, by WES, and wait. `reads` is a file to write.

    Raises ClientError.
    """
    from wesemu.genomics.histograms import write_random  # needs the extra cuda

    await asyncio.to_thread(write_random, reads, selftest.reads)
    run_id = await client.wes.submit(
        "Snakefile",
        {"reads": str(reads)},
        attachments=[(name, selftest.workflow / name) for name in _FILES],
        engine_parameters={"node": "cuda", "gpus": "1"},
        tags={"project": "wesemu demo"},
    )
    async for run in client.wes.follow(run_id):
        show(_NAME, run.state, run.tasks_done, len(run.tasks))
    for name, output in run.outputs.items():
        if name.endswith("gpu.json"):
            return Counted(run, json.loads(await client.wes.text(output.url)))
    return Counted(run, None)


def examine_node(node: CudaNode, done: Sequence[Done], counted: Counted | None) -> Iterator[Check]:
    """That the runs were carried out on the `cuda` node, as both APIs tell it, and the GPU used."""
    placed = [each.run.tags.get(PLACE) == "cuda" == each.job.raw.get("node") for each in done]
    notes = sorted({each.run.tags[PLACE_NOTE] for each in done if PLACE_NOTE in each.run.tags})
    told = f"cuda, by AGS and WES, for {sum(placed)} of {len(done)} runs"
    if node.selftest is None:
        mapped = [any(task.name == "fq2bam" for task in each.run.tasks) for each in done]
        told += f"; {sum(mapped)} by Parabricks"
        yield Check("node", all(placed) and all(mapped), "; ".join([told, *notes]))
        return
    yield Check("node", all(placed), "; ".join([told, *notes]))
    if counted is None or counted.report is None or counted.run.state is not RunState.COMPLETE:
        ended = None if counted is None else (counted.run.state, counted.run.error)
        yield Check(_NAME, False, f"no report: {ended}")
        return
    ok = counted.report["equal"] is True and counted.run.tags.get(PLACE) == "cuda"
    yield Check(_NAME, ok, summary(counted.report))
