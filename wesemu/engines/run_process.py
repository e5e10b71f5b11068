"""The detached process of one run: holds run.lock, supervises one worker, writes exit_code.

It has no threads and runs no workflow code, so it outlives a crashing worker. It adopts the
orphans of the run and ends them. Parts: the lock, `detach`, the worker interface, `execute`
(the launch sequence) and `RunProcess` (the supervision loop).
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from resource import struct_rusage
from types import FrameType
from typing import Any, NoReturn

from wesemu.engines import event_log as events
from wesemu.engines.event_log import EventLog
from wesemu.engines.failures import signal_failure
from wesemu.engines.processes import (
    MARK,
    ProcessHandle,
    adopt_orphans,
    descendants,
    end_all,
    exit_code_of,
    identify,
    offer_to_oom_killer,
    send,
    start_when_possible,
)
from wesemu.engines.slurm import ON_SLURM, end_jobs
from wesemu.errors import EngineFault
from wesemu.runs.model import RunFailure, TaskState
from wesemu.runs.run_directory import Workspace, read_json, write_atomically

# run.lock: locked with flock while the run process lives; its text identifies the holder.

_LOCK_SECONDS = 0.5
_LOCK_POLL_SECONDS = 0.01
_LOCK_FILE_LIMIT = 10_000


class RunLock:
    """The lock of one run directory, held by this process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> "RunLock | None":
        """Lock the file. Return None if another run process holds it.

        `is_held` in another process takes the lock for a moment; this call waits for that.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(_LOCK_POLL_SECONDS)
        lock = cls(descriptor)
        lock.write_holder()
        return lock

    def write_holder(self) -> None:
        """Write the process id and identity of this process into the lock file."""
        text = json.dumps({"pid": os.getpid(), "identity": identify(os.getpid())}) + "\n"
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def close(self) -> None:
        """Close the descriptor in a forked child. The parent keeps the lock."""
        os.close(self._descriptor)


def is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def holder(path: Path) -> ProcessHandle | None:
    """Return the process named in the lock file, which may have ended; None if unreadable."""
    try:
        record = read_json(path, _LOCK_FILE_LIMIT)
        return ProcessHandle(pid=int(record["pid"]), identity=str(record["identity"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


CANCELED = 128 + signal.SIGTERM
"""The exit status of a canceled run."""

_TICK_SECONDS = 0.1
_KILL_AFTER_SECONDS = 2.0

Announce = Callable[[dict[str, Any]], None]


def detach(run: Callable[[Announce], None]) -> NoReturn:
    """Call `run` in a forked process, print its announcement as JSON, and exit.

    The exit status is 1 without an announcement. The caller must have no threads.
    """
    reader, writer = os.pipe()

    def announce(message: dict[str, Any]) -> None:
        os.write(writer, json.dumps(message).encode() + b"\n")
        os.close(writer)

    if os.fork() == 0:
        code = 1
        try:
            os.close(reader)
            fork_from_subreaper()
            run(announce)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    # the read ends at the announcement, or when a child that failed early has exited
    os.close(writer)
    with os.fdopen(reader) as message:
        announced = message.read()
    sys.stdout.write(announced)
    sys.exit(0 if announced else 1)


class Worker:
    """The child process that runs the workflow, as the run process uses it."""

    pid: int

    def fileno(self) -> int:
        """Return the descriptor to poll, or -1 for none."""
        return -1

    def on_readable(self) -> None:
        """Handle input; called when `fileno` is readable."""

    def cancel(self) -> None:
        """Ask the worker to end its tools and then itself. Must not block."""
        raise NotImplementedError

    def child_ended(self, pid: int, status: int, usage: struct_rusage) -> None:
        """Handle the end of another child, which may be an adopted orphan."""

    def ended(self, code: int) -> None:
        """Record why the worker ended, unless the event log has the reason."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a worker starts with. A forked worker must call `enter_child` first."""

    workspace: Workspace
    event_log: EventLog
    lock: RunLock

    def record_signal(self, program: str, code: int) -> None:
        """Record the failure of a worker that a signal has ended (exit status above 128)."""
        if (failure := signal_failure(program, code)) is not None:
            self.event_log.error(failure)

    def enter_child(self) -> None:
        """Undo the settings of the run process in a forked child: signals and the lock."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self.lock.close()
        offer_to_oom_killer()


def run_child(run: Callable[[], int]) -> NoReturn:
    """Call `run` in a forked child and exit with its result. Never returns into parent code."""
    code = 1
    try:
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def execute(
    workspace: Workspace,
    start: Callable[[RunContext], Worker],
    announce: Announce,
    *,
    details: dict[str, Any],
    grace_seconds: float,
) -> None:
    """Run one workflow, from taking the lock to writing exit_code.

    The caller has called `fork_from_subreaper`. Calls `announce` with {"pid", "identity"} once it
    holds the lock, or with {"locked": True}. `details` goes into the `launched` record.
    """
    # the lock comes before any write: two launches of one run must not mix their records
    lock = RunLock.take(workspace.lock)
    if lock is None:
        announce({"locked": True})
        return
    # the workflow of an earlier launch may have replaced our files by links or FIFOs
    events.remove_irregular_files(workspace)
    # an old exit_code would hide a crash of this launch
    workspace.exit_code.unlink(missing_ok=True)
    events.repair_tail(workspace)
    events.create_notification_fifo(workspace)
    event_log = EventLog(workspace)
    earlier = events.history(workspace)
    _redirect(workspace)
    # signal handlers come before the announcement: the server may cancel at once
    process = RunProcess(RunContext(workspace, event_log, lock), grace_seconds)
    announce({"pid": os.getpid(), "identity": identify(os.getpid())})
    launch = 1 + sum(record["event"] == "launched" for record in earlier)
    # a crashed launch may have left attempts in the state RUNNING
    events.close_tasks(event_log, earlier, frozenset({TaskState.RUNNING}))
    event_log.write("launched", launch=launch, pid=os.getpid(), **details)
    code = process.run(start)
    if code != 0:
        _end_remote(workspace, details)
    if code != 0 or launch > 1:
        events.close_tasks(event_log, events.history(workspace))
    # if this process dies or the disk is full before exit_code, the server finds the end here
    event_log.write("ended", exit_code=code)
    event_log.close()
    try:
        # After a power cut the results in `work/` may be lost, too, so a relaunch is right.
        write_atomically(workspace.exit_code, f"{code}\n".encode(), durable=False)
    except OSError as error:
        events.log_warning(f"writing exit_code failed: {error}")
    events.notification_fifo(workspace).unlink(missing_ok=True)


def fork_from_subreaper() -> None:
    """Fork; return in the child, in a new session. The parent is its subreaper until it has ended.

    If the run process is killed, the kernel gives its orphans to the subreaper, which kills them
    whatever their environment, session and process group are.
    """
    adopt_orphans()
    child = start_when_possible(os.fork)
    if child == 0:
        os.setsid()
        return
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _close_descriptors()
        code = os.waitstatus_to_exitcode(_wait_for(child))
        end_all(_remaining_children)
    finally:
        os._exit(exit_code_of(code))


def _wait_for(child: int) -> int:
    """Reap adopted processes until the child has ended; return its status."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return status


