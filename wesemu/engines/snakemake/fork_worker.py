"""The worker of the mode "warm": forked from the run's process, which forks for its `run:` jobs
as well, because only a process without threads can."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from resource import struct_rusage
from typing import Any, NoReturn

from wesemu.engines import journal as events
from wesemu.engines.leases import LeaseDesk
from wesemu.engines.processes import die_with_parent, send_group
from wesemu.engines.run_process import Site
from wesemu.engines.sandbox import enter_sandbox
from wesemu.engines.snakemake import hooks
from wesemu.engines.snakemake.order import Order
from wesemu.engines.snakemake.places import ThisMachine
from wesemu.engines.snakemake.slurm_tasks import SlurmTasks
from wesemu.engines.snakemake.task_leases import TaskLeases
from wesemu.engines.snakemake.watch import Watch
from wesemu.engines.snakemake.workflow import WorkflowRun, tool_environment
from wesemu.engines.task_process import Attempt, Usage, exit_code_of, measure
from wesemu.runs.model import RunFailure

_MESSAGE_LIMIT = 1 << 18

Message = dict[str, Any]


class ForkWorker:
    """Implements `run_process.Worker`. Messages are JSON, one a datagram:
    the worker sends {"fork"}, and is sent {"forked"}, {"ended"} and {"cancel"}."""

    def __init__(self, site: Site, order: Order) -> None:
        self._site = site
        self._order = order
        self._forks = dict[int, int]()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _in_child(lambda: self._leave(parent), lambda: _work(site, order, theirs))
        theirs.close()
        self._open = True

    @property
    def pid(self) -> int:
        return self._pid

    def fileno(self) -> int:
        return self._channel.fileno() if self._open else -1

    def answer(self) -> None:
        content = self._channel.recv(_MESSAGE_LIMIT)
        if not content:
            self._open = False
            return
        message = json.loads(content)
        order = self._order
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _in_child(lambda: self._leave(parent), lambda: _run_python(self._site, order, message))
        self._forks[pid] = message["fork"]
        self._send({"forked": message["fork"], "pid": pid})

    def cancel(self) -> None:
        """A sandboxed worker cannot signal the `run:` jobs, which have sandboxes of their own."""
        self._send({"cancel": True})
        if self._order.sandbox is not None:
            for pid in self._forks:
                send_group(pid, signal.SIGTERM)

    def child_ended(self, pid: int, status: int, usage: struct_rusage) -> None:
        if (number := self._forks.pop(pid, None)) is not None:
            code = exit_code_of(os.waitstatus_to_exitcode(status))
            self._send({"ended": number, "exit_code": code, "usage": asdict(measure(usage))})

    def ended(self, code: int) -> None:
        if code > 128:
            name = f"signal {code - 128}"
            self._site.journal.error(
                RunFailure(
                    message=f"Snakemake itself was ended by {name}",
                    hint="most often because memory ran out" if code == 137 else None,
                    exit_code=code,
                    stderr="stderr.log",
                )
            )

    def _send(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # the worker has just ended
            self._channel.send(json.dumps(message).encode())

    def _leave(self, parent: int) -> None:
        self._site.leave()
        self._channel.close()
        die_with_parent(parent)


def _in_child(leave: Callable[[], None], run: Callable[[], int]) -> NoReturn:
    """Everything that a forked child does. Never comes back into its parent's code."""
    code = 1
    try:
        leave()
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _work(site: Site, order: Order, channel: socket.socket) -> int:
    earlier = events.history(site.workspace)
    helper = _Helper(channel, tool_environment(site.workspace, order))
    _confine(site, order)
    leases = TaskLeases(LeaseDesk(order.standing) if order.standing else None)
    remote = order.executor == "slurm"
    place = SlurmTasks(site.workspace, order.cluster) if remote else ThisMachine()
    watch = Watch(site.workspace, site.journal, earlier, helper.start_python, leases, place)
    helper.listen(watch.cancel)
    return WorkflowRun(site.workspace, order, site.journal, watch).run()


class _Helper:
    """The worker's end of the channel, shared by its threads."""

    def __init__(self, channel: socket.socket, environment: Mapping[str, str]) -> None:
        self._channel = channel
        self._environment = environment
        self._lock = threading.Lock()
        self._answers = dict[int, SimpleQueue[Message]]()

    def listen(self, cancel: Callable[[], None]) -> None:
        threading.Thread(
            target=self._listen, args=[cancel], name="run process", daemon=True
        ).start()

    def _listen(self, cancel: Callable[[], None]) -> None:
        while content := self._channel.recv(_MESSAGE_LIMIT):
            message = json.loads(content)
            if "cancel" in message:
                cancel()
            else:
                self._answers[message.get("forked") or message["ended"]].put(message)

    def start_python(
        self,
        arguments: list[str],
        directory: str,
        attempt: Attempt,
        started: Callable[[int], None],
    ) -> int:
        """Have the run's process fork a child that is the Snakemake of one `run:` job."""
        answers = SimpleQueue[Message]()
        with self._lock:
            number = len(self._answers) + 1
            self._answers[number] = answers
        request = {
            "fork": number,
            "arguments": arguments,
            "directory": directory,
            "folder": str(attempt.folder),
            "environment": {**self._environment, **attempt.environment},
        }
        self._channel.send(json.dumps(request).encode())
        started(answers.get()["pid"])
        ended = answers.get()
        attempt.process_ended(ended["exit_code"], Usage(**ended["usage"]))
        return int(ended["exit_code"])


def _confine(site: Site, order: Order) -> None:
    if order.sandbox is not None:
        enter_sandbox(order.sandbox, site.workspace, order.standing)


def _run_python(site: Site, order: Order, request: Message) -> int:
    """Be the Snakemake of one `run:` job."""
    os.setpgid(0, 0)
    _confine(site, order)
    for target, name in ((1, "stdout"), (2, "stderr")):
        path = Path(request["folder"]) / name
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(request["directory"])
    os.environ.update(request["environment"])
    hooks.keep_signals()
    try:
        import_module("snakemake.cli").main(request["arguments"])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
