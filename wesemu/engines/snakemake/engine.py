"""Snakemake as an engine: chooses the mode, launches and attaches runs, dry runs."""

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wesemu.engine_parameters import check_parameters
from wesemu.engines.dry_run import DryRuns
from wesemu.engines.execution import (
    DetachedExecution,
    Launcher,
    Reply,
    absolute,
    start_runner,
    tools_environment,
)
from wesemu.engines.forkserver_client import ForkserverClient
from wesemu.engines.launch_spec import Mode, launch_spec, write_config, write_spec
from wesemu.engines.sandbox import Sandbox
from wesemu.engines.slurm import ON_SLURM, Cluster, has_accounting, largest_node
from wesemu.engines.snakemake.cli_worker import plugin_installed, plugin_name
from wesemu.engines.snakemake.hooks import INSTALLED, is_tested
from wesemu.errors import EngineFault
from wesemu.runs.model import Graph, Run
from wesemu.runs.ports import LaunchRequest
from wesemu.runs.run_directory import Workspace

log = logging.getLogger("wesemu.engines.snakemake")


class SnakemakeEngine:
    """Implements `runs.ports.Engine`. Each run has its own process.

    The mode "warm" forks it from a process that has imported Snakemake. "cli" starts Snakemake's
    command line for each run: slower, with fewer details about tasks. Untested versions of
    Snakemake and systems other than Linux always use "cli".

    An `executor` other than "local" sends the tasks to the `cluster`: "slurm" requires "warm",
    executor plugins of Snakemake ("slurm-plugin", "plugin:NAME") use "cli". These runs take no
    leases of this machine.

    `environment` extends that of the tools, which has no settings (WESEMU_*). `grace_seconds`: time
    for the tools between SIGTERM and SIGKILL after a cancel. `version`: that of Snakemake.
    `modules`: imports of the Snakefiles, preloaded for warm runs. `pipelines`: a folder with
    Snakefiles that are parsed ahead for warm runs. `deployment`: the kinds of
    software ("conda", "apptainer") that Snakemake provides for rules of users' workflows, which
    then run in the mode "cli".
    """

    name = "snakemake"

    def __init__(
        self,
        mode: Mode = "warm",
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        grace_seconds: float = 5.0,
        version: str = INSTALLED,
        executor: str = "local",
        cluster: Cluster | None = None,
        modules: Sequence[str] = (),
        pipelines: Path | None = None,
        sandbox: Sandbox | None = None,
        passed: Sequence[str] = (),
        deployment: Sequence[str] = (),
    ) -> None:
        self.version = version
        self.executor = executor
        self._plugin = plugin_name(executor)
        self._deployment = deployment
        self._cluster = cluster or Cluster()
        self._answered = False
        self._sandbox = sandbox
        warm = mode == "warm" and is_tested(self.version) and sys.platform == "linux"
        warm = warm and self._plugin is None
        self.mode: Mode = "warm" if warm else "cli"
        self._python = python
        self._environment = tools_environment(environment or {}, passed=passed)
        self._grace = grace_seconds
        folders = [] if pipelines is None else [str(pipelines.absolute())]
        self._client = ForkserverClient(self.name, python, self._environment, [*modules, *folders])
        self._launcher = Launcher(grace_seconds)
        fork = self._client.plan if self.mode == "warm" else None
        self._dry_runs = DryRuns(python, self._environment, fork=fork)

    @property
    def workflow_types(self) -> Mapping[str, tuple[str, ...]]:
        return {"SMK": (self.version,)}

    @property
    def forkserver(self) -> int | None:
        """Process id of the forkserver, or None without one."""
        return self._client.pid

    def check_parameters(self, parameters: Mapping[str, str]) -> None:
        """Raise InvalidRequest with the name of an invalid parameter."""
        check_parameters(parameters)

    async def warm(self) -> None:
        """Start the forkserver ahead of the next run; query the cluster until it answers once.

        Raises EngineFault.
        """
        if not self._answered:
            await self._measured()
            self._answered = True
        if self.mode == "warm":
            await self._client.start()

    async def launch(self, job: LaunchRequest) -> DetachedExecution:
        """Launch a run, or follow it if its process is alive (see `runs.ports.Engine`)."""
        job = replace(job, workspace=await absolute(job.workspace))
        cluster = await self._measured()
        if self.executor != "local":
            job = replace(job, priority=None)
        reply = await self._launch(job, cluster)
        return await self._launcher.follow(job.workspace, reply)

    async def _measured(self) -> Cluster:
        """Return the cluster; for a Slurm executor with what Slurm reports. Raises EngineFault."""
        if self.executor == "local":
            return self._cluster
        if self.executor == "slurm" and self.mode != "warm":
            raise EngineFault(
                'node.executor = "slurm" needs engine.snakemake = "warm" and Linux, and a version '
                f'of Snakemake that it was tested with (this is {self.version}); use "slurm-plugin"'
            )
        if self._plugin and not await asyncio.to_thread(plugin_installed, self._plugin):
            package = f"snakemake-executor-plugin-{self._plugin}"
            raise EngineFault(
                f'node.executor = "{self.executor}" needs a plugin: pip install '
                f"{'wesemu[slurm]' if self._plugin == 'slurm' else package}"
            )
        if self.executor not in ON_SLURM:
            return self._cluster
        cluster = replace(
            self._cluster, task_cores=await asyncio.to_thread(largest_node, self._cluster.partition)
        )
        if self.executor == "slurm-plugin":
            return replace(cluster, accounting=await asyncio.to_thread(has_accounting))
        return cluster

    async def _launch(self, job: LaunchRequest, cluster: Cluster) -> Reply:
        deploys = job.untrusted and bool(self._deployment)
        if self.mode == "warm" and not self._wrapped(job) and not deploys:
            await asyncio.to_thread(self._write_spec, job, "warm", cluster)
            try:
                return await self._client.launch_with_retry(job.workspace.root)
            except EngineFault:
                if self.executor == "slurm":
                    raise
        await asyncio.to_thread(self._write_spec, job, "cli", cluster)
        return await asyncio.to_thread(start_runner, self._python, job.workspace, self._environment)

    def _write_spec(self, job: LaunchRequest, mode: Mode, cluster: Cluster) -> None:
        """Write engine.json and config.yaml. Blocks on the disk."""
        spec = launch_spec(
            job, engine=self.name, version=self.version, mode=mode, grace_seconds=self._grace
        )
        spec = replace(
            spec,
            python=self._python,
            executor=self.executor,
            cluster=cluster,
            sandbox=self._sandbox_of(job),
            deployment=[*self._deployment] if job.untrusted else None,
        )
        write_spec(job.workspace, spec)
        write_config(job)

    def _sandbox_of(self, job: LaunchRequest) -> Sandbox | None:
        return self._sandbox if job.untrusted and self.executor == "local" else None

    def _wrapped(self, job: LaunchRequest) -> bool:
        """Return whether the run needs bubblewrap, which wraps commands but not forks."""
        sandbox = self._sandbox_of(job)
        return sandbox is not None and bool(sandbox.program)

    async def dry_run(self, job: LaunchRequest) -> Graph | None:
        """Plan a run (see `runs.ports.Engine`). Return None for untested Snakemake versions."""
        if not is_tested(self.version):
            return None
        await asyncio.to_thread(self._write_spec, job, self.mode, self._cluster)
        return await self._dry_runs.perform(job.workspace, self._sandbox_of(job))

    async def attach(self, run: Run, workspace: Workspace) -> DetachedExecution | None:
        return await self._launcher.attach(await absolute(workspace))

    async def close(self) -> None:
        self._launcher.close()
        await self._client.close()
