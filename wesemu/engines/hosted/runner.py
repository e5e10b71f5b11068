"""A run's process: detached, holding run.lock, with one worker."""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from wesemu.engines import run_process
from wesemu.engines.hosted.order import read_order
from wesemu.engines.hosted.worker import HostedWorker, Work
from wesemu.runs.workspace import Workspace


def main(work: Work) -> None:
    """The command line is the run directory.

    Prints what `run_process.live` announces as JSON and ends; the run's process goes on.
    """
    workspace = Workspace(Path(sys.argv[1]))
    hear, tell = os.pipe()
    if os.fork() == 0:
        code = 1
        try:
            os.close(hear)
            os.setsid()
            _live(workspace, tell, work)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(tell)
    with os.fdopen(hear) as news:
        announced = news.read()
    sys.stdout.write(announced)
    sys.exit(0 if announced else 1)


def _live(workspace: Workspace, tell: int, work: Work) -> None:
    def announce(news: dict[str, Any]) -> None:
        os.write(tell, json.dumps(news).encode() + b"\n")
        os.close(tell)

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
