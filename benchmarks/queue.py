"""Server CPU of a POST and of a run's start, with an empty queue and with 10,000 queued runs."""

import asyncio
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.archive import create_index, handle, insert_rows
from benchmarks.figures import median, ratio
from benchmarks.options import Options
from benchmarks.processes import cpu_seconds_of
from benchmarks.report import Report, at_most, figure
from benchmarks.rounds import say
from benchmarks.server import Server, fresh, serving
from benchmarks.workflows import three_timed_rules
from wesemu.runs import serialization
from wesemu.runs.data_directory import DataDirectory
from wesemu.runs.model import LOCAL_OWNER, Resources, Run, RunId, RunRequest, RunState
from wesemu.runs.ports import Plan
from wesemu.runs.run_directory import Workspace
from wesemu.runs.sla import ServiceLevel

_QUEUED = 10_000
_STARTS = 30
_WARM_UP = 5
_ROUNDS = 8
_POSTS = 25
_TIMES_EMPTY = 1.3
_OCCUPIED_SECONDS = 3600.0
_POLL_SECONDS = 0.25
"""Polling costs CPU of the server, too."""

_SNAKEFILE = "rule a:\n    output: 'a'\n    shell: 'touch a'\n"


def measure(options: Options) -> Report:
    """The node has one slot. First the queue's oldest runs start one after another; then a sleeping
    platinum run occupies the slot, and more runs are submitted, on both servers in turns."""
    counts = {"empty": 0, f"{options.count or _QUEUED:,} queued": options.count or _QUEUED}
    starts: dict[str, float] = {}
    posts: dict[str, list[float]] = {name: [] for name in counts}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name, count in counts.items():
            data = fresh(options.work / f"queue-{count}")
            say(f"writing {count:,} queued runs")
            fill(data, _WARM_UP + _STARTS + count)
            servers[name] = stack.enter_context(
                serving(data, environment={"WESEMU_NODE__RUNS": "1"})
            )
            starts[name] = _start_runs(servers[name])
            occupy(servers[name])
        for number in range(options.rounds or _ROUNDS):
            for name, server in servers.items():
                posts[name].append(submit_some(server))
            say(f"{number + 1}/{options.rounds or _ROUNDS}")
    empty, long = counts
    rows = [
        *(figure(f"POST, {name}: CPU", median(posts[name]) * 1e3, unit="ms") for name in counts),
        at_most("POST, long / empty", ratio(posts[long], posts[empty]), _TIMES_EMPTY, unit="x"),
        *(figure(f"start to end, {name}: CPU", starts[name] * 1e3, unit="ms") for name in counts),
        at_most("start, long / empty", starts[long] / starts[empty], _TIMES_EMPTY, unit="x"),
    ]
    return Report("queue: CPU of the server process", rows, posts)


def fill(data: Path, count: int) -> None:
    """Write `count` queued runs of one rule, with their directories, into a new data directory."""
    directory = DataDirectory(data)
    directory.create()
    asyncio.run(create_index(directory.index))
    with closing(sqlite3.connect(directory.index)) as connection, connection:
        insert_rows(connection, "runs", _queued(directory.runs, count))


def _queued(runs: Path, count: int) -> Iterator[dict[str, object]]:
    template = Run(
        id=RunId("the-id"),
        sequence=0,
        handle="the-handle",
        owner=LOCAL_OWNER,
        state=RunState.QUEUED,
        workflow="",
        service_level=ServiceLevel.SILVER,
        request=RunRequest("Snakefile", "SMK", "9"),
        resources=Resources(cores=1),
        created=datetime.now(UTC),
    )
    plan = Plan("snakemake", "", ServiceLevel.SILVER, template.resources, None)
    text = _submission(fresh(runs / "template"), template, plan)
    row = serialization.run_to_row(template)
    for number in range(count):
        run_id, name = str(uuid.uuid4()), handle(number)
        workspace = Workspace(runs / run_id)
        workspace.attachments.mkdir(parents=True)
        (workspace.attachments / "Snakefile").write_text(_SNAKEFILE)
        workspace.request.write_text(text.replace("the-id", run_id).replace("the-handle", name))
        yield row | {"id": run_id, "handle": name}


def _submission(folder: Path, run: Run, plan: Plan) -> str:
    workspace = Workspace(folder)
    serialization.write_submission(workspace, run, plan)
    text = workspace.request.read_text()
    workspace.request.unlink()
    folder.rmdir()
    return text


def _start_runs(server: Server) -> float:
    """Return the server's CPU seconds for one run, from start to end."""
    server.wes.wait_for_all(_WARM_UP, _POLL_SECONDS)
    used = cpu_seconds_of(server.pid)
    server.wes.wait_for_all(_WARM_UP + _STARTS, _POLL_SECONDS)
    return (cpu_seconds_of(server.pid) - used) / _STARTS


def occupy(server: Server) -> None:
    sleeping = {"Snakefile": three_timed_rules(_OCCUPIED_SECONDS)}
    tags = {"wesemu.service": ServiceLevel.PLATINUM.value}
    run_id = server.wes.submit("Snakefile", attachments=sleeping, tags=tags)
    while server.wes.get(f"/runs/{run_id}/status")["state"] != "RUNNING":
        time.sleep(_POLL_SECONDS)


def submit_some(server: Server) -> float:
    """Return the server's CPU seconds for one POST."""
    server.wes.reconnect()
    used = cpu_seconds_of(server.pid)
    for _ in range(_POSTS):
        server.wes.submit("Snakefile", attachments={"Snakefile": _SNAKEFILE})
    return (cpu_seconds_of(server.pid) - used) / _POSTS
