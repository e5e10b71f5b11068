"""The server's side of every engine whose runs are processes of their own."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from wesemu.engines.environment import looks_secret
from wesemu.engines.execution import DetachedExecution, find
from wesemu.engines.processes import Known
from wesemu.errors import EngineFault
from wesemu.runs.workspace import Workspace
from wesemu.wording import os_sentence

_START_SECONDS = 60.0

Reply = dict[str, Any]
"""What `run_process.live` announces."""


class Launches:
    """The executions that one engine follows. `grace_seconds` are the tools' on cancel."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace = grace_seconds
        self._executions = set[DetachedExecution]()

    async def follow(self, workspace: Workspace, reply: Reply) -> DetachedExecution:
        """The run that was just launched, or the one that held its lock before.

        Raises EngineFault where that one has ended meanwhile.
        """
        if "pid" in reply:
            process = Known(pid=int(reply["pid"]), identity=str(reply["identity"]))
            return await self._follow(workspace, process)
        execution = await self.attach(workspace)
        if execution is None:
            name = workspace.root.name
            raise EngineFault(f"run {name} is locked by a process that has just ended")
        return execution

    async def attach(self, workspace: Workspace) -> DetachedExecution | None:
        """None where the run was never launched or has crashed."""
        found, process = await asyncio.to_thread(find, workspace)
        return await self._follow(workspace, process) if found else None

    async def _follow(self, workspace: Workspace, process: Known | None) -> DetachedExecution:
        self._executions = {other for other in self._executions if not other.ended}
        execution = DetachedExecution(workspace, grace_seconds=self._grace)
        self._executions.add(execution)
        return await execution.follow(process)

    def close(self) -> None:
        """Stop following; the runs go on."""
        for execution in self._executions:
            execution.close()
        self._executions.clear()


async def absolute(workspace: Workspace) -> Workspace:
    """The run's process has another working directory than the server."""
    return Workspace(await asyncio.to_thread(workspace.root.absolute))


def start_runner(
    python: str, module: str, workspace: Workspace, environment: Mapping[str, str]
) -> Reply:
    """Run a module that calls `run_process.detach`. Blocks. Raises EngineFault."""
    try:
        done = subprocess.run(
            [python, "-P", "-m", module, str(workspace.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment,
            timeout=_START_SECONDS,
            check=True,
        )
        reply: Reply = json.loads(done.stdout)
    except OSError as error:
        raise EngineFault(f"the run's process could not start: {os_sentence(error)}") from error
    except (subprocess.SubprocessError, ValueError) as error:
        raise EngineFault(f"the run's process did not start as it should: {error}") from error
    return reply


def tools_environment(
    added: Mapping[str, str], private: Iterable[str] = (), passed: Iterable[str] = ()
) -> dict[str, str]:
    """What a run's tools see: the server's environment without its settings, without names that
    begin as one of `private`, and without secrets (`looks_secret`) whose names no pattern of
    `passed` matches. Tools beside the server's Python are found last, although its environment
    is not activated."""
    hidden = ("WESEMU_", *private)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(hidden)
        and (not looks_secret(name, value) or any(fnmatchcase(name, each) for each in passed))
    }
    own = str(Path(sys.executable).parent)
    search = kept.get("PATH", os.defpath).split(os.pathsep)
    if own not in search:
        search.append(own)
    return {**kept, "PATH": os.pathsep.join(search), **added}
