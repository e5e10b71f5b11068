"""Following runs to their end."""

import asyncio
from collections.abc import Callable

from wesemu.cli.output import tell
from wesemu.cli.progress import board
from wesemu.client import Client, RunDetail
from wesemu.runs.model import RunState

_PAUSE_SECONDS = 0.4

Show = Callable[[RunState, int, int], None]


async def follow(client: Client, run_id: str, show: Show) -> RunDetail:
    """Wait for the end of a run; `show` gets its state, the tasks that have ended, and all."""
    while True:
        run = await client.wes.run(run_id)
        show(run.state, sum(task.ended is not None for task in run.tasks), len(run.tasks))
        if run.state.ended:
            return run
        await asyncio.sleep(_PAUSE_SECONDS)


async def watch(client: Client, run_id: str, name: str) -> RunDetail:
    """Follow one run with its progress on stderr."""
    with board() as progress:
        return await follow(
            client, run_id, lambda state, done, total: progress.show(name, state, done, total)
        )


def conclude(run: RunDetail, name: str) -> bool:
    """Tell how a run ended; whether it ended well."""
    if run.state is not RunState.COMPLETE:
        tell(f"{name}: {run.state}" + (f": {run.error}" if run.error else ""))
        tell(f"'wesemu logs {name}' shows what its tools said")
        return False
    for output in run.outputs.values():
        if output.published:
            tell(f"  {output.size:>12,}  {output.published}")
    tags = run.tags
    if "wesemu.sla.minutes" in tags:
        tell(
            f"{name}: {int(tags['wesemu.total_reads']):,} reads; "
            f"service level {tags['wesemu.sla.level']}: {tags['wesemu.sla.minutes']} min, "
            f"{tags['wesemu.sla.price_cny']} CNY"
        )
    return True
