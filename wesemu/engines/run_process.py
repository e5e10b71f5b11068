"""A run's own process: it holds run.lock, minds one worker and leaves exit_code.

It has no threads and runs no workflow code, so that it is there to the end whatever becomes of
the worker. It is the parent of all that the run leaves orphaned, and ends it all.
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
from typing import Any, NoReturn, Protocol

from wesemu.engines import event_log as events
from wesemu.engines.event_log import EventLog
from wesemu.engines.processes import (
    MARK,
    ProcessHandle,
    adopt_orphans,
    descendants,
    end_all,
    identify,
    offer_to_oom_killer,
    send,
)
from wesemu.engines.slurm import end_jobs
from wesemu.errors import EngineFault
from wesemu.runs.model import RunFailure, TaskState
from wesemu.runs.run_directory import Workspace, read_json, write_atomically

# run.lock: held by flock for as long as a run's process lives; its text says who holds it.


_PATIENCE_SECONDS = 0.5
_STEP_SECONDS = 0.01
_LIMIT = 10_000


class RunLock:
    """The lock of one run directory, held by this process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> "RunLock | None":
        """None where another process holds it; one that only looks is waited for."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _try(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(_STEP_SECONDS)
        lock = cls(descriptor)
        lock.sign()
        return lock

    def sign(self) -> None:
        """Write who holds the lock."""
        text = json.dumps({"pid": os.getpid(), "identity": identify(os.getpid())}) + "\n"
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def drop(self) -> None:
        """In a forked child: forget the lock; the parent goes on holding it."""
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
    """Who wrote the lock's text last, alive or not."""
    try:
        record = read_json(path, _LIMIT)
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


def detach(live: Callable[[Announce], None]) -> NoReturn:
    """Have `live` called in another process, print what it announces as JSON, and
    end; 1 if it announced nothing. Only for a launcher without threads."""
    hear, tell = os.pipe()

    def announce(news: dict[str, Any]) -> None:
        os.write(tell, json.dumps(news).encode() + b"\n")
        os.close(tell)

    if os.fork() == 0:
        code = 1
        try:
            os.close(hear)
            live(announce)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(tell)
    with os.fdopen(hear) as news:
        announced = news.read()
    sys.stdout.write(announced)
    sys.exit(0 if announced else 1)


class Worker(Protocol):
    """The child that runs the workflow."""

    @property
    def pid(self) -> int: ...

    def fileno(self) -> int:
        """What to listen on; -1 for nothing."""
        ...

    def answer(self) -> None:
        """Called when `fileno` can be read."""
        ...

    def cancel(self) -> None:
        """Ask the worker to end its tools and then itself. Must not block."""
        ...

    def child_ended(self, pid: int, status: int, usage: struct_rusage) -> None:
        """Another child of the run's process has ended; it may be an adopted orphan."""
        ...

    def ended(self, code: int) -> None:
        """The worker has ended; say why, if the journal does not say it yet."""
        ...


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a worker gets to start with. A forked one has to call `leave` first."""

    workspace: Workspace
    journal: EventLog
    lock: RunLock

    def leave(self) -> None:
        """In a forked child: become an ordinary process that knows nothing of the lock."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self.lock.drop()
        offer_to_oom_killer()


def live(
    workspace: Workspace,
    start: Callable[[RunContext], Worker],
    announce: Announce,
    *,
    about: dict[str, Any],
    grace_seconds: float,
) -> None:
    """Be the process of a run in a session of its own, from the lock to exit_code.

    `announce` is told {"pid", "identity"} once the lock is held, or {"locked": True}. `about`
    goes into the `launched` record.
    """
    _fork_from_keeper()
    lock = RunLock.take(workspace.lock)
    if lock is None:
        announce({"locked": True})
        return
    events.own_files(workspace)
    workspace.exit_code.unlink(missing_ok=True)
    events.repair_tail(workspace)
    events.create_notification_fifo(workspace)
    journal = EventLog(workspace)
    earlier = events.history(workspace)
    _redirect(workspace)
    process = RunProcess(RunContext(workspace, journal, lock), grace_seconds)
    announce({"pid": os.getpid(), "identity": identify(os.getpid())})
    launch = 1 + sum(record["event"] == "launched" for record in earlier)
    events.close_tasks(journal, earlier, frozenset({TaskState.RUNNING}))
    journal.write("launched", launch=launch, pid=os.getpid(), **about)
    code = process.run(start)
    if code != 0:
        _end_remote(workspace, about)
    if code != 0 or launch > 1:
        events.close_tasks(journal, events.history(workspace))
    journal.write("ended", exit_code=code)
    journal.close()
    try:
        write_atomically(workspace.exit_code, f"{code}\n".encode())
    except OSError as error:  # the history tells it, too
        events.log_warning(f"exit_code is not written: {error}")
    events.notification_fifo(workspace).unlink(missing_ok=True)


