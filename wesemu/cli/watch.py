"""Following a run to its end."""

from wesemu.cli.output import tell
from wesemu.cli.progress import board
from wesemu.client import Client, RunDetail
from wesemu.runs.model import RunState


async def watch(client: Client, run_id: str, name: str) -> bool:
    """Follow one run with its progress on stderr; whether it ended well."""
    with board() as progress:
        async for run in client.wes.follow(run_id):
            progress.show(name, run.state, run.tasks_done, len(run.tasks))
    return _conclude(run, name)


def _conclude(run: RunDetail, name: str) -> bool:
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
