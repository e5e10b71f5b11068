"""How often the process of a run has vanished, counted over all servers that carried it out.

A run that takes its machine down with it would do so again after every start. The count lies in
the run directory and is durable before the run is launched again.
"""

import json

from wesemu.errors import EngineFault
from wesemu.runs.workspace import Workspace, read_regular, write_json

CRASH_LIMIT = 5
"""A run whose process has vanished so often is given up."""


def count_crash(workspace: Workspace) -> None:
    """One more. Raises EngineFault where the run is to be given up. Blocks."""
    crashes = _read(workspace) + 1
    write_json(workspace.crashes, {"crashes": crashes})
    if crashes >= CRASH_LIMIT:
        raise EngineFault(
            f"the engine's process vanished {crashes} times without an exit status, over all "
            "starts of the server; the run is given up. Was it killed for want of memory?"
        )


def _read(workspace: Workspace) -> int:
    try:
        return max(0, int(json.loads(read_regular(workspace.crashes, size=1000))["crashes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 0
