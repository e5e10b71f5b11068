"""`wesemu prune`, `backup`, `restore`: what an operator does with old runs and for bad days."""

from pathlib import Path
from typing import Annotated

import typer

from wesemu.cli.options import DEFAULT_SERVER, AsJson, Data, Server, Token

_SECONDS_A_DAY = 86400.0


def register(app: typer.Typer) -> None:
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

    from wesemu.cli.controls import parse_length
    from wesemu.cli.output import give_json, tell
    from wesemu.cli.remote import call

    days = timedelta(**parse_length(older_than)).total_seconds() / _SECONDS_A_DAY
    pruned = call(
        server,
        token,
        lambda client: client.control.prune(days, keep_outputs=keep_outputs, dry_run=dry_run),
    )
    if as_json:
        give_json(pruned)
    would = "would be" if dry_run else "are"
    what = "pruned" if keep_outputs else "removed"
    tell(f"{pruned['runs']} runs {would} {what}: {_shown(int(str(pruned['freed_bytes'])))}")


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    buckets: Annotated[
        bool, typer.Option("--buckets", help="With all buckets and references.")
    ] = False,
    data: Data = None,
) -> None:
    """Copy the runs of a data directory into one file; a server may be using it."""
    from wesemu.backup import save
    from wesemu.cli.configuration import load
    from wesemu.cli.output import tell
    from wesemu.datadir import DataDirectory

    runs = save(DataDirectory(load(data=data).data), file.absolute(), buckets=buckets)
    tell(f"{runs} runs are in {file} ({_shown(file.stat().st_size)})")


def restore(
    file: Annotated[Path, typer.Argument(help="A file of wesemu backup.", show_default=False)],
    data: Data = None,
) -> None:
    """Unpack a backup into a new data directory."""
    from wesemu.backup import load as unpack
    from wesemu.cli.configuration import load
    from wesemu.cli.output import tell
    from wesemu.datadir import DataDirectory

    root = load(data=data).data
    runs = unpack(file, DataDirectory(root))
    tell(f"{runs} runs are in {root}")


def _shown(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GiB"
