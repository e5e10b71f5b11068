"""The process of a dry run: the library loads the workflow and is asked what it would do."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from wesemu.engines.hosted.order import read_order
from wesemu.engines.hosted.tasks import Tasks
from wesemu.engines.hosted.worker import Desk
from wesemu.engines.journal import Journal, history, to_event
from wesemu.engines.rehearsal import tell_failure, tell_graph, tie_to_server
from wesemu.engines.sandbox import enter_sandbox
from wesemu.runs.graphs import Graph
from wesemu.runs.model import RunFailure
from wesemu.runs.ports import EngineError
from wesemu.runs.workspace import Workspace

Look = Callable[[Desk], Graph | None]
"""What the workflow would do; None after the reason has been told (`Desk.fail`)."""


def main(look: Look) -> None:
    """The command line is the run directory."""
    workspace = Workspace(Path(sys.argv[1]))
    order = read_order(workspace)
    if order.sandbox is not None:
        enter_sandbox(order.sandbox, workspace, None, workspace.root)
    tie_to_server()
    desk = Desk(workspace, order, Tasks(workspace, Journal(workspace), order.engine))
    os.chdir(workspace.work)
    try:
        graph = look(desk)
    except Exception as error:
        traceback.print_exc()
        tell_failure(workspace, RunFailure(f"{type(error).__name__}: {error}"))
        return
    if graph is None:
        tell_failure(workspace, _first_failure(workspace))
    else:
        tell_graph(workspace, graph)


def _first_failure(workspace: Workspace) -> RunFailure:
    for record in history(workspace):
        match to_event(record):
            case EngineError(failure=failure):
                return failure
    return RunFailure("the engine refuses it without a word")
