"""What verbs do with a server: calls, finding runs by name, following runs and logs."""

import asyncio
import hashlib
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from wesemu.cli.output import (
    CommandRefused,
    ExitStatus,
    StreamSanitizer,
    check_output,
    print_note,
    progress_display,
    sanitize,
    sanitize_cell,
)
from wesemu.client import AsyncClient, ClientError, JobLine, Output, RunDetail, RunLine
from wesemu.client.transport import nested
from wesemu.runs.model import JsonObject, Pacing, RunState
from wesemu.runs.run_directory import safe_name
from wesemu.runs.run_figures import RunFigures

# --- service level and progress of a run ---


def sla_text(figures: RunFigures) -> str | None:
    """Describe the service level of a run (docs/sla.md); None if its size is unknown."""
    texts = figures.texts
    if figures.minutes is None and figures.predicted_finish is None:
        return None
    parts = [f"service level {texts.get('level', '')}"]
    if figures.minutes is not None:
        parts.append(f"{figures.sla_bases:,} bases: {texts['minutes']} min, {texts['price']} CNY")
    if figures.met is not None:
        charged = f"missed, {texts['charged']} CNY are charged"
        parts.append("met" if figures.met else charged)
    if figures.predicted_finish is not None:
        parts.append(f"expected to end at {texts['predicted_finish']}")
    if figures.real_seconds is not None:
        parts.append(f"the tools took {texts['real_seconds']} s")
    if figures.pace is not None:
        parts.append(f"pace {figures.pace}")
    return "; ".join(parts)


def tasks_text(answer: JsonObject) -> str:
    """Describe the plan in the server's answer to a dry run."""
    graph = nested(nested(answer, "wesemu"), "graph")
    if not graph:
        return "the engine decides which tasks will run"
    counts = nested(graph, "counts")
    tasks = [name if number == 1 else f"{name} ({number})" for name, number in counts.items()]
    return f"will run: {', '.join(tasks)}" if tasks else "nothing is left to run"


async def watch(client: AsyncClient, run_id: str, name: str) -> bool:
    """Show the progress of a run on stderr until it ends. Return whether it succeeded."""
    with progress_display() as progress:
        async for run in client.wes.follow(run_id):
            progress.show(name, run.state, run.tasks_done, run.tasks_total, note=_promised_end(run))
    return _print_outcome(run, name)


def _promised_end(run: RunDetail) -> str:
    """Return the end that the service level sets, "" if the run ends with its tools."""
    finish = run.figures.texts.get("predicted_finish")
    return f"until {finish}" if finish and run.figures.pace is Pacing.SLA else ""


def _print_outcome(run: RunDetail, name: str) -> bool:
    """Print the outcome of a run. Return whether it succeeded."""
    if run.placement is not None and run.placement.note is not None:
        print_note(f"{name}: {run.placement.note}")
    if run.state is not RunState.COMPLETE:
        print_note(f"{name}: {run.state}" + (f": {run.error}" if run.error else ""))
        if run.hint:
            print_note(f"{name}: {run.hint}")
        print_note(f"'wesemu logs {name}' shows the output of its tools")
        return False
    for output in run.outputs.values():
        if output.published:
            print_note(f"  {output.size:>12,}  {output.published}")
    if any(not output.published for output in run.outputs.values()):
        print_note(f"'wesemu outputs {name} --download DIR' fetches the results")
    if not run.outputs:
        print_note(f"{name}: the run has no results; files outside its directory do not count")
    for tag in ("wesemu.warnings", "wesemu.notes"):
        if tag in run.tags:
            print_note(f"{name}: {run.tags[tag]}")
    figures = run.figures
    if (level := sla_text(figures)) is not None:
        print_note(f"{name}: {figures.total_reads:,} reads; {level}")
    return True


_STEPS = (RunState.QUEUED, RunState.INITIALIZING, RunState.RUNNING, RunState.COMPLETE)


async def wait_for(client: AsyncClient, run_id: str, state: RunState, seconds: float) -> RunState:
    """Wait until a run is in `state` or has ended, at most `seconds`. Return its state."""
    deadline = time.monotonic() + seconds
    while True:
        current = await client.wes.state(run_id)
        if current.ended or reached(current, state) or time.monotonic() > deadline:
            return current
        await asyncio.sleep(_PAUSE_SECONDS)


