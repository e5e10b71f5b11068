"""One workflow run by Snakemake's programming interface, in a process of its own."""

import os
import shlex
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from wesemu.engines.journal import Journal
from wesemu.engines.outputs import OutputFiles
from wesemu.engines.snakemake import hooks
from wesemu.engines.snakemake.command_options import parsed_options
from wesemu.engines.snakemake.failures import workflow_failure
from wesemu.engines.snakemake.order import Order
from wesemu.engines.snakemake.watch import Watch
from wesemu.engines.tickets import devices_environment
from wesemu.runs.model import RunFailure
from wesemu.runs.workspace import Workspace, make_executable

SHARED_DISK_SECONDS = 30
"""How long a file that another machine has written may take to be seen here."""


class WorkflowRun:
    """Plans and executes the workflow of an order; never returns before all jobs have ended."""

    def __init__(self, workspace: Workspace, order: Order, journal: Journal, watch: Watch) -> None:
        self._workspace = workspace
        self._order = order
        self._journal = journal
        self._watch = watch
        self._planning: Any = None
        self._workflow: Any = None

    def run(self) -> int:
        """The exit status: 0, or 1 with the reason in the journal."""
        tempfile.tempdir = None
        os.chdir(self._workspace.work)
        os.environ.update(tool_environment(self._workspace, self._order))
        hooks.install(self._watch)
        api = import_module("snakemake.api")
        settings = import_module("snakemake.settings.types")
        output = settings.OutputSettings(nocolor=True, printshellcmds=True, show_failed_logs=False)
        with api.SnakemakeApi(output) as snakemake:
            handler = hooks.EventHandler(self._watch, lambda: self._workflow.dag)
            import_module("snakemake.logging").logger.addHandler(handler)
            try:
                self._execute(snakemake, settings)
            except (Exception, SystemExit) as error:
                return self._explain(snakemake, error)
        self._publish_outputs()
        return 0

    def _execute(self, snakemake: Any, settings: Any) -> None:
        order = self._order
        options = parsed_options(order)
        planning = plan_workflow(snakemake, settings, self._workspace, order, options)
        self._planning = planning
        graph = plan_graph(planning, settings, options)
        self._workflow = hooks.workflow_of(planning)
        graph.execute_workflow(
            executor="local",
            execution_settings=settings.ExecutionSettings(
                keep_going=options.keep_going,
                keep_incomplete=options.keep_incomplete,
                retries=options.retries,
                lock=False,
                latency_wait=0 if order.executor == "local" else SHARED_DISK_SECONDS,
            ),
            scheduling_settings=settings.SchedulingSettings(scheduler="greedy"),
            scheduler_settings=import_module("snakemake.scheduling.greedy").SchedulerSettings(),
        )

    def _publish_outputs(self, *, only_made: bool = False) -> None:
        outputs = OutputFiles(self._workspace)
        for name in hooks.final_outputs(self._workflow.dag, only_made=only_made):
            outputs.add(name)
        self._journal.outputs(outputs.files, outputs.problems)

    def _explain(self, snakemake: Any, error: BaseException) -> int:
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return 0
        try:
            snakemake.print_exception(error)
        except KeyError:  # Snakemake's own, for a syntax error
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        if not self._watch.task_failed:
            self._journal.error(self._failure(error))
        if getattr(self._workflow, "dag", None) is not None:
            self._publish_outputs(only_made=True)
        return 1

    def _failure(self, error: BaseException) -> RunFailure:
        file, line = hooks.origin(self._planning, error)
        return workflow_failure(error, file, line, self._workspace.root)


def plan_workflow(
    snakemake: Any, settings: Any, workspace: Workspace, order: Order, options: Any
) -> Any:
    """Snakemake's WorkflowApi of an order and its `parsed_options`; nothing is parsed yet.

    A run without parameters has no `--configfile`, which would hide that the workflow's own is
    missing.
    """
    return snakemake.workflow(
        resource_settings=settings.ResourceSettings(
            cores=options.cores,
            max_threads=order.cluster.task_cores or None,
            resources=resource_limits(order),
            default_resources=options.default_resources,
            overwrite_threads=options.set_threads,
            overwrite_scatter=options.set_scatter,
            overwrite_resources=options.set_resources,
        ),
        config_settings=settings.ConfigSettings(
            config=options.config, configfiles=[workspace.config] if order.configured else []
        ),
        storage_settings=settings.StorageSettings(notemp=options.notemp),
        snakefile=order.workflow_file,
        workdir=workspace.work,
    )


def plan_graph(planning: Any, settings: Any, options: Any) -> Any:
    """Snakemake's DAGApi for what `parsed_options` ask for."""
    triggers = options.rerun_triggers
    return planning.dag(
        settings.DAGSettings(
            targets=options.targets,
            forcetargets=options.force,
            forceall=options.forceall,
            forcerun=options.forcerun,
            until=options.until,
            omit_from=options.omit_from,
            allowed_rules=options.allowed_rules,
            force_incomplete=True,
            **({} if triggers is None else {"rerun_triggers": triggers}),
        )
    )


def resource_limits(order: Order) -> dict[str, int]:
    """Memory only where the run has a share of it; GPUs always, as none is a limit too, but for
    a cluster's, which are not this machine's to give."""
    here = order.executor == "local"
    limits = dict.fromkeys(hooks.GPU_RESOURCES, order.resources.gpus) if here else {}
    if order.resources.memory_mb:
        limits["mem_mb"] = order.resources.memory_mb
    return limits


def tool_environment(workspace: Workspace, order: Order) -> dict[str, str]:
    """GPUs are seen by tasks with a lease on them, or by the whole run where there are no leases
    and it has a share; a run without a home has a cache nevertheless. `python` is Snakemake's."""
    shared = order.resources.gpus and order.standing is None
    environment = {} if shared else devices_environment([])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if order.executor == "local":  # beside the work, as large, and gone with the run
        temporary = workspace.root / "tmp"
        temporary.mkdir(exist_ok=True)
        environment["TMPDIR"] = str(temporary)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if order.sandbox is not None:
        environment["XDG_CACHE_HOME"] = str(workspace.root / "tmp" / "cache")
    elif not os.access(existing, os.W_OK):
        environment["XDG_CACHE_HOME"] = str(workspace.root / "cache")
    if (found := _python_folder(workspace, order)) is not None:
        environment["PATH"] = os.pathsep.join([str(found), os.environ.get("PATH", os.defpath)])
    return environment


def _python_folder(workspace: Workspace, order: Order) -> Path | None:
    """A folder in which `python` and `python3` are the interpreter that runs Snakemake, as in an
    activated environment; None where PATH already finds that one, or has been set before.

    Scripts instead of links: an interpreter looks for its environment beside its own name.
    """
    own = Path(order.python)
    folder = workspace.root / "tmp" / "bin"
    names = ("python", "python3")
    found = [shutil.which(name) for name in names]
    if all(path is not None and Path(path).parent in (own.parent, folder) for path in found):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(own))} "$@"\n')
        make_executable(script)
    return folder
