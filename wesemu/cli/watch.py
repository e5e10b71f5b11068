"""Following a run to its end."""

from wesemu.cli.output import tell
from wesemu.cli.progress import board
from wesemu.cli.promise import service_level
from wesemu.client import Client, RunDetail
from wesemu.runs.model import PLACE_NOTE, RunState


async def watch(client: Client, run_id: str, name: str) -> bool:
    """Follow one run with its progress on stderr; whether it ended well."""
    with board() as progress:
        async for run in client.wes.follow(run_id):
            progress.show(name, run.state, run.tasks_done, len(run.tasks), note=_expected(run))
    return _conclude(run, name)


def _expected(run: RunDetail) -> str:
    """Until when a run is kept that ends by its service level, not by its tools."""
    finish = run.tags.get("wesemu.sla.predicted_finish")
    return f"until {finish}" if finish and run.tags.get("wesemu.pace") == "sla" else ""


def _conclude(run: RunDetail, name: str) -> bool:
    """Tell how a run ended; whether it ended well."""
    if (note := run.tags.get(PLACE_NOTE)) is not None:
        tell(f"{name}: {note}")
    if run.state is not RunState.COMPLETE:
        tell(f"{name}: {run.state}" + (f": {run.error}" if run.error else ""))
        tell(f"'wesemu logs {name}' shows what its tools said")
        return False
    for output in run.outputs.values():
        if output.published:
            tell(f"  {output.size:>12,}  {output.published}")
    if (told := service_level(run.tags)) is not None:
        tell(f"{name}: {int(run.tags['wesemu.total_reads']):,} reads; {told}")
    return True