def reached(current: RunState, wanted: RunState) -> bool:
    """Whether a run in `current` is in the state `wanted`, or was on its way to success."""
    if current in _STEPS and wanted in _STEPS:
        return _STEPS.index(current) >= _STEPS.index(wanted)
    return current is wanted


_UNAVAILABLE = 503
_READY_PAUSE_SECONDS = 0.2


async def wait_until_ready(client: AsyncClient, seconds: float) -> str:
    """Wait until runs can start, at most `seconds`. Return why they cannot, "" if they can.

    Raise ClientError if no server answers in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            await client.control.check_ready()
        except ClientError as error:
            if error.status not in (None, _UNAVAILABLE):
                raise
            if time.monotonic() >= deadline:
                if error.status is None:
                    raise
                return error.message
            await asyncio.sleep(_READY_PAUSE_SECONDS)
        else:
            return ""


# --- results ---


async def download_outputs(
    client: AsyncClient, run: RunDetail, folder: Path, *, overwrite: bool = False
) -> list[Path]:
    """Download all results of a run into `folder`, which may be new. Return the files.

    They keep their paths in the run. If all are below one folder that has the name of `folder`,
    it is not repeated: results/a.bam goes to `results`, not to results/results. A file that has
    the result's content already stays. Raise CommandRefused before the first download if a file
    with other content exists, unless `overwrite`; InvalidRequest for a name that leads out of the
    folder.
    """
    if await asyncio.to_thread(folder.is_file):
        raise CommandRefused(f"{folder} is a file; name a folder with --download")
    files = _local_files(run, folder)
    for output, file in await asyncio.to_thread(_to_download, files, overwrite=overwrite):
        await asyncio.to_thread(file.parent.mkdir, parents=True, exist_ok=True)
        await client.wes.download(output, file)
    return [file for _, file in files]


def _local_files(run: RunDetail, folder: Path) -> list[tuple[Output, Path]]:
    outputs = list(run.outputs.values())
    names = [safe_name(unquote(each.download_url.partition("/outputs/")[2])) for each in outputs]
    repeated = folder.absolute().name
    if all(name.parts[0] == repeated and len(name.parts) > 1 for name in names):
        names = [name.relative_to(repeated) for name in names]
    return [(output, folder / name) for output, name in zip(outputs, names, strict=True)]


def _to_download(
    files: Sequence[tuple[Output, Path]], *, overwrite: bool
) -> list[tuple[Output, Path]]:
    """Return the files without those that have their content. Raise CommandRefused."""
    missing = [(output, file) for output, file in files if not _has_content(file, output)]
    for _, file in missing:
        if os.path.lexists(file) and not overwrite:
            raise CommandRefused(
                f"{file} exists already with other content, so nothing was downloaded; choose "
                "another folder, or replace files with --overwrite",
                ExitStatus.MACHINE,
            )
    return missing


def _has_content(file: Path, output: Output) -> bool:
    """Return whether `file` has the size and the SHA-256 of `output`."""
    if not file.is_file() or file.stat().st_size != output.size:
        return False
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == output.sha256


# --- logs ---

_PAUSE_SECONDS = 0.5


async def follow_log(client: AsyncClient, run_id: str, *, to_the_end: bool) -> None:
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
        check_output()
    sys.stdout.write(text.end())
    for task in run.tasks:
        if task.exit_code and (log := await _text(client, task.stderr)):
            name = sanitize_cell(task.name)
            sys.stdout.write(f"==> {name}, exit status {task.exit_code} <==\n{sanitize(log)}")


async def print_task_logs(client: AsyncClient, run_id: str, name: str) -> None:
    """Print the stderr of the tasks called `name`, also of tasks that succeeded.

    Raise CommandRefused if the run has no such task.
    """
    run = await client.wes.run(run_id)
    found = [task for task in run.tasks if task.name == name]
    if not found:
        names = ", ".join(dict.fromkeys(task.name for task in run.tasks)) or "none yet"
        raise CommandRefused(f"the run has no task {name!r}; its tasks: {names}")
    for task in found:
        if len(found) > 1:
            code = "running" if task.exit_code is None else f"exit status {task.exit_code}"
            sys.stdout.write(f"==> {sanitize_cell(task.name)}, {code} <==\n")
        sys.stdout.write(sanitize(await _text(client, task.stderr) or ""))


async def read_logs(client: AsyncClient, run_id: str) -> JsonObject:
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


async def _text(client: AsyncClient, url: str | None) -> str | None:
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
        """The job's name of AGS; for other workflows NAME-HANDLE."""
        if self.job is not None:
            return self.job.name
        workflow = self.run.tags.get("wesemu.workflow", "")
        return f"{workflow}-{self.run.handle}" if workflow else self.run.handle

    @property
    def names(self) -> tuple[str, ...]:
        return self.run.id, self.run.handle, self.name


