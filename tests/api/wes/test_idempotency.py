"""Idempotency-Key: a repeated request returns the same run."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData, web
from api.wes.fixtures import Client, Serve, fetch
from support.scripted import scripted_engine

from wesemu.app import RUNS as SERVICE
from wesemu.app import create_app
from wesemu.errors import KeyReused
from wesemu.runs.clock import ManualClock
from wesemu.runs.database import Database
from wesemu.runs.model import LOCAL_OWNER, RunRequest, SubmissionKey
from wesemu.settings import Settings

RUNS = "/ga4gh/wes/v1/runs"
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
READS = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
PARAMS = {"reads": [READS], "reference": "oss://genes/reference/tiny"}
BODY = {"workflow_url": "mapping", "workflow_params": PARAMS}


def form(*files: tuple[str, bytes], **fields: str) -> FormData:
    data = FormData({"workflow_url": "Snakefile", "workflow_type": "SMK"} | fields)
    for name, content in files:
        data.add_field("workflow_attachment", content, filename=name)
    return data


async def post(wes: Client, status: int = 200, headers: Any = KEY, **body: Any) -> Any:
    async with wes.post(RUNS, headers=headers, **body) as answer:
        told = await answer.json()
        assert answer.status == status, told
        return told["run_id"] if status == 200 else told


async def count(wes: Client) -> int:
    return len((await fetch(wes, RUNS))["runs"])


async def test_the_same_key_is_the_same_run(wes: Client) -> None:
    first = await post(wes, json=BODY)
    assert await post(wes, json=BODY) == first
    quoted = {"Idempotency-Key": f'"{KEY["Idempotency-Key"]}"'}
    assert await post(wes, json=BODY, headers=quoted) == first
    assert await post(wes, json=BODY, headers={"Idempotency-Key": "another"}) != first
    assert await post(wes, json=BODY, headers={}) != first
    assert await count(wes) == 3


async def test_the_encoding_does_not_matter_but_the_content_does(
    wes: Client, settings: Settings
) -> None:
    files = [("Snakefile", b"rule all:\n"), ("a/b.py", b"1")]
    first = await post(wes, data=form(*files))
    assert await post(wes, data=form(*files[::-1])) == first
    await post(wes, 422, data=form(files[0], ("a/b.py", b"2")))
    await post(wes, 422, data=form(files[0], ("a/c.py", b"1")))
    told = await post(wes, 422, data=form(*files, workflow_params='{"x": 1}'))
    assert first in told["msg"]
    assert [path.name for path in (settings.data / "runs").iterdir()] == [first]


async def test_many_at_once_become_one_run(wes: Client, settings: Settings) -> None:
    ids = await asyncio.gather(
        *(post(wes, data=form(("Snakefile", b"rule all:\n"))) for _ in range(8))
    )
    assert len(set(ids)) == 1
    assert await count(wes) == 1
    assert [path.name for path in (settings.data / "runs").iterdir()] == [ids[0]]


async def test_a_key_belongs_to_its_owner(serve: Serve) -> None:
    wes = await serve(tokens={"secret-a": "alice", "secret-b": "bob"})
    ids = [
        await post(wes, json=BODY, headers=KEY | {"x-api-key": token})
        for token in ("secret-a", "secret-b", "secret-a")
    ]
    assert ids[0] == ids[2] != ids[1]


async def test_a_refused_request_does_not_spend_its_key(wes: Client) -> None:
    await post(wes, 400, json=BODY | {"workflow_params": {}})
    await post(wes, json=BODY)


@pytest.mark.parametrize("key", ["", " ", '""', "x" * 256, "é"])
async def test_a_senseless_key_is_400(wes: Client, key: str) -> None:
    told = await post(wes, 400, json=BODY, headers={"Idempotency-Key": key})
    assert told["msg"].startswith("Idempotency-Key")


async def test_a_key_outlives_the_server(settings: Settings, clock: ManualClock) -> None:
    request = RunRequest("mapping", params=PARAMS)
    ids = []
    for _ in range(2):
        app = await create_app(settings, clock=clock, engines=[scripted_engine(clock)])
        runner = web.AppRunner(app)
        await runner.setup()
        run = await app[SERVICE].submit(LOCAL_OWNER, request, key=SubmissionKey("k", "d"))
        ids.append(run.id)
        with pytest.raises(KeyReused):
            await app[SERVICE].submit(LOCAL_OWNER, request, key=SubmissionKey("k", "e"))
        await runner.cleanup()
    assert ids[0] == ids[1]


async def test_a_key_is_found_by_the_index(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "index.db")
    [step] = await database.rows(
        "EXPLAIN QUERY PLAN SELECT * FROM runs WHERE owner = ? "
        "AND json_extract(request, '$.marks.submission_key') = ?",
        ["a", "b"],
    )
    await database.close()
    assert "runs_by_key" in step["detail"]
