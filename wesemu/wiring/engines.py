"""The engines that the settings ask for and that a probe has found."""

import asyncio
from dataclasses import replace

import structlog

from wesemu.engines import cwl, landlock, wdl
from wesemu.engines.hosted.containers import find_container_tool
from wesemu.engines.sandbox import SandboxChoice, choose_sandbox
from wesemu.engines.slurm.cluster import Cluster
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.runs.ports import Engine
from wesemu.settings import NodeSettings, Settings

log = structlog.get_logger("wesemu.engines")

PIPELINES_IMPORT = (
    "wesemu.errors",
    "wesemu.genomics.alternates",
    "wesemu.genomics.bwaindex",
    "wesemu.genomics.fastq",
    "wesemu.genomics.fingerprint",
    "wesemu.genomics.index_format",
    "wesemu.genomics.lane_files",
    "wesemu.genomics.parabricks.facts",
    "wesemu.genomics.ploidy",
    "wesemu.genomics.read_groups",
    "wesemu.genomics.reference_records",
    "wesemu.genomics.regions",
    "wesemu.genomics.reports",
    "wesemu.genomics.templates",
    "wesemu.genomics.tools",
)
"""Modules that the Snakefiles of the bundled pipelines import."""


async def found_engines(settings: Settings, chosen: SandboxChoice) -> list[Engine]:
    """Snakemake, and the engines of the extras `cwl` and `wdl` where they are installed."""
    sandbox = chosen.sandbox
    if sandbox is None and settings.engine.sandbox != "none":
        log.warning("users' own workflows run without a sandbox", reason=chosen.kind)
    engines: list[Engine] = [
        SnakemakeEngine(
            settings.engine.snakemake,
            executor=settings.node.executor,
            cluster=_cluster(settings.node),
            modules=PIPELINES_IMPORT,
            sandbox=sandbox,
            passed=settings.engine.environment,
        )
    ]
    within = replace(sandbox, program="") if sandbox and landlock.version() else sandbox
    if within and within.program:
        log.warning("CWL and WDL are not offered: bubblewrap cannot run them, and no Landlock")
        return engines
    hosted = [(cwl.probe, cwl.CwlEngine), (wdl.probe, wdl.WdlEngine)]
    found = [(await asyncio.to_thread(probe), kind) for probe, kind in hosted]
    usable = [(probe.version, kind) for probe, kind in found if probe.version is not None]
    containers = await asyncio.to_thread(find_container_tool) if usable else None
    use = settings.engine.wdl.containers
    engines += [
        kind(
            version,
            containers=None if kind is wdl.WdlEngine and use == "never" else containers,
            always_contained=use == "always",
            sandbox=within,
            passed=settings.engine.environment,
        )
        for version, kind in usable
    ]
    return engines


def find_sandbox(settings: Settings) -> SandboxChoice:
    """As `choose_sandbox`, by the settings."""
    engine = settings.engine
    return choose_sandbox(
        engine.sandbox,
        settings.data.absolute(),
        readable=engine.readable,
        writable=engine.writable,
        network=engine.network,
    )


def _cluster(node: NodeSettings) -> Cluster:
    return Cluster(node.slurm_partition, node.slurm_account, tuple(node.slurm_options))
