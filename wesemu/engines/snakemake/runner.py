"""`python -m wesemu.engines.snakemake.runner RUN_DIRECTORY`: a run in the mode "cli".

Prints what `run_process.live` announces as JSON and ends; the run's process goes on, detached.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from wesemu.engines import run_process
from wesemu.engines.snakemake.command_worker import CommandWorker
from wesemu.engines.snakemake.order import read_order
from wesemu.runs.workspace import Workspace


def main() -> None:
    workspace = Workspace(Path(sys.argv[1]))
    hear, tell = os.pipe()
    if os.fork() == 0:
        code = 1
        try:
            os.close(hear)
            os.setsid()
            _live(workspace, tell)
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


def _live(workspace: Workspace, tell: int) -> None:
    def announce(news: dict[str, Any]) -> None:
        os.write(tell, json.dumps(news).encode() + b"\n")
        os.close(tell)

    order = read_order(workspace)
    run_process.live(
        workspace,
        lambda site: CommandWorker(site, order),
        announce,
        about={
            "engine": "snakemake",
            "version": order.version,
            "mode": order.mode,
            "executor": order.executor,
        },
        grace_seconds=order.grace_seconds,
    )


if __name__ == "__main__":
    main()
