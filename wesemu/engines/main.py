"""`python -m wesemu.engines.main run|plan RUN_DIRECTORY`: the process of a run or a dry run.

`run` prints the announcement of `run_process.execute` as JSON and exits. The run process continues
detached. `plan` writes the task graph, or the reason for its absence, into the run directory
(`wesemu.engines.dry_run`). Forkservers call `run` for the runs that start warm.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wesemu.engines import run_process
from wesemu.engines.launch_spec import LaunchSpec, launch_details, read_spec
from wesemu.engines.library_worker import InspectWorkflow, LibraryWorker, RunWorkflow, plan_library
from wesemu.engines.run_process import Announce, RunContext, Worker
from wesemu.runs.run_directory import Workspace


class EngineProgram(NamedTuple):
    """What the processes of an engine execute.

    `start_worker` starts the worker of a run; `plan` writes the result of a dry run.
    """

    start_worker: Callable[[RunContext, LaunchSpec], Worker]
    plan: Callable[[Workspace, LaunchSpec], None]


def program_of(engine: str) -> EngineProgram:
    """Return the program of an engine. Imports no other engine."""
    match engine:
        case "snakemake":
            from wesemu.engines.snakemake import cli_worker, worker

            def start(context: RunContext, spec: LaunchSpec) -> Worker:
                kind = cli_worker.CliWorker if spec.mode == "cli" else worker.WarmWorker
                return kind(context, spec)

            return EngineProgram(start, worker.plan_run)
        case "cwltool":
            from wesemu.engines.cwl import dry_run as cwl_dry_run
            from wesemu.engines.cwl import worker as cwl_worker

            return _library(cwl_worker.run_workflow, cwl_dry_run.inspect_workflow)
        case "miniwdl":
            from wesemu.engines.wdl import worker as wdl_worker

            return _library(wdl_worker.run_workflow, wdl_worker.inspect_workflow)
        case _:
            sys.exit(f"there is no engine {engine!r}")


def _library(run_workflow: RunWorkflow, inspect_workflow: InspectWorkflow) -> EngineProgram:
    return EngineProgram(
        lambda context, spec: LibraryWorker(context, spec, run_workflow),
        lambda workspace, spec: plan_library(workspace, spec, inspect_workflow),
    )


def run(workspace: Workspace, announce: Announce) -> None:
    """Execute a run as its run process."""
    spec = read_spec(workspace)
    program = program_of(spec.engine)
    run_process.execute(
        workspace,
        lambda context: program.start_worker(context, spec),
        announce,
        details=launch_details(spec),
        grace_seconds=spec.grace_seconds,
    )


def plan(workspace: Workspace) -> None:
    """Execute a dry run as its process."""
    spec = read_spec(workspace)
    program_of(spec.engine).plan(workspace, spec)


def main() -> None:
    action, directory = sys.argv[1:]
    workspace = Workspace(Path(directory))
    if action == "run":
        run_process.detach(lambda announce: run(workspace, announce))
    else:
        plan(workspace)


if __name__ == "__main__":
    main()
