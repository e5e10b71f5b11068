"""An engine whose runs are processes of `python -m <package>.runner`."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, util
from typing import ClassVar

from wesemu.engines.execution import DetachedExecution
from wesemu.engines.hosted.containers import ContainerTool
from wesemu.engines.hosted.order import order_from, write_order
from wesemu.engines.launches import Launches, Reply, absolute, start_runner, tools_environment
from wesemu.engines.parameters import Readers, read_parameters
from wesemu.engines.rehearsal import Rehearsals
from wesemu.engines.sandbox import Sandbox
from wesemu.runs.graphs import Graph
from wesemu.runs.model import Run
from wesemu.runs.ports import Job
from wesemu.runs.workspace import Workspace

_MOUNTING = frozenset({"podman", "apptainer"})
"""Container tools that mount file systems themselves, which no process in a sandbox can."""

_PRIVATE_PREFIXES = ("CWLTOOL_", "MINIWDL_")
"""Hidden options of the libraries."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether an engine can be used: its `version`, or the `reason` why not."""

    version: str | None
    reason: str | None = None

    @property
    def usable(self) -> bool:
        return self.version is not None


def probe_package(distribution: str, module: str, extra: str) -> Probe:
    """Looks without importing anything. Blocks on the disk."""
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return Probe(None, f"{distribution} is not installed: pip install 'wesemu[{extra}]'")
    if util.find_spec(module) is None:
        return Probe(None, f"{distribution} {version} is installed but has no module {module}")
    return Probe(version)


class HostedEngine:
    """Implements `runs.ports.Engine`; a subclass says for which library.

    `version` is what its `probe` found. With `containers`, tools that ask for an image run in it;
    otherwise all run as local processes; `always_contained`: also WDL tasks that ask for none.
    `environment` is added to what the tools see.
    `grace_seconds` are the tools' on cancel, before SIGKILL.
    """

    name: ClassVar[str]
    runner: ClassVar[str]
    """The module that is a run's process."""
    types: ClassVar[Mapping[str, tuple[str, ...]]]
    rehearser: ClassVar[str]
    """The module that is a dry run's process."""
    readers: ClassVar[Readers]

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
        self._launches = Launches(grace_seconds)
        self._rehearsals = Rehearsals(python, self._environment)

    @property
    def workflow_types(self) -> Mapping[str, tuple[str, ...]]:
        return self.types

    def check_parameters(self, parameters: Mapping[str, str]) -> None:
        """Raises InvalidRequest, naming the parameter."""
        read_parameters(parameters, self.readers, self.name)

    async def warm(self) -> None:
        """Nothing to get ready: each run imports the library itself."""

    async def launch(self, job: Job) -> DetachedExecution:
        job = replace(job, workspace=await absolute(job.workspace))
        reply = await asyncio.to_thread(self._start, job)
        return await self._launches.follow(job.workspace, reply)

    async def rehearse(self, job: Job) -> Graph:
        await asyncio.to_thread(self._write_order, job)
        return await self._rehearsals.perform(self.rehearser, job.workspace)

    def _write_order(self, job: Job) -> None:
        order = order_from(
            job,
            engine=self.name,
            version=self.version,
            options=read_parameters(job.engine_parameters, self.readers, self.name),
            containers=self.containers,
            grace_seconds=self._grace,
            sandbox=self._sandbox if job.untrusted else None,
            always_contained=self._always_contained,
        )
        write_order(job.workspace, order)

    def _start(self, job: Job) -> Reply:
        self._write_order(job)
        return start_runner(self._python, self.runner, job.workspace, self._environment)

    async def attach(self, run: Run, workspace: Workspace) -> DetachedExecution | None:
        return await self._launches.attach(await absolute(workspace))

    async def close(self) -> None:
        self._launches.close()
