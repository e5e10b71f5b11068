"""A workflow planned without being run, by a process of its own that leaves nothing behind.

Planning a workflow can run code of its author (a Snakefile is Python). So it happens in a process
that is ended after a while, whatever it has started.
"""

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wesemu.engines.processes import MARK, end_all, marked, members, offer_to_oom_killer, send_group
from wesemu.engines.sandbox import Sandbox, in_bubblewrap
from wesemu.errors import EngineFault, InvalidRequest
from wesemu.runs.model import Graph, RunFailure, graph_from_json, graph_to_json
from wesemu.runs.run_directory import Workspace, read_end, read_json, write_json

SECONDS = 60.0
_AT_ONCE = 2
_LARGEST = 64 << 20
_LAST_WORDS = 500


class DryRuns:
    """Plans workflows by `wesemu.engines.main`, few at a time, each for at most `seconds`."""

    def __init__(
        self, python: str, environment: Mapping[str, str], seconds: float = SECONDS
    ) -> None:
        self._python = python
        self._environment = environment
        self._seconds = seconds
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def perform(
        self, engine: str, workspace: Workspace, sandbox: Sandbox | None = None
    ) -> Graph:
        """The graph of the tasks, planned in bubblewrap where `sandbox` says so. Raises
        InvalidRequest for a workflow that cannot be planned, EngineFault."""
        async with self._turns:
            process = await asyncio.to_thread(self._spawn, engine, workspace, sandbox)
            try:
                async with asyncio.timeout(self._seconds):
                    await asyncio.to_thread(process.wait)
            except TimeoutError as error:
                raise InvalidRequest(
                    f"the workflow was not planned within {self._seconds:.0f} s, the most that a "
                    "dry run may take; submit it, or plan it where you wrote it",
                    field="workflow_url",
                ) from error
            finally:
                await asyncio.to_thread(_end, process, workspace.root)
        return await asyncio.to_thread(_read, workspace)

    def _spawn(
        self, engine: str, workspace: Workspace, sandbox: Sandbox | None
    ) -> "subprocess.Popen[bytes]":
        command = [self._python, "-P", "-m", "wesemu.engines.main", "plan", engine]
        command.append(str(workspace.root))
        if sandbox is not None and sandbox.program:
            command = in_bubblewrap(sandbox, workspace, command, workspace.root)
        temporary = workspace.root / "tmp"
        temporary.mkdir(exist_ok=True)
        own = {MARK: str(workspace.root), "TMPDIR": str(temporary)}
        with workspace.stderr.open("wb") as talk:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # which ends when this server does
                stdout=talk,
                stderr=talk,
                cwd="/",
                env={**self._environment, **own},
                start_new_session=True,
            )
        offer_to_oom_killer(process.pid)
        return process


def tie_to_server() -> None:
    """For the process: end, with its group, when the server that started it is gone."""
    server = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_await_end, args=[server], name="server", daemon=True).start()


def _await_end(server: int) -> None:
    os.read(server, 1)
    os.killpg(0, signal.SIGKILL)


def write_graph(workspace: Workspace, graph: Graph) -> None:
    """For the process: it was planned."""
    write_json(_file(workspace), {"graph": graph_to_json(graph)})


def write_failure(workspace: Workspace, failure: RunFailure) -> None:
    """For the process: it cannot be planned."""
    write_json(_file(workspace), {"failure": asdict(failure)})


def _end(process: "subprocess.Popen[bytes]", root: Path) -> None:
    """Whatever it started goes too, daemons as well (they carry the mark)."""
    send_group(process.pid, signal.SIGKILL)
    end_all(lambda: [*members(process.pid), *marked(root)])
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _read(workspace: Workspace) -> Graph:
    try:
        told: dict[str, Any] = read_json(_file(workspace), _LARGEST)
    except (OSError, ValueError) as error:
        words = _last_words(workspace)
        raise EngineFault(
            f"planning the workflow ended without a result: {words.replace(os.linesep, ' ')}"
        ) from error
    if "graph" in told:
        return graph_from_json(told["graph"])
    failure = RunFailure(**told["failure"])
    hint = f"; {failure.hint}" if failure.hint else ""
    raise InvalidRequest(f"the workflow cannot be planned: {failure.message}{hint}")


def _last_words(workspace: Workspace) -> str:
    try:
        return read_end(workspace.stderr, _LAST_WORDS).decode(errors="replace").strip()
    except OSError:
        return ""


def _file(workspace: Workspace) -> Path:
    return workspace.root / "rehearsal.json"
