"""The worker of a run: forked from the run's process, it calls the library and nothing else."""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from resource import struct_rusage
from typing import NoReturn

from wesemu.engines.hosted.order import Order
from wesemu.engines.hosted.tasks import Tasks
from wesemu.engines.leases import LeaseDesk
from wesemu.engines.processes import die_with_parent
from wesemu.engines.run_process import CANCELED, Site
from wesemu.engines.sandbox import enter_sandbox
from wesemu.engines.tickets import devices_environment
from wesemu.runs.model import RunFailure
from wesemu.runs.workspace import Workspace


@dataclass(slots=True)
class Desk:
    """What a library's run gets to work with.

    `stop` ends what the tasks' process groups do not (containers); where it says True, the
    library then ends by itself, otherwise the worker ends at once.
    """

    workspace: Workspace
    order: Order
    tasks: Tasks
    stop: Callable[[], bool] = field(default=lambda: False)

    def fail(self, failure: RunFailure) -> int:
        """Give the reason, unless tasks that failed are reason enough; the exit status."""
        if not self.tasks.blame():
            self.tasks.journal.error(failure)
        return 1


Work = Callable[[Desk], int]
"""Runs the workflow; the exit status, after the reason has been told."""


class HostedWorker:
    """Implements `run_process.Worker`. A byte on its pipe means cancel."""

    def __init__(self, site: Site, order: Order, work: Work) -> None:
        self._site = site
        self._order = order
        hear, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._be_child(parent, hear, work)
        os.close(hear)

    @property
    def pid(self) -> int:
        return self._pid

    def fileno(self) -> int:
        return -1

    def answer(self) -> None:
        """It says nothing."""

    def cancel(self) -> None:
        with contextlib.suppress(OSError):  # the worker has just ended
            os.write(self._tell, b"\0")

    def child_ended(self, pid: int, status: int, usage: struct_rusage) -> None:
        """An adopted orphan; nothing is to be done."""

    def ended(self, code: int) -> None:
        if code > 128:
            self._site.journal.error(
                RunFailure(
                    message=f"{self._order.engine} itself was ended by signal {code - 128}",
                    hint="most often because memory ran out" if code == 137 else None,
                    exit_code=code,
                    stderr="stderr.log",
                )
            )

    def _be_child(self, parent: int, hear: int, work: Work) -> NoReturn:
        """Never comes back into its parent's code."""
        code = 1
        try:
            self._site.leave()
            os.close(self._tell)
            die_with_parent(parent)
            order, site = self._order, self._site
            leases = LeaseDesk(order.standing) if order.standing else None
            if order.sandbox is not None:
                enter_sandbox(order.sandbox, site.workspace, order.standing)
            tasks = Tasks(site.workspace, site.journal, order.engine, leases)
            desk = Desk(site.workspace, order, tasks)
            threading.Thread(target=_listen, args=[hear, desk], name="cancel", daemon=True).start()
            os.chdir(self._site.workspace.work)
            if order.standing or not order.resources.gpus:  # without leases the run's GPUs are seen
                os.environ |= devices_environment(())
            code = work(desk)
        except BaseException as error:
            traceback.print_exc()
            name = type(error).__name__
            self._site.journal.error(RunFailure(f"{name}: {error}", stderr="stderr.log"))
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def _listen(hear: int, desk: Desk) -> None:
    if not os.read(hear, 1):
        return  # the run's process has gone, and so will this one
    desk.tasks.cancel()
    if not desk.stop():
        desk.tasks.wait_for_groups()
        os._exit(CANCELED)
