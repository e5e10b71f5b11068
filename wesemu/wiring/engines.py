"""The engines that the settings ask for and that a probe has found."""

import asyncio

from wesemu.engines import cwl, wdl
from wesemu.engines.hosted.containers import find_container_tool
from wesemu.engines.slurm.cluster import Cluster
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.runs.ports import Engine
from wesemu.settings import NodeSettings, Settings

PIPELINES_IMPORT = (
    "wesemu.genomics.bwaindex",
    "wesemu.genomics.fastq",
    "wesemu.genomics.parabricks.facts",
    "wesemu.genomics.reports",
    "wesemu.genomics.templates",
    "wesemu.genomics.tools",
)
"""Modules that the Snakefiles of the bundled pipelines import."""


async def found_engines(settings: Settings) -> list[Engine]:
    """Snakemake, and the engines of the extras `cwl` and `wdl` where they are installed."""
    engines: list[Engine] = [
        SnakemakeEngine(
            settings.engine.snakemake,
            executor=settings.node.executor,
            cluster=_cluster(settings.node),
            modules=PIPELINES_IMPORT,
        )
    ]
    hosted = [(cwl.probe, cwl.CwlEngine), (wdl.probe, wdl.WdlEngine)]
    found = [(await asyncio.to_thread(probe), kind) for probe, kind in hosted]
    usable = [(probe.version, kind) for probe, kind in found if probe.version is not None]
    containers = await asyncio.to_thread(find_container_tool) if usable else None
    engines += [kind(version, containers=containers) for version, kind in usable]
    return engines


def _cluster(node: NodeSettings) -> Cluster:
    return Cluster(node.slurm_partition, node.slurm_account, tuple(node.slurm_options))
