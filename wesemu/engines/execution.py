"""Run processes as the server sees them: through the files of the run directory.

Parts: `DetachedExecution` (follows one run), `find` and `end_leftovers` (recovery after a
restart), `Launcher` and `start_runner` (start of a run), `tools_environment`.
"""

import asyncio
import contextlib
import getpass
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from wesemu.engines import event_log
from wesemu.engines.event_log import OutputRecord, Tail
from wesemu.engines.launch_spec import launch_spec_file, looks_secret
from wesemu.engines.processes import (
    ProcessHandle,
    end_marked,
    identify,
    send_group,
    session_of,
    wait_for_end,
)
from wesemu.engines.run_process import holder, is_held
from wesemu.engines.slurm import ON_SLURM, end_jobs
from wesemu.errors import EngineFault
from wesemu.runs.model import JsonObject
from wesemu.runs.ports import Event, Outcome
from wesemu.runs.run_directory import Workspace, read_regular
from wesemu.util.text import os_sentence

_KILLED = 128 + signal.SIGKILL
_MARGIN_SECONDS = 5.0
_LOCK_TEXT_SECONDS = 2.0
_SLOW_POLL_SECONDS = 0.5
_FAST_POLL_SECONDS = 0.03
_BATCH_SECONDS = 0.02


class DetachedExecution:
    """Implements `runs.ports.Execution` for a run process.

    The process writes to a FIFO after every record, and a pidfd becomes readable at its end.
    Without FIFO or pidfd this class polls the files every 30 ms.
    """

    def __init__(self, workspace: Workspace, *, grace_seconds: float) -> None:
        self._workspace = workspace
        self._grace = grace_seconds
        self._process: ProcessHandle | None = None
        self._descriptors = dict[str, int]()
        self._ended = asyncio.Event()
        self._listeners = set[asyncio.Event]()
        self._watcher: asyncio.Task[None] | None = None
        self._closed = threading.Event()
        self._outputs: OutputRecord | None = None

    async def follow(self, process: ProcessHandle | None) -> "DetachedExecution":
        """Start to follow. `process` is None if the run process has ended."""
        self._process = process
        if process is None or not await asyncio.to_thread(self._open, process):
            self._finish()
            return self
        loop = asyncio.get_running_loop()
        if "fifo" in self._descriptors:
            loop.add_reader(self._descriptors["fifo"], self._on_fifo)
        if "process" in self._descriptors:
            loop.add_reader(self._descriptors["process"], self._finish)
        else:
            self._watcher = asyncio.create_task(self._watch(process), name="run process")
        return self

    def _open(self, process: ProcessHandle) -> bool:
        """Open the FIFO and the pidfd. Return False if the process has ended meanwhile."""
        # a workflow may have put a file there, which the event loop cannot watch
        fifo = event_log.open_fifo(event_log.notification_fifo(self._workspace))
        if fifo is not None:
            self._descriptors["fifo"] = fifo
        if hasattr(os, "pidfd_open"):
            try:
                self._descriptors["process"] = os.pidfd_open(process.pid)
            except ProcessLookupError:
                return False
        # checked after pidfd_open: the process id may have gone to another process before
        return process.alive

    def _on_fifo(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptors["fifo"], 4096)
        self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener.set()

    async def _watch(self, process: ProcessHandle) -> None:
        await asyncio.to_thread(_wait_portably, process, self._closed)
        if not self._closed.is_set():
            self._finish()

    def _finish(self) -> None:
        self.close()
        self._ended.set()
        self._notify()

    def close(self) -> None:
        """Stop following; the run continues. Open iterators then never end."""
        loop = asyncio.get_running_loop()
        for descriptor in self._descriptors.values():
            loop.remove_reader(descriptor)
            os.close(descriptor)
        self._descriptors.clear()
        self._closed.set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def events(self) -> AsyncIterator[Event]:
        tail, grown, outputs = Tail(self._workspace.events), asyncio.Event(), OutputRecord()
        self._listeners.add(grown)
        try:
            while True:
                # Both come before the read: a record or an end during the read is seen next time.
                ended = self._ended.is_set()
                grown.clear()
                records = await asyncio.to_thread(tail.read)
                outputs = event_log.last_outputs(records) or outputs
                for record in records:
                    if (event := event_log.to_event(record)) is not None:
                        yield event
                if not records and ended:
                    self._outputs = outputs
                    return
                if not records:
                    await self._wait_for_records(grown)
                elif not ended:
                    await self._wait_for_batch()
        finally:
            self._listeners.discard(grown)

    async def _wait_for_records(self, grown: asyncio.Event) -> None:
        timeout_seconds = _SLOW_POLL_SECONDS if "fifo" in self._descriptors else _FAST_POLL_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await grown.wait()

    async def _wait_for_batch(self) -> None:
        """Wait 20 ms, so the next read gets several records; less if the process ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BATCH_SECONDS):
                await self._ended.wait()

    async def outcome(self) -> Outcome:
        await self._ended.wait()
        return await asyncio.to_thread(self._read_outcome)

    def _read_outcome(self) -> Outcome:
        code = read_exit_code(self._workspace)
        if code is None:  # the disk may have been full
            code = event_log.logged_exit_code(self._workspace)
        if code is None:
            end_leftovers(self._workspace)
            return Outcome(exit_code=_KILLED, crashed=True)
        if self._outputs is None:
            records = event_log.records(self._workspace)
            self._outputs = event_log.last_outputs(records) or OutputRecord()
        return Outcome(code, self._outputs.files, self._outputs.unpublished)

    async def cancel(self) -> None:
        if self._process is None or self._ended.is_set():
            return
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._grace + _MARGIN_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._ended.wait()
        if not await asyncio.to_thread(self._workspace.exit_code.exists):
            await asyncio.to_thread(end_leftovers, self._workspace)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            if "process" in self._descriptors:
                signal.pidfd_send_signal(self._descriptors["process"], number)
            else:
                os.kill(self._process.pid, number)


def find(workspace: Workspace) -> tuple[bool, ProcessHandle | None]:
    """Return whether a launch exists to attach to, and its process while alive. Blocks.

    Without a launch, ends the processes that an earlier one left. Raises EngineFault if the
    holder of the lock cannot be identified.
    """
    # A run that was never launched has neither file, and no processes to search the machine for.
    if not workspace.lock.exists() and not launch_spec_file(workspace).exists():
        return False, None
    if is_held(workspace.lock):
        # the holder locks first and writes its identity after that
        deadline = time.monotonic() + _LOCK_TEXT_SECONDS
        while (process := holder(workspace.lock)) is None or not process.alive:
            if not is_held(workspace.lock):
                return find(workspace)
            if time.monotonic() > deadline:
                raise EngineFault(
                    f"{workspace.lock} is locked by a process that cannot be identified"
                )
            time.sleep(_FAST_POLL_SECONDS)
        return True, process
    if (
        read_exit_code(workspace) is not None
        or event_log.logged_exit_code(workspace) is not None  # the disk was full for the file
    ):
        return True, None
    end_leftovers(workspace)
    return False, None


def _wait_portably(process: ProcessHandle, closed: threading.Event) -> None:
    while process.alive and not closed.wait(_FAST_POLL_SECONDS):
        continue


def read_exit_code(workspace: Workspace) -> int | None:
    try:
        return int(read_regular(workspace.exit_code, size=20))
    except (FileNotFoundError, ValueError):
        return None


def end_leftovers(workspace: Workspace) -> None:
    """SIGKILL all tools of a run whose run process has died, and cancel its cluster jobs.

    Blocks. Raises EngineFault if the cluster does not answer.
    """
    process = holder(workspace.lock)
    groups, remote = _open_tasks(event_log.records(workspace))
    for group, identity in groups:
        # a workflow can forge records, so only groups in the session of the run are ended
        if process and session_of(group) == process.pid and identify(group) == identity:
            send_group(group, signal.SIGKILL)
    if process is not None:
        # A dying process releases its lock before the kernel kills its worker, which could start
        # another tool until then.
        wait_for_end(process)
    # if the process id is in use again, a session with this number belongs to another program
    session = process.pid if process and identify(process.pid) is None else None
    end_marked(workspace.root, session)
    if remote:
        end_jobs(workspace.work)


def _open_tasks(records: Iterable[JsonObject]) -> tuple[list[tuple[int, str]], bool]:
    """Return the process groups of unfinished tasks, and whether the run used Slurm.

    A group comes with the identity of its leader.
    """
    groups, remote = dict[str, tuple[int, str]](), False
    for record in records:
        remote |= record.get("executor") in ON_SLURM
        match record:
            case {"event": "process", "task": str(id), "group": int(pid), "identity": str(who)}:
                groups[id] = (pid, who)
            case {"event": "task", "task": {"id": str(id), "ended": str()}}:
                groups.pop(id, None)
    return list(groups.values()), remote


_START_SECONDS = 60.0

Reply = dict[str, Any]
"""What `run_process.execute` announces."""


class Launcher:
    """Follows the executions of one engine. `grace_seconds`: time for the tools after a cancel."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace = grace_seconds
        self._executions = set[DetachedExecution]()

    async def follow(self, workspace: Workspace, reply: Reply) -> DetachedExecution:
        """Follow the run that was just launched, or the launch that already held the lock.

        Raises EngineFault if that launch has ended meanwhile.
        """
        if "pid" in reply:
            process = ProcessHandle(pid=int(reply["pid"]), identity=str(reply["identity"]))
            return await self._follow(workspace, process)
        execution = await self.attach(workspace)
        if execution is None:
            name = workspace.root.name
            raise EngineFault(
                f"run {name} was locked by a process that has just ended; submit it again"
            )
        return execution

    async def attach(self, workspace: Workspace) -> DetachedExecution | None:
        """Return None if the run was never launched or has crashed."""
        found, process = await asyncio.to_thread(find, workspace)
        return await self._follow(workspace, process) if found else None

    async def _follow(
        self, workspace: Workspace, process: ProcessHandle | None
    ) -> DetachedExecution:
        self._executions = {other for other in self._executions if not other.ended}
        execution = DetachedExecution(workspace, grace_seconds=self._grace)
        self._executions.add(execution)
        return await execution.follow(process)

    def close(self) -> None:
        """Stop following; the runs continue."""
        for execution in self._executions:
            execution.close()
        self._executions.clear()


