"""Administration: `wesemu rebuild`, `prune`, `backup` and `restore` of a data directory, and
`reset`, `clock` and `faults` of a running server."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from wesemu.cli.output import DEFAULT_SERVER, AsJson, Data, Server, Token, path_argument

if TYPE_CHECKING:
    from wesemu.client import ClockReading
    from wesemu.runs.model import JsonObject
    from wesemu.settings import Settings

_SECONDS_PER_DAY = 86400.0


def rebuild(data: Data = None) -> None:
    """Rebuild the index from the run directories, for example after damage.

    Adds missing runs and drops runs without a directory. Move a damaged index away first. No
    server may use the data directory.
    """
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import print_note

    added, dropped = asyncio.run(_rebuild(load_settings(data=data)))
    print_note(f"added {_runs(added)}; a server resumes runs that had not ended")
    if dropped:
        print_note(f"dropped {_runs(dropped)} without a directory")


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
        str, typer.Option(help="Minimum time since the end of a run: 30d, 12h.", metavar="LENGTH")
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
    from wesemu.cli.output import print_json, print_note
    from wesemu.cli.remote import call
    from wesemu.client.transport import number

    days = timedelta(**parse_length(older_than)).total_seconds() / _SECONDS_PER_DAY
    pruned = call(
        server,
        token,
        lambda client: client.control.prune(days, keep_outputs=keep_outputs, dry_run=dry_run),
    )
    if as_json:
        print_json(pruned)
    would = "would be " if dry_run else ""
    what = "pruned" if keep_outputs else "removed"
    size = _format_size(number(pruned, "freed_bytes"))
    print_note(f"{_runs(number(pruned, 'runs'))} {would}{what}: {size}")


def backup(
    file: Annotated[Path, path_argument(metavar="FILE", help="File to write.", show_default=False)],
    buckets: Annotated[
        bool, typer.Option("--buckets", help="Include all buckets and references.")
    ] = False,
    data: Data = None,
) -> None:
    """Copy the runs of a data directory to one file. A server may run meanwhile."""
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import CommandRefused, ExitStatus, print_note
    from wesemu.runs.backup import save_backup
    from wesemu.runs.data_directory import DataDirectory

    if file.is_dir():
        raise CommandRefused(f"{file} is a folder; name the file to write", ExitStatus.USAGE)

    runs = save_backup(
        DataDirectory(load_settings(data=data).data), file.absolute(), buckets=buckets
    )
    print_note(f"{_runs(runs)} in {file} ({_format_size(file.stat().st_size)})")


def restore(
    file: Annotated[
        Path, path_argument(metavar="FILE", help="File of wesemu backup.", show_default=False)
    ],
    data: Data = None,
) -> None:
    """Unpack a backup into a new data directory."""
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import print_note
    from wesemu.runs.backup import restore_backup as unpack
    from wesemu.runs.data_directory import DataDirectory

    root = load_settings(data=data).data
    runs = unpack(file, DataDirectory(root))
    print_note(f"{_runs(runs)} in {root}")


def _runs(number: int) -> str:
    return f"{number} {'run' if number == 1 else 'runs'}"


def _format_size(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GiB"


NEXT_RUN = "next-run"
_REQUEST_FIELDS = ("status", "code", "message", "delay", "drop", "after")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_LENGTH = re.compile(r"(?:(\d+(?:\.\d+)?)([dhms]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])")


class _TakesNegativeNumbers(TyperCommand):
    """A verb whose errors about `-1` or `-5h` name the value. click would take them for flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values = [each for each in args if _NEGATIVE.fullmatch(each)]
        if values and "--" not in args:
            args = [*(each for each in args if each not in values), "--", *values]
        return super().parse_args(ctx, args)


_NEGATIVE = re.compile(r"-[\d.][\d.dhms]*")


def register(app: typer.Typer) -> None:
    panel = "Server"
    for verb in (rebuild, prune, backup, restore, reset):
        app.command(rich_help_panel=panel)(verb)
    clock = typer.Typer(no_args_is_help=True, help="The server's emulated clock.")
    clock.command()(show)
    clock.command(cls=_TakesNegativeNumbers)(advance)
    clock.command(cls=_TakesNegativeNumbers)(speed)
    app.add_typer(clock, name="clock", rich_help_panel=panel)
    snapshots = typer.Typer(no_args_is_help=True, help="Snapshots of a server.")
    snapshots.command("save")(save_snapshot)
    snapshots.command("load")(load_snapshot)
    app.add_typer(snapshots, name="snapshot", rich_help_panel=panel)
    faults = typer.Typer(no_args_is_help=True, help="Faults that the server injects.")
    faults.command("list")(list_faults)
    faults.command("add")(add)
    faults.command("clear")(clear)
    app.add_typer(faults, name="faults", rich_help_panel=panel)


