"""`wesemu rebuild`: the index made anew from the run directories."""

import asyncio
from typing import TYPE_CHECKING

import typer

from wesemu.cli.options import Data

if TYPE_CHECKING:
    from wesemu.settings import Settings


def register(app: typer.Typer) -> None:
    app.command("rebuild", rich_help_panel="Server")(rebuild)


def rebuild(data: Data = None) -> None:
    """Put every run that the index lacks back into it, from the run directories, and drop those
    whose directories are gone.

    For an index that was lost or damaged: move the file away, then rebuild. No server may run.
    """
    from wesemu.cli.configuration import load
    from wesemu.cli.output import tell

    added, dropped = asyncio.run(_rebuild(load(data=data)))
    tell(f"{added} runs were put back; runs that had not ended go on when a server starts")
    if dropped:
        tell(f"{dropped} runs whose directories are gone were dropped")


async def _rebuild(settings: "Settings") -> tuple[int, int]:
    from wesemu.datadir import DataDirectory
    from wesemu.runs.rebuild import drop_missing, rebuild
    from wesemu.runs.store import RunStore

    data = DataDirectory(settings.data)
    await asyncio.to_thread(data.create, adopt=settings.adopt_data)
    with data.lock():
        store = await RunStore.open(data.index)
        try:
            added = await rebuild(store, data.runs)
            return added, await drop_missing(store, data.runs)
        finally:
            await store.close()
