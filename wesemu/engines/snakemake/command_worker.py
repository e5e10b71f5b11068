"""The worker of the mode "cli": Snakemake's command line, listened to by a logger plugin."""

import contextlib
import json
import os
import select
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from resource import struct_rusage
from typing import Any

from wesemu.engines import journal as events
from wesemu.engines.leased import wrap
from wesemu.engines.processes import (
    descendants,
    die_with_parent,
    offer_to_oom_killer,
    send,
    send_group,
)
from wesemu.engines.run_process import Site
from wesemu.engines.sandbox import enter_sandbox, in_bubblewrap
from wesemu.engines.snakemake.cluster_plugin import plugin_resources, plugin_words
from wesemu.engines.snakemake.command_options import option_words
from wesemu.engines.snakemake.command_watch import CommandWatch
from wesemu.engines.snakemake.order import Order
from wesemu.engines.snakemake.workflow import resource_limits, tool_environment
from wesemu.runs.workspace import Workspace

_PLUGIN_PATH = Path(__file__).parent / "plugin_path"
_READ_SIZE = 1 << 16
_SERVICE_SECONDS = "5"
"""For a `service()` to make its file. Snakemake waits as long for any output that is missing."""


class CommandWorker:
    """Implements `run_process.Worker`. The tools share the command's process group."""

    def __init__(self, site: Site, order: Order) -> None:
        self._watch = CommandWatch(site.workspace, site.journal, events.history(site.workspace))
        self._rest = b""
        self._remote = order.executor != "local"
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        self._open = True
        self._ending = False
        parent = os.getpid()
        os.environ.update(tool_environment(site.workspace, order))
        search = [str(_PLUGIN_PATH), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            leased_command_line(site.workspace, order),
            cwd=site.workspace.work,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(part for part in search if part),
                "WESEMU_EVENTS_FD": str(theirs),
            },
            pass_fds=[theirs],
            process_group=0,
            preexec_fn=lambda: _begin(parent, site.workspace, order),
        )
        os.close(theirs)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        return self._pipe if self._open else -1

    def answer(self) -> None:
        with contextlib.suppress(BlockingIOError):
            content = os.read(self._pipe, _READ_SIZE)
            self._open = bool(content)
            *lines, self._rest = (self._rest + content).split(b"\n")
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                self._watch.hear(message)
        if self._watch.deserted_service and not self._ending:
            self._ending = True
            # not Snakemake: its handler of SIGTERM may wait for itself for ever
            send(descendants(self.pid), signal.SIGTERM)

    def cancel(self) -> None:
        """Snakemake's own way: on SIGTERM it starts no more, and the tools' ends are failures; the
        plugin cancels its jobs on SIGINT."""
        self._watch.cancel()
        send_group(self.pid, signal.SIGINT if self._remote else signal.SIGTERM)

    def child_ended(self, pid: int, status: int, usage: struct_rusage) -> None:
        """An adopted orphan; nothing is to be done."""

    def ended(self, code: int) -> None:
        while self._open and select.select([self._pipe], [], [], 0)[0]:
            self.answer()
        self._watch.ended(code)


def _begin(parent: int, workspace: Workspace, order: Order) -> None:
    die_with_parent(parent)
    offer_to_oom_killer()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which the run's process ignores
    if order.sandbox is not None and not order.sandbox.program:
        enter_sandbox(order.sandbox, workspace, order.standing)


def leased_command_line(workspace: Workspace, order: Order) -> list[str]:
    """When a task starts is Snakemake's affair here, so the run as a whole has a lease."""
    command = command_line(workspace, order)
    if order.sandbox is not None and order.sandbox.program:
        command = in_bubblewrap(order.sandbox, workspace, command)
    if order.standing is None:
        return command
    return wrap(order.python, command, order.standing, order.resources)


def command_line(workspace: Workspace, order: Order) -> list[str]:
    words = [
        *(order.python, "-P", "-m", "snakemake", "--logger", "wesemu"),
        *("--snakefile", str(order.workflow_file), "--directory", str(workspace.work)),
        *("--cores", str(order.resources.cores)),
        *("--nolock", "--rerun-incomplete", "--latency-wait", _SERVICE_SECONDS),
        *("--scheduler", "greedy", "--nocolor", "--printshellcmds"),
    ]
    words += ["--configfile", str(workspace.config)] if order.configured else []
    limits = resource_limits(order)
    words += ["--resources", *(f"{name}={n}" for name, n in limits.items())] if limits else []
    options = order.options
    words += ["--executor", "local"] if order.executor == "local" else []
    if order.executor == "slurm-plugin":
        words += plugin_words(order.cluster, workspace.root.name, order.resources.cores)
        pairs = tuple(plugin_resources(order.cluster))
        options = replace(options, default_resources=(*options.default_resources, *pairs))
    return [*words, *option_words(options), "--", *options.targets]