def _remaining_children() -> list[int]:
    # zombies have to be reaped, or `end_all` would wait for them
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:  # the usual case; `descendants` reads all processes of the machine
        return []
    return descendants(os.getpid())


def _close_descriptors() -> None:
    """Close inherited pipes and sockets: their readers wait until all writers have closed."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _end_remote(workspace: Workspace, details: dict[str, Any]) -> None:
    """Cancel the Slurm jobs of the run."""
    if details.get("executor") in ON_SLURM:
        try:
            end_jobs(workspace.work)
        except EngineFault as fault:
            events.log_warning(f"{fault}")


def _redirect(workspace: Workspace) -> None:
    """Read standard input from /dev/null; append output and errors to the logs of the run."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    for target, path, mode in (
        (0, os.devnull, os.O_RDONLY),
        (1, workspace.stdout, flags),
        (2, workspace.stderr, flags),
    ):
        descriptor = os.open(path, mode, 0o644)
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ[MARK] = str(workspace.root)


class RunProcess:
    """Supervises one worker until no process of the run is left. SIGTERM cancels the run."""

    def __init__(self, context: RunContext, grace_seconds: float) -> None:
        self._context = context
        self._grace = grace_seconds
        self._cancel_asked = False
        self._cancel_since: float | None = None
        self._worker: Worker | None = None
        self._status: int | None = None
        self._wakeup = self._listen_to_signals()
        adopt_orphans()

    def run(self, start: Callable[[RunContext], Worker]) -> int:
        """Return the exit status: the status of the worker, 128 + n for signal n, or CANCELED."""
        try:
            self._worker = start(self._context)
        except Exception as error:
            self._context.event_log.error(RunFailure(message=f"the run could not start: {error}"))
            return 1
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        if self._worker.fileno() >= 0:
            poll.register(self._worker.fileno(), select.POLLIN)
        while self._status is None:
            ready = [descriptor for descriptor, _ in poll.poll(self._poll_timeout())]
            self._handle_ready(ready, poll)
        code = exit_code_of(os.waitstatus_to_exitcode(self._status))
        self._clean_up()
        if code != 0 and self._cancel_asked:  # even if it failed just before the signal
            self._context.event_log.write("canceled")
            return CANCELED
        self._worker.ended(code)
        return code

    def _listen_to_signals(self) -> int:
        # a handler only sets a flag; the wakeup pipe makes `poll` return (signal.set_wakeup_fd)
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._ask_cancel)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        return reader

    def _ask_cancel(self, number: int, frame: FrameType | None) -> None:
        self._cancel_asked = True

    def _poll_timeout(self) -> int | None:
        return None if self._cancel_since is None else int(_TICK_SECONDS * 1000)

    def _handle_ready(self, ready: list[int], poll: select.poll) -> None:
        worker = self._worker
        assert worker is not None
        if self._wakeup in ready:  # its bytes only say that a signal came
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)
        if worker.fileno() in ready:
            descriptor = worker.fileno()
            worker.on_readable()
            if worker.fileno() < 0:  # the worker has closed its end
                poll.unregister(descriptor)
        if self._cancel_asked and self._cancel_since is None:
            self._cancel_since = time.monotonic()
            worker.cancel()
        self._escalate(worker)
        self._reap(worker)

    def _escalate(self, worker: Worker) -> None:
        """Kill the tools after the grace period, and later the worker.

        In between the worker removes partial outputs and records the ends of its tasks.
        """
        if self._cancel_since is None:
            return
        late = time.monotonic() - self._cancel_since - self._grace
        if late > 0:
            tools = [pid for pid in descendants(os.getpid()) if pid != worker.pid]
            send(tools, signal.SIGKILL)
        if late > _KILL_AFTER_SECONDS:
            send([worker.pid], signal.SIGKILL)

    def _reap(self, worker: Worker) -> bool:
        """Wait for ended children without blocking. Return False if there are no children.

        One SIGCHLD can stand for several ends, so the loop continues until none is left.
        """
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == worker.pid:
                self._status = status
            else:
                worker.child_ended(pid, status, usage)

    def _clean_up(self) -> None:
        """Kill the processes that the worker left behind: none outlives its run."""
        worker = self._worker
        assert worker is not None
        if self._reap(worker):
            end_all(lambda: self._remaining(worker))

    def _remaining(self, worker: Worker) -> list[int]:
        return descendants(os.getpid()) if self._reap(worker) else []
