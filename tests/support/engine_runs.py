"""Run directories for tests of engines, and helpers that wait for events of a run."""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TypeVar

from wesemu.engines.execution import end_leftovers
from wesemu.engines.processes import marked, send
from wesemu.engines.run_process import holder, is_held
from wesemu.runs.model import Resources, RunFailure, TaskLog, TaskState
from wesemu.runs.ports import EngineError, Event, Execution, LaunchRequest, Outcome, TaskChanged
from wesemu.runs.run_directory import Workspace

DEADLINE_SECONDS = 60.0

Found = TypeVar("Found")

THREE_RULES = """
    rule all:
        input: "c.txt"
    rule a:
        output: "a.txt"
        shell: "echo one > {output}"
    rule b:
        input: "a.txt"
        output: "{name}.b.txt"
        log: "logs/{name}.log"
        shell: "cat {input} {input} > {output}; echo to stdout; echo to stderr >&2"
    rule c:
        input: "x.b.txt"
        output: "c.txt"
        threads: 2
        shell: "cat {input} > {output}"
"""


def make_job(
    folder: Path,
    workflow: str,
    *,
    parameters: Mapping[str, str] | None = None,
    resources: Resources | None = None,
    scripts: Mapping[str, str] | None = None,
) -> LaunchRequest:
    """Create a run directory with an attached Snakefile."""
    workspace = Workspace(folder)
    workspace.attachments.mkdir(parents=True)
    for name, text in {"Snakefile": workflow, **(scripts or {})}.items():
        (workspace.attachments / name).write_text(dedent(text))
    return LaunchRequest(
        run_id=folder.name,
        workspace=workspace,
        workflow_file=workspace.attachments / "Snakefile",
        config={"sample": "s1"},
        resources=resources or Resources(cores=2),
        engine_parameters=parameters or {},
    )


@dataclass(frozen=True)
class Story:
    """The events and the outcome of a run."""

    events: list[Event]
    outcome: Outcome

    @property
    def tasks(self) -> dict[tuple[str, int], TaskLog]:
        """The last state of each attempt, by task id and attempt number."""
        changes = [event.task for event in self.events if isinstance(event, TaskChanged)]
        return {(task.id, task.attempt): task for task in changes}

    def named(self, name: str) -> list[TaskLog]:
        return [task for task in self.tasks.values() if task.name == name]

    @property
    def failures(self) -> list[RunFailure]:
        return [event.failure for event in self.events if isinstance(event, EngineError)]


async def follow(execution: Execution, seconds: float = DEADLINE_SECONDS) -> Story:
    async with asyncio.timeout(seconds):
        events = [event async for event in execution.events()]
        return Story(events, await execution.outcome())


async def until(look: Callable[[], Found], seconds: float = DEADLINE_SECONDS) -> Found:
    """Return the result of `look` when it is true. Fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := await asyncio.to_thread(look)):
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(0.01)
    return found


async def started(execution: Execution, name: str) -> TaskLog:
    """Return the task `name` when it runs."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for event in execution.events():
            match event:
                case TaskChanged(task=task) if task.name == name:
                    if task.state is TaskState.RUNNING:
                        return task
    raise AssertionError(f"the run ended before {name} started")


async def tools(job: LaunchRequest) -> list[int]:
    """Return the ids of live processes of a run's tools."""
    return await asyncio.to_thread(marked, job.workspace.root)


def end_runs(folder: Path) -> None:
    """Kill the runs that a failed test has left."""
    for lock in folder.glob("*/run.lock"):
        process = holder(lock) if is_held(lock) else None
        if process is not None and process.alive:
            send([process.pid], signal.SIGKILL)
            end_leftovers(Workspace(lock.parent))
