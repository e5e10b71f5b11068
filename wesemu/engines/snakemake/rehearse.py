"""`python -m wesemu.engines.snakemake.rehearse RUN_DIRECTORY`: what Snakemake would do."""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from wesemu.engines.rehearsal import tell_failure, tell_graph, tie_to_server
from wesemu.engines.sandbox import enter_sandbox
from wesemu.engines.snakemake import hooks
from wesemu.engines.snakemake.command_options import parsed_options
from wesemu.engines.snakemake.failures import workflow_failure
from wesemu.engines.snakemake.order import read_order
from wesemu.engines.snakemake.workflow import plan_graph, plan_workflow
from wesemu.runs.graphs import graph_of
from wesemu.runs.workspace import Workspace


def main() -> None:
    workspace = Workspace(Path(sys.argv[1]))
    order = read_order(workspace)
    os.chdir(workspace.work)
    if order.sandbox is not None:
        os.environ["XDG_CACHE_HOME"] = str(workspace.root / "tmp" / "cache")
        if not order.sandbox.program:
            enter_sandbox(order.sandbox, workspace, None, workspace.root)
    tie_to_server()
    planning: Any = None
    graph = graph_of([])  # of a workflow that has nothing to do

    def planned(dag: Any) -> None:
        nonlocal graph
        graph = hooks.graph(dag)

    hooks.on_plan(planned)
    api = import_module("snakemake.api")
    settings = import_module("snakemake.settings.types")
    with api.SnakemakeApi(settings.OutputSettings(nocolor=True)) as snakemake:
        try:
            options = parsed_options(order)
            planning = plan_workflow(snakemake, settings, workspace, order, options)
            _execute_dry(planning, settings, options)
            tell_graph(workspace, graph)
        except (Exception, SystemExit) as error:
            file, line = hooks.origin(planning, error)
            tell_failure(workspace, workflow_failure(error, file, line, workspace.root))


def _execute_dry(planning: Any, settings: Any, options: Any) -> None:
    plan_graph(planning, settings, options).execute_workflow(
        executor="dryrun",
        execution_settings=settings.ExecutionSettings(lock=False),
        scheduling_settings=settings.SchedulingSettings(scheduler="greedy"),
        scheduler_settings=import_module("snakemake.scheduling.greedy").SchedulerSettings(),
    )


if __name__ == "__main__":
    main()
