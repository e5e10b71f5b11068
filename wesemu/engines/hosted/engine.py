"""An engine whose runs are processes of `python -m <package>.runner`."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, ClassVar

from wesemu.engines.execution import DetachedExecution, find
from wesemu.engines.hosted.containers import ContainerTool
from wesemu.engines.hosted.order import order_from, write_order
from wesemu.engines.hosted.parameters import Readers, read_parameters
from wesemu.engines.processes import Known
from wesemu.engines.rehearsal import Rehearsals
from wesemu.errors import EngineFault
from wesemu.runs.graphs import Graph
from wesemu.runs.model import Run
from wesemu.runs.ports import Job
from wesemu.runs.workspace import Workspace

_PRIVATE_PREFIXES = ("WESEMU_", "CWLTOOL_", "MINIWDL_")
"""Settings of the server and hidden options of the libraries: no tool sees them."""

_START_SECONDS = 60.0


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
    otherwise all run as local processes. `environment` is added to what the tools see.
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
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        grace_seconds: float = 5.0,
    ) -> None:
        self.version = version
        self.containers = containers
        self._python = python
        self._environment = _tools_environment(environment or {})
        self._grace = grace_seconds
        self._executions = set[DetachedExecution]()
        self._rehearsals = Rehearsals(python, self._environment)

    @property
    def workflow_types(self) -> Mapping[str, tuple[str, ...]]:
        return self.types

    def check_parameters(self, parameters: Mapping[str, str]) -> None:
        """Raises InvalidRequest, naming the parameter."""
        read_parameters(parameters, self.readers)

    async def warm(self) -> None:
        """Nothing to get ready: each run imports the library itself."""

    async def launch(self, job: Job) -> DetachedExecution:
        reply = await asyncio.to_thread(self._start, job)
        if "pid" in reply:
            process = Known(pid=int(reply["pid"]), identity=str(reply["identity"]))
            return await self._follow(job.workspace, process)
        execution = await self._attach(job.workspace)
        if execution is None:
            raise EngineFault(f"run {job.run_id} is locked by a process that has just ended")
        return execution

    async def rehearse(self, job: Job) -> Graph:
        await asyncio.to_thread(self._write_order, job)
        return await self._rehearsals.perform(self.rehearser, job.workspace)

    def _write_order(self, job: Job) -> None:
        order = order_from(
            job,
            engine=self.name,
            version=self.version,
            options=read_parameters(job.engine_parameters, self.readers),
            containers=self.containers,
            grace_seconds=self._grace,
        )
        write_order(job.workspace, order)

    def _start(self, job: Job) -> dict[str, Any]:
        self._write_order(job)
        try:
            done = subprocess.run(
                [self._python, "-m", self.runner, str(job.workspace.root.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=self._environment,
                timeout=_START_SECONDS,
                check=True,
            )
            reply: dict[str, Any] = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise EngineFault(f"the run's process could not start: {error}") from error
        return reply

    async def attach(self, run: Run, workspace: Workspace) -> DetachedExecution | None:
        return await self._attach(workspace)

    async def _attach(self, workspace: Workspace) -> DetachedExecution | None:
        found, process = await asyncio.to_thread(find, workspace)
        return await self._follow(workspace, process) if found else None

    async def _follow(self, workspace: Workspace, process: Known | None) -> DetachedExecution:
        self._executions = {other for other in self._executions if not other.ended}
        execution = DetachedExecution(workspace, grace_seconds=self._grace)
        self._executions.add(execution)
        return await execution.follow(process)

    async def close(self) -> None:
        for execution in self._executions:
            execution.close()
        self._executions.clear()


def _tools_environment(added: Mapping[str, str]) -> dict[str, str]:
    """Tools of the server's own Python environment are found although it is not activated."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE_PREFIXES)
    }
    own = str(Path(sys.executable).parent)
    search = kept.get("PATH", os.defpath).split(os.pathsep)
    if own not in search:
        search.append(own)
    return {**kept, "PATH": os.pathsep.join(search), **added}
