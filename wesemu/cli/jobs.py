"""The verbs that read, wait for, cancel and remove runs of both APIs."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wesemu.cli.output import (
    DEFAULT_SERVER,
    AsJson,
    JobName,
    Overwrite,
    Server,
    Token,
    WholeJobName,
    path_option,
    target_option,
)

if TYPE_CHECKING:
    from wesemu.cli.remote import Target
    from wesemu.client import AsyncClient, JobDetail, Log, RunDetail
    from wesemu.runs.model import JsonObject, RunState


def register(app: typer.Typer) -> None:
    app.command("list", rich_help_panel="Jobs")(list_jobs)
    for verb in (get, wait, tasks, outputs, logs, crate, rerun, cancel, remove):
        app.command(rich_help_panel="Jobs")(verb)


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
                    "workflow": _workflow(target),
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
        print_table(("JOB NAME", "STATE", "START TIME", "DURATION"), map(_line, found))
    else:
        print_note("no runs yet; send one with 'wesemu run mapping', 'run wgs' or 'submit'")


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

    async def act(client: "AsyncClient") -> "tuple[Target, JobDetail | None, RunDetail]":
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
    if (level := sla_text(run.figures)) is not None:
        print_note(f"{target.name}: {level}")
    if run.placement is not None and run.placement.note is not None:
        print_note(f"{target.name}: {run.placement.note}")
    if run.error:
        print_note(f"{target.name}: {run.error}")


_WaitState = Literal[
    "QUEUED",
    "INITIALIZING",
    "RUNNING",
    "COMPLETE",
    "EXECUTOR_ERROR",
    "SYSTEM_ERROR",
    "CANCELED",
]


def wait(
    job: JobName,
    state: Annotated[
        _WaitState, typer.Option("--for", help="The state to wait for.", case_sensitive=False)
    ] = "COMPLETE",
    timeout: Annotated[
        str | None,
        typer.Option(help="The longest wait: 90s, 10m, 2h.", metavar="LENGTH", show_default="none"),
    ] = None,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Wait until a run is in a state, by default COMPLETE; print its state.

    Ends with status 1 if the run ends in another state, or at the timeout.
    """
    from datetime import timedelta

    from wesemu.cli.admin import parse_length
    from wesemu.cli.output import ExitStatus, print_note, print_result
    from wesemu.cli.remote import call, find, reached, wait_for
    from wesemu.runs.model import RunState

    wanted = RunState(state)
    limit = timedelta(**parse_length(timeout)).total_seconds() if timeout else float("inf")

    async def act(client: "AsyncClient") -> "tuple[str, RunState, str | None]":
        target = await find(client, job)
        current = await wait_for(client, target.run.id, wanted, limit)
        failed = current.ended and not reached(current, wanted)
        error = (await client.wes.run(target.run.id)).error if failed else None
        return target.name, current, error

    name, current, error = call(server, token, act)
    print_result(current.value)
    if not reached(current, wanted):
        reason = error or ("it has ended" if current.ended else f"not {wanted} after {timeout}")
        print_note(f"{name}: {current}: {reason}")
        raise typer.Exit(ExitStatus.FAILED)


def tasks(
    job: JobName, as_json: AsJson = False, server: Server = DEFAULT_SERVER, token: Token = None
) -> None:
    """List the tasks of a run, with their times, exit statuses, CPU time and memory."""
    from wesemu.cli.output import print_json, print_note, print_table
    from wesemu.cli.remote import call, find
    from wesemu.client.transport import nested_list

    async def act(client: "AsyncClient") -> "RunDetail":
        return await client.wes.run((await find(client, job)).run.id)

    run = call(server, token, act)
    logs = nested_list(run.raw, "task_logs")
    if as_json:
        print_json(logs)
    elif run.tasks:
        print_table(
            ("TASK", "STATE", "DURATION", "EXIT", "CPU", "MEMORY"),
            [
                _task_row(task, _measurements(log))
                for task, log in zip(run.tasks, logs, strict=True)
            ],
        )
    else:
        print_note("the run has no tasks yet")