def reset(
    buckets: Annotated[bool, typer.Option("--buckets", help="Remove all buckets as well.")] = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Cancel and remove all runs of all owners; reset faults and the speed of the clock."""
    from wesemu.cli.output import print_note
    from wesemu.cli.remote import call

    runs = call(server, token, lambda client: client.control.reset(buckets=buckets))
    print_note(f"removed {_runs(runs)}")


SnapshotFile = Annotated[
    Path, path_argument(metavar="FILE", help="File of the snapshot.", show_default=False)
]


def save_snapshot(file: SnapshotFile, server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Write buckets, references, ended runs and emulated time of a server to a file."""
    from wesemu.cli.output import print_result
    from wesemu.cli.remote import call

    print_result(str(call(server, token, lambda client: client.control.save_snapshot(file))))


def load_snapshot(file: SnapshotFile, server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Replace the runs, buckets and time of a server by those of a snapshot."""
    from wesemu.cli.output import CommandRefused, ExitStatus, print_note
    from wesemu.cli.remote import call

    if not file.is_file():
        raise CommandRefused(f"there is no file {file}", ExitStatus.USAGE)
    counts = call(server, token, lambda client: client.control.load_snapshot(file))
    print_note(f"loaded {', '.join(f'{name}: {number}' for name, number in counts.items())}")


def show(as_json: AsJson = False, server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Show emulated time, real time and the speed of the emulated clock."""
    from wesemu.cli.remote import call

    _print_clock(call(server, token, lambda client: client.control.clock()), as_json=as_json)


def advance(
    length: Annotated[
        str, typer.Argument(metavar="LENGTH", help="80m, 1h20m, 90s or 2d.", show_default=False)
    ],
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Advance emulated time. Waits that end before the new time end at once."""
    from wesemu.cli.remote import call

    step = parse_length(length)
    _print_clock(call(server, token, lambda client: client.control.advance(step)), as_json=as_json)


def speed(
    factor: Annotated[
        float,
        typer.Argument(
            metavar="SPEED", help="Emulated seconds per real second.", min=0, show_default=False
        ),
    ],
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Set the speed of emulated time until the server stops."""
    from wesemu.cli.remote import call

    _print_clock(
        call(server, token, lambda client: client.control.set_speed(factor)), as_json=as_json
    )


def list_faults(
    as_json: AsJson = False, server: Server = DEFAULT_SERVER, token: Token = None
) -> None:
    """List the faults that have not been injected yet."""
    from wesemu.cli.remote import call

    _print_faults(call(server, token, lambda client: client.control.faults()), as_json=as_json)


def add(
    operation: Annotated[
        str,
        typer.Argument(
            metavar="OPERATION",
            help=f"StartWorkflow, RunWorkflow, …, 'METHOD /path', or {NEXT_RUN}.",
            show_default=False,
        ),
    ],
    times: Annotated[int, typer.Option(min=1, help="Number of calls or runs.")] = 1,
    status: Annotated[
        int | None, typer.Option(help="Answer calls with this status, 400 to 599.")
    ] = None,
    delay: Annotated[
        float | None, typer.Option(help="Delay calls by this time.", metavar="SECONDS")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Send no answer.")] = False,
    code: Annotated[str | None, typer.Option(help="Error code, if the API has codes.")] = None,
    message: Annotated[str | None, typer.Option(help="Error message.")] = None,
    after: Annotated[
        bool, typer.Option("--after", help="Execute calls first; only the answer fails.")
    ] = False,
    misses_sla: Annotated[
        bool, typer.Option("--misses-sla", help="Runs miss their service level.")
    ] = False,
    late_minutes: Annotated[
        int | None, typer.Option(help="Minutes after the promised end.", metavar="MINUTES")
    ] = None,
    fails_at_task: Annotated[
        int | None, typer.Option(help="Runs fail when this task starts.", metavar="NUMBER")
    ] = None,
    runs_out_of_disk: Annotated[
        bool, typer.Option("--runs-out-of-disk", help="Runs find a full disk at their end.")
    ] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Inject a fault into the next calls of an operation, or into the next runs."""
    from wesemu.cli.remote import call

    of_calls: JsonObject = {
        "status": status,
        "delay": delay,
        "drop": drop,
        "code": code,
        "message": message,
        "after": after,
    }
    of_runs: JsonObject = {
        "misses_sla": misses_sla,
        "late_minutes": late_minutes,
        "fails_at_task": fails_at_task,
        "runs_out_of_disk": runs_out_of_disk,
    }
    fault = fault_from_flags(operation, times, of_calls, of_runs)
    flags = {name: f"--{name.replace('_', '-')}" for name in (*of_calls, *of_runs, "times")}
    left = call(server, token, lambda client: client.control.add_fault(fault), flags)
    _print_faults(left, as_json=as_json)


def clear(server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Remove all faults that have not been injected yet."""
    from wesemu.cli.remote import call

    call(server, token, lambda client: client.control.forget_faults())


_LONGEST = timedelta(days=1_000_000)
"""The control API takes no longer steps of the clock."""


def parse_length(text: str) -> dict[str, float]:
    """Parse `1h20m` as {"hours": 1, "minutes": 20}. Raise CommandRefused for anything else."""
    from wesemu.cli.output import CommandRefused, ExitStatus

    if _LENGTH.fullmatch(text) is None:
        raise CommandRefused(
            f"{text!r} is not a duration; write 80m, 1h20m or 90s", ExitStatus.USAGE
        )
    step: dict[str, float] = {}
    for amount, unit in _PART.findall(text):
        step[_UNITS[unit]] = step.get(_UNITS[unit], 0) + float(amount)
    try:
        too_long = timedelta(**step) > _LONGEST
    except OverflowError:
        too_long = True
    if too_long:
        raise CommandRefused(
            f"{text[:40]!r} is too long; write {_LONGEST.days}d or less", ExitStatus.USAGE
        )
    return step


def fault_from_flags(
    operation: str, times: int, of_calls: "JsonObject", of_runs: "JsonObject"
) -> "JsonObject":
    """Return the fault as the control API takes it.

    A fault of calls takes the flags `of_calls`, a fault of runs those `of_runs`. Raise
    CommandRefused for flags of the other kind, and without any flag.
    """
    from wesemu.cli.output import CommandRefused, ExitStatus

    calls, runs = _set_flags(of_calls), _set_flags(of_runs)
    is_run = operation == NEXT_RUN
    fitting, others = (runs, calls) if is_run else (calls, runs)
    if others or not fitting:
        flags = [f"--{name.replace('_', '-')}" for name in (of_runs if is_run else of_calls)]
        raise CommandRefused(
            f"a fault for {operation} needs one or more of these flags, and no others: "
            f"{', '.join(flags)}",
            ExitStatus.USAGE,
        )
    if is_run:
        return {"next_run": runs, "times": times}
    return {"operation": operation, "times": times, **calls}


def _set_flags(flags: "JsonObject") -> "JsonObject":
    return {
        name: value for name, value in flags.items() if value is not None and value is not False
    }


def _print_clock(reading: "ClockReading", *, as_json: bool) -> None:
    from wesemu.cli.output import print_json, print_table

    if as_json:
        print_json(reading.raw)
        return
    row = (reading.now, reading.wall, f"{reading.speed:.15g}", reading.pace)
    print_table(("EMULATED TIME", "REAL TIME", "SPEED", "PACE"), [row])


def _print_faults(faults: "list[JsonObject]", *, as_json: bool) -> None:
    from wesemu.cli.output import print_json, print_note, print_table

    if as_json:
        print_json(faults)
    elif faults:
        print_table(("OPERATION", "TIMES", "FAULT"), map(_fault_row, faults))
    else:
        print_note("there are no faults")


def _fault_row(fault: "JsonObject") -> tuple[str, str, str]:
    """Return the operation, the number of calls or runs, and the fields that are set."""
    from wesemu.client.transport import nested, text

    run = nested(fault, "next_run")
    fields = run or {name: fault.get(name) for name in _REQUEST_FIELDS}
    description = ", ".join(
        name if value is True else f"{name} {value}" for name, value in fields.items() if value
    )
    return text(fault, "operation") or "next-run", text(fault, "times"), description
