"""What verbs do with a server: calls, finding runs by name, following runs and logs."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wesemu.cli.output import (
    CommandRefused,
    ExitStatus,
    StreamSanitizer,
    print_note,
    progress_display,
    sanitize,
    sanitize_cell,
)
from wesemu.client import Client, ClientError, JobLine, RunDetail, RunLine, connect
from wesemu.runs.model import PLACE_NOTE, JsonObject, RunState

# --- service level and progress of a run ---

_SLA = "wesemu.sla."


def sla_text(tags: Mapping[str, str]) -> str | None:
    """Describe the service level in a run's tags (docs/sla.md); None if its size is unknown."""
    if f"{_SLA}minutes" not in tags and f"{_SLA}predicted_finish" not in tags:
        return None
    parts = [f"service level {tags.get(f'{_SLA}level', '')}"]
    if f"{_SLA}minutes" in tags:
        parts.append(
            f"{int(tags[f'{_SLA}bases']):,} bases: {tags[f'{_SLA}minutes']} min, "
            f"{tags[f'{_SLA}price_cny']} CNY"
        )
    match tags.get(f"{_SLA}met"):
        case "true":
            parts.append("kept")
        case "false":
            parts.append(f"missed, {tags[f'{_SLA}charged_cny']} CNY are charged")
    if f"{_SLA}predicted_finish" in tags:
        parts.append(f"expected to end at {tags[f'{_SLA}predicted_finish']}")
    if "wesemu.real.seconds" in tags:
        parts.append(f"the tools took {tags['wesemu.real.seconds']} s")
    if "wesemu.pace" in tags:
        parts.append(f"pace {tags['wesemu.pace']}")
    return "; ".join(parts)


async def watch(client: Client, run_id: str, name: str) -> bool:
    """Show the progress of a run on stderr until it ends. Return whether it succeeded."""
    with progress_display() as progress:
        async for run in client.wes.follow(run_id):
            progress.show(name, run.state, run.tasks_done, len(run.tasks), note=_promised_end(run))
    return _print_outcome(run, name)


def _promised_end(run: RunDetail) -> str:
    """Return the end that the service level sets, "" if the run ends with its tools."""
    finish = run.tags.get("wesemu.sla.predicted_finish")
    return f"until {finish}" if finish and run.tags.get("wesemu.pace") == "sla" else ""


def _print_outcome(run: RunDetail, name: str) -> bool:
    """Print the outcome of a run. Return whether it succeeded."""
    if (note := run.tags.get(PLACE_NOTE)) is not None:
        print_note(f"{name}: {note}")
    if run.state is not RunState.COMPLETE:
        print_note(f"{name}: {run.state}" + (f": {run.error}" if run.error else ""))
        print_note(f"'wesemu logs {name}' shows the output of its tools")
        return False
    for output in run.outputs.values():
        if output.published:
            print_note(f"  {output.size:>12,}  {output.published}")
    if (level := sla_text(run.tags)) is not None:
        print_note(f"{name}: {int(run.tags['wesemu.total_reads']):,} reads; {level}")
    return True


# --- logs ---

_PAUSE_SECONDS = 0.5


async def follow_log(client: Client, run_id: str, *, to_the_end: bool) -> None:
    """Copy the run's stderr to stdout, once or until the run ends.

    Then print the stderr of each failed task.
    """
    position, text = 0, StreamSanitizer()
    while True:
        run = await client.wes.run(run_id)
        if run.log.stderr is not None:
            async for chunk in client.wes.read(run.log.stderr, start=position):
                sys.stdout.write(text.add(chunk))
                position += len(chunk)
            sys.stdout.flush()
        if run.state.ended or not to_the_end:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
    sys.stdout.write(text.end())
    for task in run.tasks:
        if task.exit_code and (log := await _text(client, task.stderr)):
            name = sanitize_cell(task.name)
            sys.stdout.write(f"==> {name}, exit status {task.exit_code} <==\n{sanitize(log)}")


async def read_logs(client: Client, run_id: str) -> JsonObject:
    """Return stdout and stderr of the run and its tasks as one JSON object."""
    run = await client.wes.run(run_id)
    tasks: list[JsonObject] = [
        {
            "name": task.name,
            "stdout": await _text(client, task.stdout),
            "stderr": await _text(client, task.stderr),
        }
        for task in run.tasks
    ]
    return {
        "stdout": await _text(client, run.log.stdout),
        "stderr": await _text(client, run.log.stderr),
        "tasks": [*tasks],
    }


async def _text(client: Client, url: str | None) -> str | None:
    """Return a log, or None if the task has not written to it yet."""
    if url is None:
        return None
    try:
        return await client.wes.text(url)
    except ClientError as error:
        if error.status != 404:
            raise
        return None


# --- calls and names ---

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """One run with its names. `job` is None for workflows that AGS does not have."""

    run: RunLine
    job: JobLine | None

    @property
    def name(self) -> str:
        return self.run.handle if self.job is None else self.job.name

    @property
    def names(self) -> tuple[str, ...]:
        return self.run.id, self.run.handle, self.name


def call(server: str, token: str | None, action: Callable[[Client], Awaitable[T]]) -> T:
    """Run `action` in an event loop, with a client of `server` that sends `token`.

    Raise CommandRefused for each ClientError, with the exit status.
    """

    async def act() -> T:
        async with connect(server, token=token) as client:
            return await action(client)

    try:
        return asyncio.run(act())
    except ClientError as error:
        answered = error.status is not None
        status = ExitStatus.REFUSED if answered else ExitStatus.UNREACHABLE
        raise CommandRefused(error.message, status) from error


async def targets(client: Client, limit: int | None = None) -> list[Target]:
    """Return the runs of both APIs, newest first."""
    runs = await client.wes.runs(limit=limit)
    jobs = await client.ags.jobs(limit=limit)
    by_handle = {job.name.rpartition("-")[2]: job for job in jobs}
    return [Target(run, by_handle.get(run.handle)) for run in runs]


async def find(client: Client, text: str) -> Target:
    """Return the run with this job name, handle or id, or with a unique name that starts so.

    Raise CommandRefused if there is no such run or more than one.
    """
    return choose(await targets(client), text)


def choose(candidates: Sequence[Target], text: str) -> Target:
    """Select the run from `candidates`, as `find` does."""
    found = [target for target in candidates if text in target.names]
    if not found and text:
        found = [t for t in candidates if any(name.startswith(text) for name in t.names)]
    match found:
        case [target]:
            return target
        case []:
            raise CommandRefused(f"there is no run {text!r}; 'wesemu list' shows all runs")
    names = ", ".join(target.name for target in found[:5]) + (", …" if found[5:] else "")
    raise CommandRefused(f"{text!r} matches {len(found)} runs: {names}; type more of the name")
