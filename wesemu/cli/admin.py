"""`wesemu reset`, `clock`, `faults`: the emulator's own controls of a running server."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from wesemu.cli.output import DEFAULT_SERVER, AsJson, Server, Token

if TYPE_CHECKING:
    from wesemu.client import ClockReading
    from wesemu.runs.model import JsonObject

NEXT_RUN = "next-run"
_OF_CALLS = ("status", "code", "message", "delay", "drop", "after")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_LENGTH = re.compile(r"(?:(\d+(?:\.\d+)?)([dhms]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])")


def register(app: typer.Typer) -> None:
    panel = "Server"
    app.command("reset", rich_help_panel=panel)(reset)
    clock = typer.Typer(no_args_is_help=True, help="The server's emulated clock.")
    clock.command("show")(show)
    clock.command("advance")(advance)
    clock.command("speed")(speed)
    app.add_typer(clock, name="clock", rich_help_panel=panel)
    faults = typer.Typer(no_args_is_help=True, help="What is to go wrong on the server.")
    faults.command("list")(list_faults)
    faults.command("add")(add)
    faults.command("clear")(clear)
    app.add_typer(faults, name="faults", rich_help_panel=panel)


def reset(
    buckets: Annotated[
        bool, typer.Option("--buckets", help="Remove what lies in the buckets as well.")
    ] = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Cancel and forget every run of every owner; faults and the clock's speed go back, too."""
    from wesemu.cli.output import print_note
    from wesemu.cli.remote import call

    runs = call(server, token, lambda client: client.control.reset(buckets=buckets))
    print_note(f"{runs} {'run is' if runs == 1 else 'runs are'} forgotten")


