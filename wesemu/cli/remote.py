"""Talking to a server from a verb: one event loop a command, failures as exit statuses, names."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wesemu.cli.failures import ExitStatus, Refused
from wesemu.client import Client, ClientError, JobLine, RunLine, connect

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
        raise Refused(error.message, status) from error


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
            raise Refused(f"no run is called {text!r}; 'wesemu list' shows those there are")
    names = ", ".join(target.name for target in found[:5]) + (", …" if found[5:] else "")
    raise Refused(f"{text!r} fits {len(found)} runs: {names}; write more of the name")
