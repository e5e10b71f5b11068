"""A data directory of an earlier version opens: its runs are listed, read and resumed.

`earlier_version/` has such a directory as text; its `make.py` wrote it.
"""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from unit.runs.test_recovery import runs_of, served
from unit.runs.test_service import ended

from wesemu.runs.clock import ManualClock
from wesemu.runs.maintenance import rebuild_index
from wesemu.runs.model import LOCAL_OWNER, RunState
from wesemu.runs.store import RunStore
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

EARLIER = Path(__file__).parent / "earlier_version"
ANSWERS: dict[str, Any] = json.loads((EARLIER / "answers.json").read_text())
ENDED = ("COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR")
IDS = {
    run["request"]["workflow_params"].get("sample", run["request"]["workflow_url"]): run_id
    for run_id, run in ANSWERS["wes"].items()
}
KEYS = {"complete": "a key", "queued": "another key"}


def restore(data: Path) -> None:
    """Write the data directory, with paths of this machine."""

    def text(path: Path) -> str:
        return path.read_text().replace("{HERE}", str(data.parent))

    for path in EARLIER.glob("runs/**/*"):
        if path.is_file():
            target = data / path.relative_to(EARLIER)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text(path))
    with closing(sqlite3.connect(data / "wesemu.db")) as index:
        index.executescript(text(EARLIER / "index.sql"))


async def rebuild(data: Path) -> None:
    """Do what `wesemu rebuild` does after the index was lost."""
    await asyncio.to_thread((data / "wesemu.db").unlink)
    store = await RunStore.open(data / "wesemu.db")
    assert await rebuild_index(store, data / "runs") == len(IDS)
    await store.close()


@pytest.fixture(params=["migrated", "rebuilt"])
async def earlier(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    await asyncio.to_thread(restore, settings.data)
    if request.param == "rebuilt":
        await rebuild(settings.data)
    return settings


async def get(client: TestClient[web.Request, web.Application], path: str, here: Path) -> Any:
    """Return an answer with the placeholders of `make.py`."""
    async with client.get(path) as response:
        text = await response.text()
    text = text.replace(str(client.make_url("")), "{SERVER}")
    return json.loads(text.replace(str(here.parent), "{HERE}"))


async def test_ended_runs_are_listed_and_read_as_before(
    earlier: Settings, clock: ManualClock, engine: ScriptedEngine
) -> None:
    async with TestClient(await served(earlier, engine)) as client:
        listed = await get(client, "/ga4gh/wes/v1/runs?tag=wesemu.node:cpu", earlier.data)
        assert {run["run_id"] for run in listed["runs"]} == {*IDS.values()} - {IDS["gpu"]}
        for run_id, answer in ANSWERS["wes"].items():
            if answer["state"] not in ENDED:
                continue
            found = await get(client, f"/ga4gh/wes/v1/runs/{run_id}", earlier.data)
            tags = found["request"]["tags"]  # this version may have more
            found["request"]["tags"] = {name: tags[name] for name in answer["request"]["tags"]}
            assert found == answer
            name = f"mapping-gpu-{answer['wesemu']['handle']}"
            if (job := ANSWERS["ags"].get(name)) is not None:
                found = await get(client, f"/gs/workflow/{name}", earlier.data)
                assert found | {"job_namespace": job["job_namespace"]} == job


async def test_the_first_runs_of_all_are_read(
    settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> None:
    """Their requests had no internal fields."""

    def first(data: Path) -> None:
        restore(data)
        with closing(sqlite3.connect(data / "wesemu.db")) as index:
            ended = ", ".join(f"'{state}'" for state in ENDED)
            index.execute(f"DELETE FROM runs WHERE state NOT IN ({ended})")
            index.execute("UPDATE runs SET request = json_remove(request, '$.marks')")
            index.commit()

    await asyncio.to_thread(first, settings.data)
    async with TestClient(await served(settings, engine)) as client:
        listed = await get(client, "/ga4gh/wes/v1/runs", settings.data)
        for run_id in (run["run_id"] for run in listed["runs"]):
            assert (await get(client, f"/ga4gh/wes/v1/runs/{run_id}", settings.data))["request"]
    assert {each["state"] for each in listed["runs"]} == {*ENDED}


async def test_interrupted_and_queued_runs_are_resumed(
    earlier: Settings, clock: ManualClock, engine: ScriptedEngine
) -> None:
    engine.release("wait-running")
    engine.release("wait-canceling")
    server = await served(earlier, engine)
    runs = runs_of(server)
    for sample in ("wait-running", "launch-never", "queued"):
        run = await ended(runs, await runs.get(LOCAL_OWNER, IDS[sample]))
        assert run.state is RunState.COMPLETE
    assert (earlier.data / "buckets/genes/out/running.bam").read_text() == "BAM"
    gpu = await runs.get(LOCAL_OWNER, IDS["gpu"])
    assert gpu.state is RunState.QUEUED  # this server has no GPU
    await server.close()


async def test_a_submission_sent_again_gives_the_run_of_the_earlier_version(
    earlier: Settings, clock: ManualClock, engine: ScriptedEngine
) -> None:
    engine.release("wait-running")
    async with TestClient(await served(earlier, engine)) as client:
        for sample, key in KEYS.items():
            body = dict(ANSWERS["wes"][IDS[sample]]["request"])
            body["tags"] = {n: t for n, t in body["tags"].items() if not n.startswith("wesemu.")}
            headers = {"Idempotency-Key": key}
            async with client.post("/ga4gh/wes/v1/runs", json=body, headers=headers) as response:
                answer = await response.json()
            assert answer["run_id"] == IDS[sample]
