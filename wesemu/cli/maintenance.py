"""`wesemu prune`, `backup`, `restore`: what an operator does with old runs and for bad days."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wesemu.cli.output import DEFAULT_SERVER, AsJson, Data, Server, Token

if TYPE_CHECKING:
    from wesemu.settings import Settings


# `wesemu rebuild`: the index made anew from the run directories.


def rebuild(data: Data = None) -> None:
    """Put every run that the index lacks back into it, from the run directories, and drop those
    whose directories are gone.

    For an index that was lost or damaged: move the file away, then rebuild. No server may run.
    """
    from wesemu.cli.configuration import load
    from wesemu.cli.output import print_note

    added, dropped = asyncio.run(_rebuild(load(data=data)))
    print_note(f"{added} runs were put back; runs that had not ended go on when a server starts")
    if dropped:
        print_note(f"{dropped} runs whose directories are gone were dropped")


async def _rebuild(settings: "Settings") -> tuple[int, int]:
    from wesemu.runs.data_directory import DataDirectory
    from wesemu.runs.maintenance import drop_missing, rebuild_index
    from wesemu.runs.store import RunStore

    data = DataDirectory(settings.data)
    await asyncio.to_thread(data.create, adopt=settings.adopt_data)
    with data.lock():
        store = await RunStore.open(data.index)
        try:
            added = await rebuild_index(store, data.runs)
            return added, await drop_missing(store, data.runs)
        finally:
            await store.close()


_SECONDS_A_DAY = 86400.0


def register(app: typer.Typer) -> None:
    app.command("rebuild", rich_help_panel="Server")(rebuild)
    for verb in (prune, backup, restore):
        app.command(verb.__name__, rich_help_panel="Server")(verb)


def prune(
    older_than: Annotated[
        str,
        typer.Option(help="The least time since a run's end, as 30d or 12h.", metavar="LENGTH"),
    ],
    keep_outputs: Annotated[
        bool,
        typer.Option("--keep-outputs", help="Keep the runs; delete their working directories."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Remove runs of all owners that ended long ago. Results in buckets stay."""
    from datetime import timedelta

    from wesemu.cli.admin import parse_length
    from wesemu.cli.output import print_json, print_note
    from wesemu.cli.remote import call

    days = timedelta(**parse_length(older_than)).total_seconds() / _SECONDS_A_DAY
    pruned = call(
        server,
        token,
        lambda client: client.control.prune(days, keep_outputs=keep_outputs, dry_run=dry_run),
    )
    if as_json:
        print_json(pruned)
    would = "would be" if dry_run else "are"
    what = "pruned" if keep_outputs else "removed"
    print_note(f"{pruned['runs']} runs {would} {what}: {_shown(int(str(pruned['freed_bytes'])))}")


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    buckets: Annotated[
        bool, typer.Option("--buckets", help="With all buckets and references.")
    ] = False,
    data: Data = None,
) -> None:
    """Copy the runs of a data directory into one file; a server may be using it."""
    from wesemu.cli.configuration import load
    from wesemu.cli.output import print_note
    from wesemu.runs.data_directory import DataDirectory
    from wesemu.runs.maintenance import save_backup

    runs = save_backup(DataDirectory(load(data=data).data), file.absolute(), buckets=buckets)
    print_note(f"{runs} runs are in {file} ({_shown(file.stat().st_size)})")


def restore(
    file: Annotated[Path, typer.Argument(help="A file of wesemu backup.", show_default=False)],
    data: Data = None,
) -> None:
    """Unpack a backup into a new data directory."""
    from wesemu.cli.configuration import load
    from wesemu.cli.output import print_note
    from wesemu.runs.data_directory import DataDirectory
    from wesemu.runs.maintenance import restore_backup as unpack

    root = load(data=data).data
    runs = unpack(file, DataDirectory(root))
    print_note(f"{runs} runs are in {root}")


def _shown(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GiB"
