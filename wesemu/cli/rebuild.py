"""`wesemu rebuild`: the index made anew from the run directories."""

import asyncio
from pathlib import Path

import typer

from wesemu.cli.options import Data


def register(app: typer.Typer) -> None:
    app.command("rebuild", rich_help_panel="Server")(rebuild)


def rebuild(data: Data = None) -> None:
    """Put every run that the index lacks back into it, from the run directories.

    For an index that was lost or damaged: move the file away, then rebuild. No server may run.
    """
    from wesemu.cli.configuration import load
    from wesemu.cli.output import tell

    added = asyncio.run(_rebuild(load(data=data).data.absolute()))
    tell(f"{added} runs were put back; runs that had not ended go on when a server starts")


async def _rebuild(root: Path) -> int:
    from wesemu.datadir import DataDirectory
    from wesemu.runs.rebuild import rebuild
    from wesemu.runs.store import RunStore

    data = DataDirectory(root)
    data.create()
    with data.lock():
        store = await RunStore.open(data.index)
        try:
            return await rebuild(store, data.runs)
        finally:
            await store.close()
