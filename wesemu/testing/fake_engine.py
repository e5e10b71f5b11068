"""ScriptedEngine: an engine for tests that plays a script instead of running tools.

A script is a list of steps, executed in order:
`{"task": "align"}` runs a task with optional `exit_code`, `wildcards`, `stdout`, `stderr`, and
`call`, a function that writes outputs and returns their paths, or raises WesemuError: the task
fails;
`{"write": "results/a.txt", "text": "…"}` writes an output; `{"wait": "name"}` waits for
`release("name")`; `{"crash": "name"}` vanishes without an exit code the first time;
`{"exit": 1, "message": "…"}` ends the run early.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from wesemu.errors import EngineFault, WesemuError
from wesemu.runs.clock import Clock
from wesemu.runs.model import Graph, PlannedTask, Run, RunFailure, TaskLog, TaskState, graph_of
from wesemu.runs.ports import (
    EngineError,
    Event,
    LaunchRequest,
    Outcome,
    Progress,
    RunStarted,
    TaskChanged,
)
from wesemu.runs.run_directory import Workspace, write_atomically

Script = Sequence[Mapping[str, Any]]

_CANCELED = 143
_KILLED = 137


class ScriptedEngine:
    """Implements `runs.ports.Engine` inside the server process.

    `script` returns the script of a job; by default it is the run's parameter `script`. `name` and
    `workflow_types` let it replace another engine.
    """

    version = "1.0"

    def __init__(
        self,
        clock: Clock,
        *,
        script: Callable[[LaunchRequest], Script] | None = None,
        name: str = "scripted",
        workflow_types: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.name = name
        self.workflow_types = workflow_types or {"SCRIPTED": (self.version,)}
        self._clock = clock
        self._script = script or own_script
        self._gates: dict[str, asyncio.Event] = {}
        self._launched: dict[str, _Play] = {}
        self.launches = 0

    def check_parameters(self, parameters: Mapping[str, str]) -> None:
        """Accept all parameters."""

    def release(self, gate: str) -> None:
        """Let every run continue that waits, or will wait, at `{"wait": gate}`."""
        self._gate(gate).set()

    async def warm(self) -> None:
        """Do nothing."""

    async def launch(self, job: LaunchRequest) -> "_Play":
        # after a reset with a seed, another run may get the id of an ended one
        forget = partial(self._launched.pop, job.run_id, None)
        play = _Play(job.workspace, self._script(job), self._gate, self._clock, forget)
        self._launched[job.run_id] = play
        self.launches += 1
        return play

    async def dry_run(self, job: LaunchRequest) -> Graph:
        steps = [step for step in self._script(job) if "task" in step]
        return graph_of(
            [
                PlannedTask(str(number), str(step["task"]), step.get("wildcards", {}), threads=1)
                for number, step in enumerate(steps, start=1)
            ]
        )

    async def attach(self, run: Run, workspace: Workspace) -> "_Play | None":
        return self._launched.get(run.id)

    async def close(self) -> None:
        for play in tuple(self._launched.values()):
            await play.cancel()

    def _gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())


class _Play:
    """One execution of a script; implements `runs.ports.Execution`."""

    def __init__(
        self,
        workspace: Workspace,
        script: Script,
        gate: Callable[[str], asyncio.Event],
        clock: Clock,
        forget: Callable[[], object],
    ) -> None:
        self._workspace = workspace
        self._forget = forget
        self._gate = gate
        self._clock = clock
        self._events: list[Event] = []
        self._changed = asyncio.Event()
        self._outputs: list[str] = []
        self._task = asyncio.create_task(self._play(script), name="scripted run")
        self._task.add_done_callback(lambda _: self._changed.set())

    async def events(self) -> AsyncIterator[Event]:
        seen = 0
        while True:
            while seen < len(self._events):
                yield self._events[seen]
                seen += 1
            if self._task.done():
                return
            self._changed.clear()
            await self._changed.wait()

    async def outcome(self) -> Outcome:
        await asyncio.wait({self._task})
        self._forget()
        code = _CANCELED if self._task.cancelled() else self._task.result()
        return Outcome(exit_code=code, outputs=tuple(self._outputs), crashed=code == _KILLED)

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        self._changed.set()

    async def _play(self, script: Script) -> int:
        total = sum("task" in step for step in script)
        self._emit(RunStarted(total))
        done = 0
        for number, step in enumerate(script, start=1):
            if "wait" in step:
                await self._gate(step["wait"]).wait()
            elif "crash" in step:
                if not self._gate(step["crash"]).is_set():
                    self._gate(step["crash"]).set()
                    return _KILLED
            elif "write" in step:
                path = self._workspace.work / step["write"]
                await asyncio.to_thread(_write, path, str(step.get("text", "")))
                self._outputs.append(step["write"])
            elif "exit" in step:
                message = str(step.get("message", "the script said so"))
                self._emit(EngineError(RunFailure(message, exit_code=step["exit"])))
                return int(step["exit"])
            elif (code := await self._run_task(number, step)) != 0:
                return code
            else:
                done += 1
                self._emit(Progress(done, total))
        return 0

    async def _run_task(self, number: int, step: Mapping[str, Any]) -> int:
        folder = f"tasks/{number}-1"
        for stream in ("stdout", "stderr"):
            path = self._workspace.root / folder / stream
            await asyncio.to_thread(_write, path, str(step.get(stream, "")))
        task = TaskLog(
            id=str(number),
            name=str(step["task"]),
            state=TaskState.RUNNING,
            wildcards=step.get("wildcards", {}),
            command=f"play {step['task']}",
            threads=1,
            started=self._clock.now(),
            stdout=f"{folder}/stdout",
            stderr=f"{folder}/stderr",
        )
        self._emit(TaskChanged(task))
        code = int(step.get("exit_code", 0))
        message = f"the task {task.name} ended with exit status {code}"
        if "call" in step:
            try:
                self._outputs += await asyncio.to_thread(step["call"])
            except WesemuError as error:
                code, message = 1, error.message
        state = TaskState.COMPLETE if code == 0 else TaskState.EXECUTOR_ERROR
        self._emit(TaskChanged(replace(task, state=state, ended=self._clock.now(), exit_code=code)))
        if code:
            self._emit(
                EngineError(RunFailure(message, task=task.name, exit_code=code, stderr=task.stderr))
            )
        return code


def own_script(job: LaunchRequest) -> Script:
    """Return the script in the run's parameter `script`. Raises EngineFault."""
    script = job.config.get("script", [])
    if not isinstance(script, list) or not all(isinstance(step, dict) for step in script):
        raise EngineFault("the parameter 'script' is not a list of steps")
    return [step for step in script if isinstance(step, dict)]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
