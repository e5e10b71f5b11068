"""Dry runs: plan a workflow in a separate process, without running it.

Planning can execute code of the author (a Snakefile is Python). The process therefore has a time
limit, and the server ends it with everything that it started. Parts: `DryRuns` for the server,
`tie_to_server`, `write_graph` and `write_failure` for the process.
"""

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import msgspec

from wesemu.engines.failures import log_tail
from wesemu.engines.processes import MARK, end_all, marked, members, offer_to_oom_killer, send_group
from wesemu.engines.sandbox import Sandbox, in_bubblewrap
from wesemu.errors import EngineFault, InvalidRequest
from wesemu.runs.model import Graph, RunFailure
from wesemu.runs.run_directory import Workspace, read_json, write_json

SECONDS = 60.0
_AT_ONCE = 2
_RESULT_LIMIT = 64 << 20
_STDERR_BYTES = 500


class PlanProcess(Protocol):
    """The process of a dry run, the leader of its process group."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> None: ...


class DryRuns:
    """Plans workflows: at most two at a time, `seconds` each.

    `fork` forks the process from one that has imported the engine. Without `fork`, or if it raises
    EngineFault, a new Python executes `wesemu.engines.main`.
    """

    def __init__(
        self,
        python: str,
        environment: Mapping[str, str],
        seconds: float = SECONDS,
        fork: Callable[[Path], Awaitable[PlanProcess]] | None = None,
    ) -> None:
        self._fork = fork
        self._python = python
        self._environment = environment
        self._seconds = seconds
        self._semaphore = asyncio.Semaphore(_AT_ONCE)

    async def perform(self, workspace: Workspace, sandbox: Sandbox | None = None) -> Graph:
        """Return the task graph. Uses bubblewrap if `sandbox` names its program.

        Raises InvalidRequest if the workflow cannot be planned; EngineFault.
        """
        async with self._semaphore:
            # Shielded: if this call is cancelled, the process that is starting must be ended too.
            starting = asyncio.ensure_future(self._start(workspace, sandbox))
            try:
                process = await asyncio.shield(starting)
            except asyncio.CancelledError:
                with suppress(EngineFault):
                    await _end_process(await starting, workspace.root)
                raise
            try:
                async with asyncio.timeout(self._seconds):
                    await process.wait()
            except TimeoutError as error:
                raise InvalidRequest(
                    f"the workflow was not planned within {self._seconds:.0f} s, the time "
                    "limit of a dry run; submit it, or plan it on your own machine",
                    field="workflow_url",
                ) from error
            finally:
                await _end_process(process, workspace.root)
        return await asyncio.to_thread(_read, workspace)

    async def _start(self, workspace: Workspace, sandbox: Sandbox | None) -> PlanProcess:
        if self._fork is not None and not (sandbox and sandbox.program):
            with suppress(EngineFault):  # the forkserver has logged it
                return await self._fork(workspace.root)
        return ColdPlan(await asyncio.to_thread(self._spawn, workspace, sandbox))

    def _spawn(self, workspace: Workspace, sandbox: Sandbox | None) -> "subprocess.Popen[bytes]":
        command = [self._python, "-P", "-m", "wesemu.engines.main", "plan", str(workspace.root)]
        if sandbox is not None and sandbox.program:
            command = in_bubblewrap(sandbox, workspace, command, workspace.root)
        with workspace.stderr.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # closes when this server ends
                stdout=stderr,
                stderr=stderr,
                cwd="/",
                env={**self._environment, **plan_environment(workspace)},
                start_new_session=True,
            )
        offer_to_oom_killer(process.pid)
        return process


class ColdPlan:
    """Implements `PlanProcess` for a process that imports the engine itself."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> None:
        await asyncio.to_thread(self._process.wait)
        if self._process.stdin is not None:
            self._process.stdin.close()


def plan_environment(workspace: Workspace) -> dict[str, str]:
    """Return variables to add to the environment of a dry run; create its temporary folder."""
    temporary = workspace.root / "tmp"
    temporary.mkdir(exist_ok=True)
    return {MARK: str(workspace.root), "TMPDIR": str(temporary)}


def tie_to_server() -> None:
    """Kill this process and its group when the server ends (called in the process).

    Standard input is a pipe, and only the server (or the forkserver) has its write end. So a read
    returns when that process has ended.
    """
    server = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    threading.Thread(target=_await_end, args=[server], name="server", daemon=True).start()


def _await_end(server: int) -> None:
    os.read(server, 1)
    os.killpg(0, signal.SIGKILL)


def write_graph(workspace: Workspace, graph: Graph) -> None:
    """Write the task graph (called in the process)."""
    write_json(_file(workspace), {"graph": asdict(graph)}, durable=False)


def write_failure(workspace: Workspace, failure: RunFailure) -> None:
    """Write why planning failed (called in the process)."""
    write_json(_file(workspace), {"failure": asdict(failure)}, durable=False)


async def _end_process(process: PlanProcess, root: Path) -> None:
    await asyncio.to_thread(_end, process.pid, root)
    await process.wait()


def _end(pid: int, root: Path) -> None:
    """End the process and everything that it started.

    Daemons have left its process group; their environment still has the mark.
    """
    send_group(pid, signal.SIGKILL)
    end_all(lambda: [*members(pid), *marked(root, pid)], scans=2)


def _read(workspace: Workspace) -> Graph:
    try:
        result = read_json(_file(workspace), _RESULT_LIMIT)
        if "graph" in result:
            return msgspec.convert(result["graph"], Graph)
        failure = msgspec.convert(result["failure"], RunFailure)
    except (OSError, ValueError, KeyError, TypeError) as error:  # a workflow can write the file
        stderr = log_tail(workspace.stderr, _STDERR_BYTES).replace("\n", " ")
        raise EngineFault(f"planning the workflow ended without a result: {stderr}") from error
    hint = f"; {failure.hint}" if failure.hint else ""
    raise InvalidRequest(f"the workflow cannot be planned: {failure.message}{hint}")


def _file(workspace: Workspace) -> Path:
    return workspace.root / "rehearsal.json"