async def absolute(workspace: Workspace) -> Workspace:
    """Return the workspace with an absolute path: the run process changes its directory."""
    return Workspace(await asyncio.to_thread(workspace.root.absolute))


def start_runner(python: str, workspace: Workspace, environment: Mapping[str, str]) -> Reply:
    """Start a run process with `wesemu.engines.main`. Blocks. Raises EngineFault."""
    try:
        done = subprocess.run(
            [python, "-P", "-m", "wesemu.engines.main", "run", str(workspace.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment,
            timeout=_START_SECONDS,
            check=True,
        )
        reply: Reply = json.loads(done.stdout)
    except OSError as error:
        raise EngineFault(f"the run process could not be started: {os_sentence(error)}") from error
    except (subprocess.SubprocessError, ValueError) as error:
        raise EngineFault(f"the run process failed to start: {error}") from error
    return reply


def tools_environment(
    added: Mapping[str, str], private: Iterable[str] = (), passed: Iterable[str] = ()
) -> dict[str, str]:
    """Return the environment of the tools of a run.

    This is the environment of the server without its settings (WESEMU_*), without names that
    start with a prefix in `private`, and without secrets (`looks_secret`). Secrets whose names
    match a pattern in `passed` stay. PATH ends with the folder of the server's Python, and a user
    without an entry in /etc/passwd has a LOGNAME.
    """
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
    return {**kept, **_user_name(), "PATH": os.pathsep.join(search), **added}


def _user_name() -> dict[str, str]:
    """Return a LOGNAME for a user without a name (`docker run --user`): Snakemake needs one."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        return {"LOGNAME": str(os.getuid())}
    return {}
