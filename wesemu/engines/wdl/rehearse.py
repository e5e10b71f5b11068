"""`python -m wesemu.engines.wdl.rehearse RUN_DIRECTORY`: what miniwdl would do.

miniwdl parses and type-checks the document and its imports and takes the inputs; the calls are read
from the source.
"""

import logging
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from wesemu.engines.hosted.rehearse import main
from wesemu.engines.hosted.worker import Desk
from wesemu.engines.wdl.failures import explain
from wesemu.engines.wdl.work import inputs_of, target_of
from wesemu.runs.graphs import Graph, PlannedTask, graph_of


def look(desk: Desk) -> Graph | None:
    library = import_module("WDL")
    import_module("WDL.runtime")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    try:
        document = library.load(str(desk.order.workflow_file))
        target = target_of(document, desk.order)
        inputs_of(desk, target)
    except Exception as error:
        desk.fail(explain(error, desk.workspace))
        return None
    if isinstance(target, library.Task):
        return graph_of([PlannedTask("1", str(target.name))])
    calls = list(_calls(target.body, "", is_open=False))
    tasks = [PlannedTask(str(number), name) for number, (name, _) in enumerate(calls, start=1)]
    return graph_of(tasks, complete=not any(is_open for _, is_open in calls))


def _calls(body: Any, prefix: str, *, is_open: bool) -> Iterator[tuple[str, bool]]:
    """Calls of tasks, those of nested workflows by their path; inside a scatter or a condition
    their number is open."""
    library = import_module("WDL")
    for node in body:
        if not isinstance(node, library.Call):
            inner = getattr(node, "body", ())
            yield from _calls(inner, prefix, is_open=is_open or bool(inner))
        elif isinstance(node.callee, library.Task):
            yield f"{prefix}{node.name}", is_open
        else:
            yield from _calls(node.callee.body, f"{prefix}{node.name}/", is_open=is_open)


if __name__ == "__main__":
    main(look)
