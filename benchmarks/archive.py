"""Fills an index with ended runs by direct writes to the database; writes their directories."""

import asyncio
import random
import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.rounds import say
from wesemu.runs import serialization
from wesemu.runs.data_directory import HANDLE_ALPHABET, HANDLE_LENGTH, DataDirectory
from wesemu.runs.model import (
    LOCAL_OWNER,
    OutputFile,
    ReadCounts,
    Resources,
    Run,
    RunFailure,
    RunId,
    RunRequest,
    RunState,
    TaskLog,
    TaskState,
)
from wesemu.runs.ports import Plan
from wesemu.runs.run_directory import Workspace
from wesemu.runs.sla import ServiceLevel
from wesemu.runs.store import RunStore

_FIRST_CREATED = datetime(2024, 1, 1, tzinfo=UTC)
_INTERVAL = timedelta(seconds=47)
_DURATION = timedelta(minutes=12)
_BATCH = 20_000
_OUTPUTS = ("bam", "bam_index", "flagstat", "stats", "reads", "markdup")
_RULES = ("link_reference", "map", "statistics")
_COMMAND = (
    "( mkdir -p .mapping; trap 'rm -rf .mapping' EXIT; align() { python -P -m"
    " wesemu.genomics.align --reference resources/genome.fa --reads oss/sample_1.fq.gz"
    " oss/sample_2.fq.gz --read-group '@RG\\tID:sample.L1\\tLB:sample\\tPL:ILLUMINA' --threads 8"
    " --longest 1000 --counts results/reads.json --error input_error.json; };"
    " align | samtools fixmate --no-PG -m -u - - | samtools sort --no-PG -@ 8 -m 256M"
    " -T .mapping/sort -u - | samtools markdup --no-PG -@ 8 -l 1000 -T .mapping/markdup -s --json"
    " -f .mapping/markdup.json --write-index -"
    " results/aligned.bam##idx##results/aligned.bam.bai ) 2> logs/map.log"
)


