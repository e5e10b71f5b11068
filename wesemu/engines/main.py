"""`python -m wesemu.engines.main run|plan ENGINE RUN_DIRECTORY`: the process of a run or a dry run.

`run` prints the announcement of `run_process.execute` as JSON and exits. The run process continues
detached. Warm Snakemake runs start in the forkserver instead. `plan` writes the task graph, or
the reason for its absence, into the run directory (`wesemu.engines.dry_run`).
"""

import sys
from pathlib import Path

from wesemu.engines import run_process
from wesemu.runs.run_directory import Workspace


def main() -> None:
    action, engine, directory = sys.argv[1:]
    workspace = Workspace(Path(directory))
    if action == "run":
        _run(engine, workspace)
    else:
        _plan(engine, workspace)


def _run(engine: str, workspace: Workspace) -> None:
    match engine:
        case "snakemake":
            from wesemu.engines.snakemake.cli_worker import run_cli

            run_process.detach(lambda announce: run_cli(workspace, announce))
        case "cwl":
            from wesemu.engines.cwl.worker import run_workflow as run_cwl
            from wesemu.engines.library_worker import run_library

            run_process.detach(lambda announce: run_library(workspace, run_cwl, announce))
        case "wdl":
            from wesemu.engines.library_worker import run_library
            from wesemu.engines.wdl.worker import run_workflow as run_wdl

            run_process.detach(lambda announce: run_library(workspace, run_wdl, announce))
        case _:
            sys.exit(f"there is no engine {engine!r}")


def _plan(engine: str, workspace: Workspace) -> None:
    match engine:
        case "snakemake":
            from wesemu.engines.snakemake.worker import plan_run

            plan_run(workspace)
        case "cwl":
            from wesemu.engines.cwl.dry_run import inspect_workflow as inspect_cwl
            from wesemu.engines.library_worker import plan_library

            plan_library(workspace, inspect_cwl)
        case "wdl":
            from wesemu.engines.library_worker import plan_library
            from wesemu.engines.wdl.worker import inspect_workflow as inspect_wdl

            plan_library(workspace, inspect_wdl)
        case _:
            sys.exit(f"there is no engine {engine!r}")


if __name__ == "__main__":
    main()