def _fork_from_keeper() -> None:
    """Return in a child. This process becomes its keeper: should the run's process be killed, all
    that it leaves orphaned becomes the keeper's and is ended, whatever its environment, session
    and process group are."""
    adopt_orphans()
    child = os.fork()
    if child == 0:
        os.setsid()
        return
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _let_go_of_descriptors()
        code = os.waitstatus_to_exitcode(_wait_for(child))
        end_all(_remaining_children)
    finally:
        os._exit(code if code >= 0 else 128 - code)


def _wait_for(child: int) -> int:
    """Collect adopted processes until the child has ended; its status."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return status


def _remaining_children() -> list[int]:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    return descendants(os.getpid())


def _let_go_of_descriptors() -> None:
    """Others wait for the ends of pipes and sockets that were inherited."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _end_remote(workspace: Workspace, about: dict[str, Any]) -> None:
    """What is left of the run on other machines."""
    if about.get("executor", "local") != "local":
        try:
            end_jobs(workspace.work)
        except EngineFault as fault:
            events.log_warning(f"{fault}")


def _redirect(workspace: Workspace) -> None:
    """Standard input from nowhere, output and errors appended to the run's logs."""
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
    """Minds one worker until nothing of the run is left. Takes SIGTERM as the wish to cancel."""

    def __init__(self, site: RunContext, grace_seconds: float) -> None:
        self._site = site
        self._grace = grace_seconds
        self._cancel_asked = False
        self._cancel_since: float | None = None
        self._worker: Worker | None = None
        self._status: int | None = None
        self._awake = self._listen_to_signals()
        adopt_orphans()

    def run(self, start: Callable[[RunContext], Worker]) -> int:
        """The run's exit status: the worker's, 128 + n for signal n, CANCELED."""
        try:
            self._worker = start(self._site)
        except Exception as error:
            self._site.journal.error(RunFailure(message=f"the run could not start: {error}"))
            return 1
        poll = select.poll()
        poll.register(self._awake, select.POLLIN)
        if self._worker.fileno() >= 0:
            poll.register(self._worker.fileno(), select.POLLIN)
        while self._status is None:
            ready = [descriptor for descriptor, _ in poll.poll(self._patience())]
            self._wake(ready, poll)
        code = os.waitstatus_to_exitcode(self._status)
        code = code if code >= 0 else 128 - code
        self._sweep()
        if code != 0 and self._cancel_asked:  # perhaps when the worker had just been ended, too
            self._site.journal.write("canceled")
            return CANCELED
        self._worker.ended(code)
        return code

    def _listen_to_signals(self) -> int:
        awake, signaled = os.pipe()
        os.set_blocking(awake, False)
        os.set_blocking(signaled, False)
        signal.set_wakeup_fd(signaled, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._ask_cancel)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        return awake

    def _ask_cancel(self, number: int, frame: FrameType | None) -> None:
        self._cancel_asked = True

    def _patience(self) -> int | None:
        return None if self._cancel_since is None else int(_TICK_SECONDS * 1000)

    def _wake(self, ready: list[int], poll: select.poll) -> None:
        worker = self._worker
        assert worker is not None
        if self._awake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._awake, 4096)
        if worker.fileno() in ready:
            channel = worker.fileno()
            worker.answer()
            if worker.fileno() < 0:
                poll.unregister(channel)
        if self._cancel_asked and self._cancel_since is None:
            self._cancel_since = time.monotonic()
            worker.cancel()
        self._escalate(worker)
        self._reap(worker)

    def _escalate(self, worker: Worker) -> None:
        """First the tools, so that the worker can tidy up after them; then the worker."""
        if self._cancel_since is None:
            return
        late = time.monotonic() - self._cancel_since - self._grace
        if late > 0:
            tools = [pid for pid in descendants(os.getpid()) if pid != worker.pid]
            send(tools, signal.SIGKILL)
        if late > _KILL_AFTER_SECONDS:
            send([worker.pid], signal.SIGKILL)

    def _reap(self, worker: Worker) -> bool:
        """Collect ended children; False where there is no child at all."""
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

    def _sweep(self) -> None:
        """End what the worker has left behind: nothing outlives its run."""
        worker = self._worker
        assert worker is not None
        if self._reap(worker):
            end_all(lambda: self._left(worker))

    def _left(self, worker: Worker) -> list[int]:
        return descendants(os.getpid()) if self._reap(worker) else []