def fill(data: Path, count: int) -> list[str]:
    """Fill the index of the data directory `data` with exactly `count` runs of `mapping`.

    Most runs are complete. Reuse an index with the right number. Return 200 run ids.
    """
    directory = DataDirectory(data)
    directory.create()
    asyncio.run(create_index(directory.index))
    with closing(_open(directory.index)) as connection:
        present = _delete_other_runs(connection)
    if present != count:
        say(f"writing {count:,} runs into an index")
        for path in data.glob(f"{directory.index.name}*"):
            path.unlink()
        asyncio.run(create_index(directory.index))
        with closing(_open(directory.index)) as connection:
            _write(connection, count)
    query = "SELECT id FROM runs WHERE sequence % ? = 0 LIMIT 200"
    with closing(_open(directory.index)) as connection:
        return [run_id for (run_id,) in connection.execute(query, (max(1, count // 200),))]


def fill_directories(data: Path) -> None:
    """Write the directories of all runs in the index of `data`, with request, state and outputs.

    Reuse them if an earlier call has finished.
    """
    directory = DataDirectory(data)
    done = data / "directories-written"
    with closing(_open(directory.index)) as connection:
        rows = connection.execute("SELECT id, handle FROM runs ORDER BY sequence").fetchall()
    expected = f"{len(rows)} {rows[0][0] if rows else ''}"
    if done.exists() and done.read_text() == expected:
        return
    say(f"writing {len(rows):,} run directories")
    template = Workspace(data / "template")
    template.root.mkdir(exist_ok=True)
    run = replace(_run(RunState.COMPLETE), id=RunId("the-id"), handle="the-handle")
    plan = Plan("snakemake", "mapping", run.service_level, run.resources, None)
    serialization.write_submission(template, run, plan)
    serialization.write_end(template, run, [*map(_task, _RULES)])
    request, state = template.request.read_text(), template.state.read_text()
    shutil.rmtree(template.root)
    for run_id, handle in rows:
        workspace = Workspace(directory.runs / run_id)
        workspace.outputs.mkdir(parents=True, exist_ok=True)
        for path, text in ((workspace.request, request), (workspace.state, state)):
            path.write_text(text.replace("the-id", run_id).replace("the-handle", handle))
    done.write_text(expected)


def _open(index: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(index)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _delete_other_runs(connection: sqlite3.Connection) -> int:
    """Delete the runs of other benchmarks. Return the number of remaining runs."""
    with connection:
        connection.execute("DELETE FROM runs WHERE workflow = ''")
    (present,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    return int(present)


async def create_index(path: Path) -> None:
    """Create an index without runs, unless there is one."""
    store = await RunStore.open(path)
    await store.close()


def _write(connection: sqlite3.Connection, count: int) -> None:
    rng = random.Random(1)
    for start in range(0, count, _BATCH):
        numbers = range(start, min(count, start + _BATCH))
        ids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in numbers]
        with connection:
            insert_rows(connection, "runs", _runs(numbers, ids))
            insert_rows(connection, "tasks", _tasks(ids))


def insert_rows(
    connection: sqlite3.Connection, table: str, rows: Iterator[Mapping[str, Any]]
) -> None:
    """Insert at least one row; all have the columns of the first."""
    first = next(rows)
    columns, marks = ", ".join(first), ", ".join(f":{name}" for name in first)
    statement = f"INSERT INTO {table} ({columns}) VALUES ({marks})"
    connection.execute(statement, first)
    connection.executemany(statement, rows)


def _runs(numbers: range, ids: list[str]) -> Iterator[dict[str, Any]]:
    templates = [serialization.run_to_row(_run(state)) for state in _STATES]
    for number, run_id in zip(numbers, ids, strict=True):
        created = _FIRST_CREATED + number * _INTERVAL
        yield templates[number % len(templates)] | {
            "id": run_id,
            "handle": handle(number),
            "created": serialization.format_timestamp(created),
            "started": serialization.format_timestamp(created + _INTERVAL),
            "ended": serialization.format_timestamp(created + _INTERVAL + _DURATION),
        }


def _tasks(ids: list[str]) -> Iterator[dict[str, Any]]:
    templates = [serialization.task_to_row(RunId(""), task) for task in map(_task, _RULES)]
    for run_id in ids:
        for template in templates:
            yield template | {"run_id": run_id}


def handle(number: int) -> str:
    """Return a unique handle for `number`."""
    letters = ""
    for _ in range(HANDLE_LENGTH):
        number, letter = divmod(number, len(HANDLE_ALPHABET))
        letters += HANDLE_ALPHABET[letter]
    return letters


_STATES = (*[RunState.COMPLETE] * 18, RunState.EXECUTOR_ERROR, RunState.CANCELED)
"""Of twenty runs, one has failed and one is canceled."""


def _run(state: RunState) -> Run:
    first, second = (f"oss://genomes/2024/NA12878/L1/NA12878_L1_{n}.fq.gz" for n in (1, 2))
    params: dict[str, Any] = {
        "reads": [{"first": first, "second": second}],
        "reference": "hs37d5",
        "sample": "NA12878",
        "bam": "oss://genomes/results/NA12878.bam",
    }
    tags = {"project": "1000 genomes", "cohort": "CEU", "submitted-by": "pipeline@lab"}
    run = Run(
        id=RunId(""),
        sequence=0,
        handle="",
        owner=LOCAL_OWNER,
        state=state,
        workflow="mapping",
        service_level=ServiceLevel.GOLD,
        request=RunRequest("mapping", "SMK", "9", params=params, tags=tags),
        resources=Resources(cores=8, memory_mb=16_384),
        created=_FIRST_CREATED,
        tags=tags,
        started=_FIRST_CREATED,
        ended=_FIRST_CREATED,
        input_bytes=68_719_476_736,
    )
    if state is RunState.EXECUTOR_ERROR:
        failure = RunFailure(
            message=f"{first}: the gzip data ends too early, as in a file that was cut while it "
            "was copied after record 81234567. Fetch the file again.",
            hint="mend or replace the file and send the request again; nothing was published",
            file=first,
            record=81_234_568,
            task="map",
            exit_code=65,
            stderr="tasks/2-1/stderr",
        )
        return replace(run, exit_code=1, failure=failure)
    if state is RunState.CANCELED:
        return run
    outputs = tuple(
        OutputFile(name, f"results/{name}", 123_456_789, f"oss://genomes/results/NA12878.{name}")
        for name in _OUTPUTS
    )
    counts = ReadCounts(total_reads=800_000_000, total_bases=120_000_000_000)
    return replace(run, exit_code=0, outputs=outputs, counts=counts)


def _task(rule: str) -> TaskLog:
    number = _RULES.index(rule) + 1
    return TaskLog(
        id=str(number),
        name=rule,
        state=TaskState.COMPLETE,
        command=_COMMAND,
        threads=8,
        started=_FIRST_CREATED,
        ended=_FIRST_CREATED + _DURATION,
        exit_code=0,
        stdout=f"tasks/{number}-1/stdout",
        stderr=f"tasks/{number}-1/stderr",
        cpu_seconds=5123.4,
        peak_memory=6_442_450_944,
    )
