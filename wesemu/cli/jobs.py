"""`wesemu list`, `get`, `logs`, `crate`, `cancel` and `remove`: the runs of both APIs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wesemu.cli.output import DEFAULT_SERVER, AsJson, JobName, Server, Token

if TYPE_CHECKING:
    from wesemu.cli.remote import Target
    from wesemu.client import Client, JobDetail, RunDetail


class Inclusion(StrEnum):
    """The outputs that a crate contains.

    `small` selects outputs of at most 1 MiB each and 16 MiB in total. The crate has the URLs of
    the others.
    """

    SMALL = "small"
    ALL = "all"
    NONE = "none"


def register(app: typer.Typer) -> None:
    panel = "Jobs"
    app.command("list", rich_help_panel=panel)(list_jobs)
    app.command("get", rich_help_panel=panel)(get)
    app.command("logs", rich_help_panel=panel)(logs)
    app.command("crate", rich_help_panel=panel)(crate)
    app.command("cancel", rich_help_panel=panel)(cancel)
    app.command("remove", rich_help_panel=panel)(remove)


def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of runs.")] = 20,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """List the newest runs of both APIs."""
    from wesemu.cli.output import print_json, print_note, print_table
    from wesemu.cli.remote import call, targets

    found = call(server, token, lambda client: targets(client, limit))
    if as_json:
        print_json(
            [
                {
                    "name": target.name,
                    "run_id": target.run.id,
                    "state": target.run.state.value,
                    "create_time": target.job.created if target.job else None,
                    "start_time": target.run.started,
                    "end_time": target.run.ended,
                    "tags": dict(target.run.tags),
                }
                for target in found
            ]
        )
    elif found:
        print_table(("JOB NAME", "RUN ID", "STATE", "START TIME", "END TIME"), map(_row, found))
    else:
        print_note("no runs yet; submit one with 'wesemu run mapping' or 'wesemu run wgs'")


def get(
    job: JobName,
    show: Annotated[
        bool, typer.Option("--show", help="Show the request, the results and the tasks as well.")
    ] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Show one run."""
    from wesemu.cli.output import print_json, print_note
    from wesemu.cli.remote import call, find, sla_text
    from wesemu.runs.model import PLACE_NOTE

    async def act(client: "Client") -> "tuple[Target, JobDetail | None, RunDetail]":
        target = await find(client, job)
        detail = await client.ags.job(target.job.name) if target.job else None
        return target, detail, await client.wes.run(target.run.id)

    target, detail, run = call(server, token, act)
    if as_json:
        print_json({"ags": detail.raw if detail else None, "wes": run.raw})
        return
    _print_job(target, detail, run)
    if show:
        _print_details(run)
    if (level := sla_text(run.tags)) is not None:
        print_note(f"{target.name}: {level}")
    if (note := run.tags.get(PLACE_NOTE)) is not None:
        print_note(f"{target.name}: {note}")
    if run.error:
        print_note(f"{target.name}: {run.error}")


def logs(
    job: JobName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the log until the run ends.")
    ] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Print the stderr of a run's engine and tools."""
    from wesemu.cli.output import print_json
    from wesemu.cli.remote import call, find, follow_log, read_logs

    async def act(client: "Client") -> None:
        target = await find(client, job)
        if as_json:
            print_json(await read_logs(client, target.run.id))
        else:
            await follow_log(client, target.run.id, to_the_end=follow)

    call(server, token, act)


def crate(
    job: JobName,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="ZIP file to write.", show_default="JOB.crate.zip"),
    ] = None,
    outputs: Annotated[
        Inclusion, typer.Option(help="Outputs that the crate contains.")
    ] = Inclusion.SMALL,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Write an ended run as a Workflow Run RO-Crate (ZIP)."""
    from wesemu.cli.output import print_result
    from wesemu.cli.remote import call, find

    async def act(client: "Client") -> Path:
        target = await find(client, job)
        file = output or Path(f"{target.name}.crate.zip")
        await client.wes.crate(target.run.id, file, outputs=outputs.value)
        return file

    print_result(str(call(server, token, act)))


def cancel(job: JobName, server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Cancel a queued or running run."""
    from wesemu.cli.output import print_note
    from wesemu.cli.remote import call, find

    async def act(client: "Client") -> str:
        target = await find(client, job)
        if target.run.state.ended:
            return f"{target.name} has already ended: {target.run.state}"
        await client.wes.cancel(target.run.id)
        return f"{target.name} is being cancelled"

    print_note(call(server, token, act))


def remove(job: JobName, server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Remove an ended run and its logs; published results stay."""
    from wesemu.cli.output import print_note
    from wesemu.cli.remote import call, find

    async def act(client: "Client") -> str:
        target = await find(client, job)
        await client.wes.remove(target.run.id)
        return f"{target.name} is removed"

    print_note(call(server, token, act))


def _row(target: "Target") -> tuple[str, ...]:
    run = target.run
    return target.name, run.id, run.state.value, run.started or "", run.ended or ""


def _print_job(target: "Target", detail: "JobDetail | None", run: "RunDetail") -> None:
    """Print the columns of `ags remote get`, or fewer if AGS does not know the run."""
    from wesemu.cli.output import print_table

    if detail is None:
        print_table(("JOB NAME", "RUN ID", "STATE", "START TIME", "END TIME"), [_row(target)])
        return
    print_table(
        (
            "JOB NAME",
            "JOB NAMESPACE",
            "STATUS",
            "CREATE TIME",
            "DURATION",
            "FINISH TIME",
            "TOTAL READS",
            "TOTAL BASES",
        ),
        [
            (
                detail.name,
                detail.namespace,
                detail.status,
                detail.created,
                detail.duration,
                detail.finished,
                str(detail.total_reads),
                str(detail.total_bases),
            )
        ],
    )


def _print_details(run: "RunDetail") -> None:
    import json

    from wesemu.cli.output import print_result, print_table
    from wesemu.client.transport import nested

    request = nested(run.raw, "request")
    print_table(("TAG", "VALUE"), sorted(run.tags.items()) or [("", "")])
    parameters = nested(request, "workflow_params")
    print_table(
        ("PARAMETER", "VALUE"), [(name, json.dumps(value)) for name, value in parameters.items()]
    )
    for task in run.tasks:
        code = "" if task.exit_code is None else str(task.exit_code)
        print_result(
            f"task    {task.name:<20} {task.started or '-':<20} {task.ended or '-':<20} {code}"
        )
    for name, output in run.outputs.items():
        print_result(f"output  {name:<20} {output.size:>12,}  {output.published or output.url}")
