"""The four runs: `mapping` and `wgs`, in AGS's words and in WES's."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wesemu.client import Client, JobDetail, RunDetail
from wesemu.runs.model import JsonObject, RunState

BUCKET = "demo"
REFERENCE = "demo"

Show = Callable[[str, RunState, int, int], None]
"""Is told a run's name, its state, its tasks that have ended, and all of them."""


@dataclass(frozen=True, slots=True)
class Order:
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


ORDERS = tuple(Order(api, workflow) for workflow in ("mapping", "wgs") for api in ("ags", "wes"))


@dataclass(frozen=True, slots=True)
class Done:
    """An order carried out, as both APIs tell of it."""

    order: Order
    job: JobDetail
    run: RunDetail


async def carry_out(client: Client, show: Show, *, cuda: bool = False) -> list[Done]:
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


async def _carry_out(client: Client, order: Order, show: Show, cuda: bool) -> Done:
    send = _by_ags if order.api == "ags" else _by_wes
    run_id = await send(client, order, cuda)
    async for run in client.wes.follow(run_id):
        show(order.name, run.state, run.tasks_done, len(run.tasks))
    job = await client.ags.job(f"{order.workflow}-gpu-{run.handle}")
    return Done(order, job, run)


async def _by_ags(client: Client, order: Order, cuda: bool) -> str:
    place = {"wesemu_node": "cuda"} if cuda else {}
    name = await client.ags.start(_ags_fields(order) | place)
    handle = name.rpartition("-")[2]
    return next(run.id for run in await client.wes.runs() if run.handle == handle)


def _ags_fields(order: Order) -> dict[str, str]:
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


async def _by_wes(client: Client, order: Order, cuda: bool) -> str:
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


def of(done: Sequence[Done], api: str, workflow: str) -> Done:
    """The one of `done` that was ordered so."""
    return next(each for each in done if each.order == Order(api, workflow))
