"""A run's log on stdout, as it grows."""

import asyncio
import sys

from wesemu.cli.terminal import HarmlessText, harmless, harmless_cell
from wesemu.client import Client, ClientError
from wesemu.runs.model import JsonObject

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
