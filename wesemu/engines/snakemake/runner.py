"""`python -m wesemu.engines.snakemake.runner RUN_DIRECTORY`: a run in the mode "cli".

Prints what `run_process.live` announces as JSON and ends; the run's process goes on, detached.
"""

import sys
from pathlib import Path

from wesemu.engines import run_process
from wesemu.engines.run_process import Announce
from wesemu.engines.snakemake.command_worker import CommandWorker
from wesemu.engines.snakemake.order import about, read_order
from wesemu.runs.workspace import Workspace


def _live(workspace: Workspace, announce: Announce) -> None:
    order = read_order(workspace)
    run_process.live(
        workspace,
        lambda site: CommandWorker(site, order),
        announce,
        about=about(order),
        grace_seconds=order.grace_seconds,
    )


if __name__ == "__main__":
    run_process.detach(lambda announce: _live(Workspace(Path(sys.argv[1])), announce))