def call(
    server: str,
    token: str | None,
    action: Callable[[AsyncClient], Awaitable[T]],
    flags: Mapping[str, str] | None = None,
) -> T:
    """Run `action` in an event loop, with a client of `server` that sends `token`.

    Raise CommandRefused for each ClientError, with the exit status. `flags` are the flags for
    fields of the API; the message names them instead of the fields.
    """

    async def act() -> T:
        async with AsyncClient(server, token=token) as client:
            return await action(client)

    try:
        return asyncio.run(act())
    except ClientError as error:
        answered = error.status is not None
        status = ExitStatus.REFUSED if answered else ExitStatus.UNREACHABLE
        message = _with_flags(error.message, flags or {})
        if error.status == HTTPStatus.UNAUTHORIZED:
            message += " (here: --token TOKEN or WESEMU_TOKEN)"
        raise CommandRefused(message, status) from error
    except UnicodeEncodeError as error:
        raise CommandRefused(
            f"{error.object!r} is not UTF-8; rename it, because servers take only UTF-8",
            ExitStatus.USAGE,
        ) from error


def _with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Replace the names of an API's fields by those of flags."""
    return re.sub(r"\b\w+\b", lambda word: flags.get(word[0], word[0]), message)


async def targets(client: AsyncClient, limit: int) -> list[Target]:
    """Return the runs of both APIs, newest first."""
    runs = await client.wes.runs(limit=limit)
    jobs = await client.ags.jobs(limit=limit)
    by_handle = {job.name.rpartition("-")[2]: job for job in jobs}
    return [Target(run, by_handle.get(run.handle)) for run in runs]


LAST = "@last"

_NEWEST = 100
"""Runs in which `find` looks for a name first."""


async def find(client: AsyncClient, text: str, *, whole: bool = False) -> Target:
    """Return the run with this job name, handle or id, or the only one whose name begins with it.

    `@last` is the newest run. With `whole`, only complete names count: a verb that cancels or
    deletes must not guess. Raise CommandRefused if there is no such run or more than one.
    """
    if text == LAST and not whole:
        newest = await targets(client, 1)
        if not newest:
            raise CommandRefused("there are no runs yet")
        return newest[0]
    limit = _NEWEST
    while True:
        candidates = await targets(client, limit)
        # Only one run has a complete name, so the runs before it need not be read.
        is_found = any(text in target.names for target in candidates)
        if is_found or len(candidates) < limit:
            return choose(candidates, text, whole=whole)
        limit *= 10


def choose(candidates: Sequence[Target], text: str, *, whole: bool = False) -> Target:
    """Select the run from `candidates`, as `find` does."""
    found = [target for target in candidates if text in target.names]
    if not found and text:
        found = [t for t in candidates if any(name.startswith(text) for name in t.names)]
        if found and whole:
            raise CommandRefused(
                f"{text!r} is not a complete name; type {' or '.join(t.name for t in found[:3])}"
            )
    match found:
        case [target]:
            return target
        case []:
            if text == LAST:
                raise CommandRefused("type the name of the run; this verb does not take @last")
            raise CommandRefused(f"there is no run {text!r}; 'wesemu list' shows all runs")
    names = ", ".join(target.name for target in found[:5]) + (", …" if found[5:] else "")
    raise CommandRefused(f"{text!r} matches {len(found)} runs: {names}; type more of the name")
