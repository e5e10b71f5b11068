"""`wesemu rebuild`, `prune`, `backup` and `restore`: maintenance of a data directory."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wesemu.cli.output import DEFAULT_SERVER, AsJson, Data, Server, Token

if TYPE_CHECKING:
    from wesemu.settings import Settings

_SECONDS_PER_DAY = 86400.0


def register(app: typer.Typer) -> None:
    app.command("rebuild", rich_help_panel="Server")(rebuild)
    for verb in (prune, backup, restore):
        app.command(verb.__name__, rich_help_panel="Server")(verb)


def rebuild(data: Data = None) -> None:
    """Rebuild the index from the run directories, for example after damage.

    Adds missing runs and drops runs without a directory. Move a damaged index away first. No
    server may use the data directory.
    """
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import print_note

    added, dropped = asyncio.run(_rebuild(load_settings(data=data)))
    print_note(f"added {added} runs; a server resumes runs that had not ended")
    if dropped:
        print_note(f"dropped {dropped} runs without a directory")


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


def prune(
    older_than: Annotated[
        str,
        typer.Option(help="Minimum time since the end of a run: 30d, 12h.", metavar="LENGTH"),
    ],
    keep_outputs: Annotated[
        bool,
        typer.Option("--keep-outputs", help="Keep the runs; delete their working directories."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be removed.")
    ] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Remove old ended runs of all owners. Results in buckets stay."""
    from datetime import timedelta

    from wesemu.cli.admin import parse_length
    from wesemu.cli.output import print_json, print_note
    from wesemu.cli.remote import call

    days = timedelta(**parse_length(older_than)).total_seconds() / _SECONDS_PER_DAY
    pruned = call(
        server,
        token,
        lambda client: client.control.prune(days, keep_outputs=keep_outputs, dry_run=dry_run),
    )
    if as_json:
        print_json(pruned)
    would = "would be" if dry_run else "are"
    what = "pruned" if keep_outputs else "removed"
    print_note(
        f"{pruned['runs']} runs {would} {what}: {_format_size(int(str(pruned['freed_bytes'])))}"
    )


def backup(
    file: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
    buckets: Annotated[
        bool, typer.Option("--buckets", help="Include all buckets and references.")
    ] = False,
    data: Data = None,
) -> None:
    """Copy the runs of a data directory to one file. A server may run meanwhile."""
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import print_note
    from wesemu.runs.data_directory import DataDirectory
    from wesemu.runs.maintenance import save_backup

    runs = save_backup(
        DataDirectory(load_settings(data=data).data), file.absolute(), buckets=buckets
    )
    print_note(f"{runs} runs are in {file} ({_format_size(file.stat().st_size)})")


def restore(
    file: Annotated[Path, typer.Argument(help="File of wesemu backup.", show_default=False)],
    data: Data = None,
) -> None:
    """Unpack a backup into a new data directory."""
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import print_note
    from wesemu.runs.data_directory import DataDirectory
    from wesemu.runs.maintenance import restore_backup as unpack

    root = load_settings(data=data).data
    runs = unpack(file, DataDirectory(root))
    print_note(f"{runs} runs are in {root}")


def _format_size(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GiB"