def show(as_json: AsJson = False, server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Show emulated time, the machine's, and how fast the first one runs."""
    from wesemu.cli.remote import call

    _give_clock(call(server, token, lambda client: client.control.clock()), as_json=as_json)


def advance(
    length: Annotated[
        str,
        typer.Argument(metavar="LENGTH", help="As 80m, 1h20m, 90s or 2d.", show_default=False),
    ],
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Have emulated time leap; whatever waits for a moment that is then past goes on at once."""
    from wesemu.cli.remote import call

    step = parse_length(length)
    _give_clock(call(server, token, lambda client: client.control.advance(step)), as_json=as_json)


def speed(
    factor: Annotated[
        float,
        typer.Argument(
            metavar="SPEED", help="Emulated seconds a real second.", min=0, show_default=False
        ),
    ],
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Set how fast emulated time runs, until the server stops."""
    from wesemu.cli.remote import call

    _give_clock(
        call(server, token, lambda client: client.control.set_speed(factor)), as_json=as_json
    )


def list_faults(
    as_json: AsJson = False, server: Server = DEFAULT_SERVER, token: Token = None
) -> None:
    """List the faults that have not struck yet."""
    from wesemu.cli.remote import call

    _give_faults(call(server, token, lambda client: client.control.faults()), as_json=as_json)


def add(
    operation: Annotated[
        str,
        typer.Argument(
            metavar="OPERATION",
            help=f"StartWorkflow, RunWorkflow, …, 'METHOD /path', or {NEXT_RUN}.",
            show_default=False,
        ),
    ],
    times: Annotated[int, typer.Option(min=1, help="How many calls, or runs.")] = 1,
    status: Annotated[
        int | None, typer.Option(help="Calls are answered with this status, 400 to 599.")
    ] = None,
    delay: Annotated[
        float | None, typer.Option(help="Calls wait so many seconds.", metavar="SECONDS")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Calls get no answer.")] = False,
    code: Annotated[
        str | None, typer.Option(help="The error's code, where the API has codes.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="The error's message.")] = None,
    after: Annotated[
        bool, typer.Option("--after", help="Calls are carried out; only their answer is lost.")
    ] = False,
    misses_sla: Annotated[
        bool, typer.Option("--misses-sla", help="Runs miss their service level.")
    ] = False,
    late_minutes: Annotated[
        int | None, typer.Option(help="By so many minutes.", metavar="MINUTES")
    ] = None,
    fails_at_task: Annotated[
        int | None, typer.Option(help="Runs fail when this task begins.", metavar="NUMBER")
    ] = None,
    runs_out_of_disk: Annotated[
        bool, typer.Option("--runs-out-of-disk", help="Runs find the disk full at their end.")
    ] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Have the next calls of an operation go wrong, or the next runs."""
    from wesemu.cli.remote import call

    fault = order(
        operation,
        times,
        {
            "status": status,
            "delay": delay,
            "drop": drop,
            "code": code,
            "message": message,
            "after": after,
        },
        {
            "misses_sla": misses_sla,
            "late_minutes": late_minutes,
            "fails_at_task": fails_at_task,
            "runs_out_of_disk": runs_out_of_disk,
        },
    )
    _give_faults(call(server, token, lambda client: client.control.order(fault)), as_json=as_json)


def clear(server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Take back all faults that have not struck."""
    from wesemu.cli.remote import call

    call(server, token, lambda client: client.control.forget_faults())


def parse_length(text: str) -> dict[str, float]:
    """`1h20m` as {"hours": 1, "minutes": 20}. Raises Refused."""
    from wesemu.cli.output import CommandRefused, ExitStatus

    if _LENGTH.fullmatch(text) is None:
        raise CommandRefused(
            f"{text!r} is no length of time; write 80m, 1h20m or 90s", ExitStatus.USAGE
        )
    step: dict[str, float] = {}
    for amount, unit in _PART.findall(text):
        step[_UNITS[unit]] = step.get(_UNITS[unit], 0) + float(amount)
    return step


def order(
    operation: str, times: int, of_calls: "JsonObject", of_runs: "JsonObject"
) -> "JsonObject":
    """The body of a fault's order. Raises Refused for flags of the other kind."""
    from wesemu.cli.output import CommandRefused, ExitStatus

    calls, runs = _given(of_calls), _given(of_runs)
    is_run = operation == NEXT_RUN
    asked, foreign = (runs, calls) if is_run else (calls, runs)
    if foreign or not asked:
        flags = [f"--{name.replace('_', '-')}" for name in (of_runs if is_run else of_calls)]
        raise CommandRefused(
            f"say what happens to {operation}: {', '.join(flags)}", ExitStatus.USAGE
        )
    if is_run:
        return {"next_run": runs, "times": times}
    return {"operation": operation, "times": times, **calls}


def _given(flags: "JsonObject") -> "JsonObject":
    return {
        name: value for name, value in flags.items() if value is not None and value is not False
    }


def _give_clock(reading: "ClockReading", *, as_json: bool) -> None:
    from wesemu.cli.output import print_json, print_table

    if as_json:
        print_json(reading.raw)
        return
    row = (reading.now, reading.wall, f"{reading.speed:g}", reading.pace)
    print_table(("EMULATED TIME", "REAL TIME", "SPEED", "PACE"), [row])


def _give_faults(faults: "list[JsonObject]", *, as_json: bool) -> None:
    from wesemu.cli.output import print_json, print_note, print_table

    if as_json:
        print_json(faults)
    elif faults:
        print_table(("OPERATION", "TIMES", "FAULT"), map(_fault_row, faults))
    else:
        print_note("no faults are ordered")


def _fault_row(fault: "JsonObject") -> tuple[str, str, str]:
    """What it strikes, how many times, and how: only what was asked for."""
    from wesemu.client.transport import inner, text

    run = inner(fault, "next_run")
    asked = run or {name: fault.get(name) for name in _OF_CALLS}
    told = ", ".join(
        name if value is True else f"{name} {value}" for name, value in asked.items() if value
    )
    return text(fault, "operation") or "next-run", text(fault, "times"), told
