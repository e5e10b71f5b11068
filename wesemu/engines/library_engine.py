"""Engines that are Python libraries, seen from the server: cwltool (CWL) and miniwdl (WDL)."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata, util
from typing import ClassVar

from wesemu.engine_parameters import read_parameters
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
from wesemu.engines.launch_spec import ContainerTool, launch_spec, write_spec
from wesemu.engines.sandbox import Sandbox
from wesemu.errors import EngineFault
from wesemu.runs.model import Graph, Run
from wesemu.runs.ports import LaunchRequest
from wesemu.runs.run_directory import Workspace

_MOUNTING = frozenset({"podman", "apptainer"})
"""Container tools that mount file systems; a process in a sandbox cannot do that."""

_PRIVATE_PREFIXES = ("CWLTOOL_", "MINIWDL_")
"""Environment variables that configure the libraries; runs do not get them."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Availability of an engine: its `version`, or the `reason` why it is unusable."""

    version: str | None
    reason: str | None = None

    @property
    def usable(self) -> bool:
        return self.version is not None


def probe_package(distribution: str, module: str, extra: str) -> Probe:
    """Look for an installed package without importing it. Blocks on the disk."""
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return Probe(None, f"{distribution} is not installed: pip install 'wesemu[{extra}]'")
    if util.find_spec(module) is None:
        return Probe(None, f"{distribution} {version} is installed but has no module {module}")
    return Probe(version)


class LibraryEngine:
    """Implements `runs.ports.Engine`; subclasses select the library.

    `version` comes from the probe. With `containers`, tools that request an image run in it;
    without, all tools run as local processes. `always_contained`: WDL tasks without an image run
    in the default image. `environment` extends that of the tools. `grace_seconds`: time for the
    tools between SIGTERM and SIGKILL after a cancel.
    """

    name: ClassVar[str]
    types: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(
        self,
        version: str,
        *,
        containers: ContainerTool | None = None,
        always_contained: bool = False,
        sandbox: Sandbox | None = None,
        passed: Sequence[str] = (),
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        grace_seconds: float = 5.0,
    ) -> None:
        self.version = version
        self.containers = containers
        self._always_contained = always_contained
        self._sandbox = sandbox if containers not in _MOUNTING else None
        self._python = python
        self._environment = tools_environment(environment or {}, _PRIVATE_PREFIXES, passed)
        self._grace = grace_seconds
        self._launcher = Launcher(grace_seconds)
        self._client = ForkserverClient(self.name, python, self._environment)
        fork = self._client.plan if sys.platform == "linux" else None
        self._dry_runs = DryRuns(python, self._environment, fork=fork)

    @property
    def workflow_types(self) -> Mapping[str, tuple[str, ...]]:
        return self.types

    def check_parameters(self, parameters: Mapping[str, str]) -> None:
        """Raise InvalidRequest with the name of an invalid parameter."""
        read_parameters(parameters, self.name)

    @property
    def forkserver(self) -> int | None:
        """Process id of the forkserver, or None without one."""
        return self._client.pid

    async def warm(self) -> None:
        """Start the forkserver ahead of the next run. Raises EngineFault."""
        if sys.platform == "linux":
            await self._client.start()

    async def launch(self, job: LaunchRequest) -> DetachedExecution:
        """Launch a run by the forkserver. If the forkserver does not start, launch without it."""
        job = replace(job, workspace=await absolute(job.workspace))
        await asyncio.to_thread(self._write_spec, job)
        reply = await self._launch(job)
        return await self._launcher.follow(job.workspace, reply)

    async def _launch(self, job: LaunchRequest) -> Reply:
        if sys.platform == "linux":
            with suppress(EngineFault):
                return await self._client.launch_with_retry(job.workspace.root)
        return await asyncio.to_thread(start_runner, self._python, job.workspace, self._environment)

    async def dry_run(self, job: LaunchRequest) -> Graph:
        await asyncio.to_thread(self._write_spec, job)
        return await self._dry_runs.perform(job.workspace)

    def _write_spec(self, job: LaunchRequest) -> None:
        spec = launch_spec(
            job,
            engine=self.name,
            version=self.version,
            mode=self.containers or "local",
            grace_seconds=self._grace,
        )
        spec = replace(
            spec,
            inputs=job.config,
            containers=self.containers,
            always_contained=self._always_contained,
            sandbox=self._sandbox if job.untrusted else None,
        )
        write_spec(job.workspace, spec)

    async def attach(self, run: Run, workspace: Workspace) -> DetachedExecution | None:
        return await self._launcher.attach(await absolute(workspace))

    async def close(self) -> None:
        self._launcher.close()
        await self._client.close()


def probe_cwl() -> Probe:
    """Return whether cwltool is installed. Blocks on the disk."""
    return probe_package("cwltool", "cwltool", "cwl")


class CwlEngine(LibraryEngine):
    """Implements `runs.ports.Engine` for CWL.

    The run parameters are the job order; its relative paths name attachments. A run that starts
    again after a crash takes finished steps from cwltool's cache. `keep_going` continues steps
    that do not depend on a failed one.
    """

    name = "cwltool"
    types: ClassVar[Mapping[str, tuple[str, ...]]] = {"CWL": ("v1.0", "v1.1", "v1.2")}


def probe_wdl() -> Probe:
    """Return whether miniwdl is installed. Blocks on the disk."""
    return probe_package("miniwdl", "WDL", "wdl")


class WdlEngine(LibraryEngine):
    """Implements `runs.ports.Engine` for WDL.

    The run parameters are the inputs JSON; its relative paths name attachments. A run that starts
    again after a crash takes finished tasks from miniwdl's call cache. `task` selects the task
    in a document without a workflow. `keep_going` lets running tasks finish after a failure.
    """

    name = "miniwdl"
    types: ClassVar[Mapping[str, tuple[str, ...]]] = {"WDL": ("draft-2", "1.0", "1.1", "1.2")}
