"""A run's process: detached, holding run.lock, with one worker."""

import sys
from pathlib import Path
from typing import NoReturn

from wesemu.engines import run_process
from wesemu.engines.hosted.order import read_order
from wesemu.engines.hosted.worker import HostedWorker, Work
from wesemu.engines.run_process import Announce
from wesemu.runs.workspace import Workspace


def main(work: Work) -> NoReturn:
    """The command line is the run directory."""
    run_process.detach(lambda announce: _live(Workspace(Path(sys.argv[1])), work, announce))


def _live(workspace: Workspace, work: Work, announce: Announce) -> None:
    order = read_order(workspace)
    run_process.live(
        workspace,
        lambda site: HostedWorker(site, order, work),
        announce,
        about={
            "engine": order.engine,
            "version": order.version,
            "mode": order.containers or "local",
        },
        grace_seconds=order.grace_seconds,
    )
