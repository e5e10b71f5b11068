"""Talking to a server from a verb: one event loop a command, failures as exit statuses, names."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wesemu.cli.output import (
    CommandRefused,
    ExitStatus,
    HarmlessText,
    board,
    harmless,
    harmless_cell,
    print_note,
)
from wesemu.client import Client, ClientError, JobLine, RunDetail, RunLine, connect
from wesemu.runs.model import PLACE_NOTE, JsonObject, RunState

# A run's service level in one line.


_SLA = "wesemu.sla."


def sla_text(tags: Mapping[str, str]) -> str | None:
    """What the server tells in a run's tags (docs/sla.md); None for a run without a size."""
    if f"{_SLA}minutes" not in tags and f"{_SLA}predicted_finish" not in tags:
        return None
    told = [f"service level {tags.get(f'{_SLA}level', '')}"]
    if f"{_SLA}minutes" in tags:
        told.append(
            f"{int(tags[f'{_SLA}bases']):,} bases: {tags[f'{_SLA}minutes']} min, "
            f"{tags[f'{_SLA}price_cny']} CNY"
        )
    match tags.get(f"{_SLA}met"):
        case "true":
            told.append("kept")
        case "false":
            told.append(f"missed, {tags[f'{_SLA}charged_cny']} CNY are charged")
    if f"{_SLA}predicted_finish" in tags:
        told.append(f"expected to end at {tags[f'{_SLA}predicted_finish']}")
    if "wesemu.real.seconds" in tags:
        told.append(f"the tools took {tags['wesemu.real.seconds']} s")
    if "wesemu.pace" in tags:
        told.append(f"pace {tags['wesemu.pace']}")
    return "; ".join(told)


# Following a run to its end.


async def watch(client: Client, run_id: str, name: str) -> bool:
    """Follow one run with its progress on stderr; whether it ended well."""
    with board() as progress:
        async for run in client.wes.follow(run_id):
            progress.show(name, run.state, run.tasks_done, len(run.tasks), note=_expected(run))
    return _conclude(run, name)


def _expected(run: RunDetail) -> str:
    """Until when a run is kept that ends by its service level, not by its tools."""
    finish = run.tags.get("wesemu.sla.predicted_finish")
    return f"until {finish}" if finish and run.tags.get("wesemu.pace") == "sla" else ""


def _conclude(run: RunDetail, name: str) -> bool:
    """Tell how a run ended; whether it ended well."""
    if (note := run.tags.get(PLACE_NOTE)) is not None:
        print_note(f"{name}: {note}")
    if run.state is not RunState.COMPLETE:
        print_note(f"{name}: {run.state}" + (f": {run.error}" if run.error else ""))
        print_note(f"'wesemu logs {name}' shows what its tools said")
        return False
    for output in run.outputs.values():
        if output.published:
            print_note(f"  {output.size:>12,}  {output.published}")
    if (told := sla_text(run.tags)) is not None:
        print_note(f"{name}: {int(run.tags['wesemu.total_reads']):,} reads; {told}")
    return True


# A run's log on stdout, as it grows.


_PAUSE_SECONDS = 0.5


async def follow_log(client: Client, run_id: str, *, to_the_end: bool) -> None:
    """Copy the run's stderr to stdout, once or until the run has ended; then those of the tasks
    that failed."""
    told, text = 0, HarmlessText()
    while True:
        run = await client.wes.run(run_id)
        if run.log.stderr is not None:
            async for chunk in client.wes.read(run.log.stderr, start=told):
                sys.stdout.write(text.add(chunk))
                told += len(chunk)
            sys.stdout.flush()
        if run.state.ended or not to_the_end:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
    sys.stdout.write(text.end())
    for task in run.tasks:
        if task.exit_code and (words := await _text(client, task.stderr)):
            name = harmless_cell(task.name)
            sys.stdout.write(f"==> {name}, exit status {task.exit_code} <==\n{harmless(words)}")


async def gather(client: Client, run_id: str) -> JsonObject:
    """The run's and its tasks' stdout and stderr as one object."""
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
    """None where a task has not written anything yet."""
    if url is None:
        return None
    try:
        return await client.wes.text(url)
    except ClientError as error:
        if error.status != 404:
            raise
        return None


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """One run under all its names. `job` is AGS's; None for a workflow that AGS has no word for."""

    run: RunLine
    job: JobLine | None

    @property
    def name(self) -> str:
        return self.run.handle if self.job is None else self.job.name

    @property
    def names(self) -> tuple[str, ...]:
        return self.run.id, self.run.handle, self.name


def call(server: str, token: str | None, action: Callable[[Client], Awaitable[T]]) -> T:
    """Carry out `action` with a client of `server` that shows `token`, where there is one.

    Raises Refused for everything that the client complains of.
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
    """The runs of both APIs, newest first."""
    runs = await client.wes.runs(limit=limit)
    jobs = await client.ags.jobs(limit=limit)
    by_handle = {job.name.rpartition("-")[2]: job for job in jobs}
    return [Target(run, by_handle.get(run.handle)) for run in runs]


async def find(client: Client, text: str) -> Target:
    """The run with this job name, handle or id, or the only one with a name that begins so.

    Raises Refused where there is none or more than one.
    """
    return choose(await targets(client), text)


def choose(candidates: Sequence[Target], text: str) -> Target:
    """As `find`, among `candidates`."""
    found = [target for target in candidates if text in target.names]
    if not found and text:
        found = [t for t in candidates if any(name.startswith(text) for name in t.names)]
    match found:
        case [target]:
            return target
        case []:
            raise CommandRefused(f"no run is called {text!r}; 'wesemu list' shows those there are")
    names = ", ".join(target.name for target in found[:5]) + (", …" if found[5:] else "")
    raise CommandRefused(f"{text!r} fits {len(found)} runs: {names}; write more of the name")