def outputs(
    job: JobName,
    download: Annotated[
        Path | None,
        path_option(help="Download all results into this folder.", metavar="DIR"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of --download that exist.")
    ] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """List the results of a run with their sizes and places, or download them."""
    from wesemu.cli.output import print_json, print_note, print_result, print_table
    from wesemu.cli.remote import call, download_outputs, find
    from wesemu.client.transport import nested

    async def act(client: "AsyncClient") -> "tuple[RunDetail, list[Path]]":
        run = await client.wes.run((await find(client, job)).run.id)
        if download is None:
            return run, []
        return run, await download_outputs(client, run, download, overwrite=overwrite)

    run, files = call(server, token, act)
    if as_json:
        print_json(nested(run.raw, "outputs"))
    elif download is not None:
        for file in files:
            print_result(str(file))
    elif run.outputs:
        print_table(
            ("OUTPUT", "BYTES", "PLACE"),
            [
                (name, f"{output.size:,}", output.published or "in the run")
                for name, output in run.outputs.items()
            ],
        )
    if not run.outputs:
        print_note(f"the run has no results; it is {run.state}")


def logs(
    job: JobName,
    task: Annotated[
        str | None,
        typer.Option(help="Print the stderr of this task, also if it succeeded.", metavar="NAME"),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the log until the run ends.")
    ] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Print the stderr of a run's engine and of its failed tasks, or of one task."""
    from wesemu.cli.output import print_json
    from wesemu.cli.remote import call, find, follow_log, print_task_logs, read_logs

    if task is not None and (follow or as_json):
        raise typer.BadParameter("--task excludes --follow and --json")

    async def act(client: "AsyncClient") -> None:
        target = await find(client, job)
        if task is not None:
            await print_task_logs(client, target.run.id, task)
        elif as_json:
            print_json(await read_logs(client, target.run.id))
        else:
            await follow_log(client, target.run.id, to_the_end=follow)

    call(server, token, act)


def crate(
    job: JobName,
    output: Annotated[
        Path,
        target_option(
            "--output",
            "-o",
            help="ZIP file to write, or its folder.",
            show_default="JOB.crate.zip",
            metavar="FILE",
        ),
    ] = Path(),
    outputs: Annotated[
        Literal["small", "all", "none"], typer.Option(help="Outputs that the crate contains.")
    ] = "small",
    overwrite: Overwrite = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Write an ended run as a Workflow Run RO-Crate (ZIP)."""
    from wesemu.cli.output import print_result, refuse_existing
    from wesemu.cli.remote import call, find

    is_folder = output.is_dir()

    async def act(client: "AsyncClient") -> Path:
        target = await find(client, job)
        file = output / f"{target.name}.crate.zip" if is_folder else output
        if is_folder:
            await asyncio.to_thread(refuse_existing, file, overwrite=overwrite)
        return await client.wes.crate(target.run.id, file, outputs=outputs)

    print_result(str(call(server, token, act)))


def rerun(
    job: JobName,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A parameter to change; JSON, or else text.", metavar="KEY=VALUE"
        ),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Reuse no files of the earlier run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show which tasks would run.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for the end; exit with status 1 if it fails.")
    ] = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Run an ended run again as a new run that reuses its finished files.

    Shows first which tasks will run, then prints the id of the new run.
    """
    import json

    from wesemu.cli.output import ExitStatus, print_note, print_result
    from wesemu.cli.remote import call, find, tasks_text
    from wesemu.cli.remote import watch as follow
    from wesemu.cli.submit import parameters
    from wesemu.client.transport import text

    changes = parameters(None, change or (), "--set")

    async def act(client: "AsyncClient") -> bool:
        earlier = (await find(client, job)).run.id
        plan = await client.wes.resume(earlier, changes, from_scratch=from_scratch, dry_run=True)
        print_note(tasks_text(plan))
        if dry_run:
            return True
        run = await client.wes.resume(earlier, changes, from_scratch=from_scratch)
        run_id = text(run, "run_id")
        print_result(json.dumps({"run_id": run_id}))
        if not watch:
            return True
        return await follow(client, run_id, (await find(client, run_id)).name)

    if not call(server, token, act, {"workflow_params": "--set"}):
        raise typer.Exit(ExitStatus.FAILED)


def cancel(job: WholeJobName, server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Cancel a queued or running run."""
    from wesemu.cli.output import print_note
    from wesemu.cli.remote import call, find

    async def act(client: "AsyncClient") -> str:
        target = await find(client, job, whole=True)
        if target.run.state.ended:
            return f"{target.name} has already ended: {target.run.state}"
        await client.wes.cancel(target.run.id)
        return f"{target.name} is being canceled"

    print_note(call(server, token, act))


def remove(job: WholeJobName, server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Remove an ended run and its logs; published results stay."""
    from wesemu.cli.output import print_note
    from wesemu.cli.remote import call, find

    async def act(client: "AsyncClient") -> str:
        target = await find(client, job, whole=True)
        await client.wes.remove(target.run.id)
        return f"{target.name} is removed"

    print_note(call(server, token, act))


def _line(target: "Target") -> tuple[str, ...]:
    run = target.run
    return target.name, run.state.value, run.started or "", _duration(run.started, run.ended)


def _workflow(target: "Target") -> str:
    """Return the name of the workflow: mapping, wgs, or that of a user's own workflow."""
    own = target.run.tags.get("wesemu.workflow")
    return own or (target.job.name.partition("-")[0] if target.job else "")


def _duration(start: str | None, end: str | None) -> str:
    """Return the time between two times of the API as "1h02m03s", "" if one is missing."""
    from datetime import datetime

    if start is None or end is None:
        return ""
    length = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    minutes, seconds = divmod(int(length.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m{seconds:02}s"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def _measurements(log: "JsonObject") -> dict[str, str]:
    """Parse the lines "name: value" in a task's `system_logs`."""
    lines = log.get("system_logs")
    pairs = (str(line).partition(": ") for line in (lines if isinstance(lines, list) else []))
    return {name: value for name, _, value in pairs}


def _task_row(task: "Log", measured: Mapping[str, str]) -> tuple[str, ...]:
    cpu, memory = measured.get("cpu_seconds"), measured.get("peak_memory_bytes")
    return (
        task.name,
        measured.get("state", ""),
        _duration(task.started, task.ended),
        "" if task.exit_code is None else str(task.exit_code),
        f"{float(cpu):.1f} s" if cpu else "",
        f"{int(memory) / (1 << 20):.0f} MiB" if memory else "",
    )


def _row(target: "Target") -> tuple[str, ...]:
    run = target.run
    return target.name, run.id, run.state.value, run.started or "", run.ended or ""


def _print_job(target: "Target", detail: "JobDetail | None", run: "RunDetail") -> None:
    """Print the columns of `ags remote get`, or fewer if AGS does not know the run.

    Scripts cut these columns, so the table fits the width of terminals only.
    """
    import sys

    from wesemu.cli.output import print_table

    fit = sys.stdout.isatty()

    if detail is None:
        print_table(
            ("JOB NAME", "RUN ID", "STATE", "START TIME", "END TIME"), [_row(target)], fit=fit
        )
        return
    columns = {
        "JOB NAME": detail.name,
        "JOB NAMESPACE": detail.namespace,
        "STATUS": detail.status,
        "CREATE TIME": detail.created,
        "DURATION": detail.duration,
        "FINISH TIME": detail.finished,
        "TOTAL READS": str(detail.total_reads),
        "TOTAL BASES": str(detail.total_bases),
    }
    print_table([*columns], [[*columns.values()]], fit=fit)


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
        print_result(f"output  {name:<20} {output.size:>12,}  {output.url}")
