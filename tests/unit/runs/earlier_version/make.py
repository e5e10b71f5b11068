"""Writes a data directory of this version as text, for tests of later versions.

In `tests/`: `PYTHONPATH=. python unit/runs/earlier_version/make.py FOLDER`. FOLDER gets
`index.sql`, the small files of all run directories, and `answers.json`, the server's answers about
the runs. `{HERE}` stands for the folder of the data directory, `{SERVER}` for the server's URL. The
copy is made while the server works, as if it had been killed: there is a run in every state.
"""

import asyncio
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer
from support.scripted import START, fill_bucket, script_of

from wesemu.app import create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.ports import LaunchRequest, Outcome, Unpublished
from wesemu.settings import Settings
from wesemu.testing.fake_engine import Script, ScriptedEngine, _Play

SUMMARY = {"tools": {"bwa": "0.7.17", "samtools": "1.21"}, "warnings": ["few reads"], "notes": []}
SNAKEFILE = "# a workflow of the caller\n"
HERE, SERVER = "{HERE}", "{SERVER}"


class SlowPlay(_Play):
    """An execution whose cancel never ends, and which leaves a link among its outputs."""

    async def cancel(self) -> None:
        await asyncio.Event().wait()

    async def outcome(self) -> Outcome:
        found = await super().outcome()
        if "results/link" not in found.outputs:
            return found
        kept = tuple(name for name in found.outputs if name != "results/link")
        link = Unpublished("results/link", "it is a symbolic link", declared=False)
        return replace(found, outputs=kept, unpublished=(link,))


class SlowEngine(ScriptedEngine):
    """Never launches samples with a name `launch-…`."""

    async def launch(self, job: LaunchRequest) -> _Play:
        if str(job.config.get("sample", "")).startswith("launch"):
            await asyncio.Event().wait()
        play = SlowPlay(job.workspace, self._script(job), self._gate, self._clock)
        self._launched[job.run_id] = play
        return play

    async def close(self) -> None:
        for play in self._launched.values():
            play._task.cancel()


def script(job: LaunchRequest) -> Script:
    """Return the script of a job, with a summary of the tools of a bundled pipeline."""
    steps = [*script_of(job)]
    if "sample" in job.config and job.config["sample"] != "crash":
        steps.append({"write": "results/summary.json", "text": json.dumps(SUMMARY)})
    return [{"crash": "x"}, {"crash": "y"}] if job.config.get("sample") == "crash" else steps


def mapping(sample: str, bam: str) -> dict[str, Any]:
    mates = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
    return {
        "reads": [mates],
        "reference": "oss://genes/reference/tiny",
        "sample": sample,
        "bam": f"oss://genes/out/{bam}.bam",
    }


class Caller:
    """Submits runs by WES and AGS, and waits for their states."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def wes(
        self, workflow: str, params: Mapping[str, Any], *, key: str | None = None, **fields: Any
    ) -> str:
        body = {"workflow_url": workflow, "workflow_type": "SMK", "workflow_params": params}
        headers = {} if key is None else {"Idempotency-Key": key}
        url = f"{self._url}/ga4gh/wes/v1/runs"
        async with self._session.post(url, json={**body, **fields}, headers=headers) as response:
            answer = await response.json()
            assert response.ok, answer
            return str(answer["run_id"])

    async def ags(self, **fields: str) -> str:
        body = {
            "workflow_type": "mapping",
            "mapping_bucket_name": "genes",
            "mapping_fastq_first_name": "fastq/a_1.fq.gz",
            "mapping_fastq_second_name": "fastq/a_2.fq.gz",
            "mapping_reference_file": "reference/tiny",
            **fields,
        }
        async with self._session.post(f"{self._url}/gs/workflow", json=body) as response:
            answer = await response.json(content_type=None)
            assert response.ok, answer
        handle = answer["JobName"].rpartition("-")[2]
        runs = await self._get("/ga4gh/wes/v1/runs", "runs")
        return next(run["run_id"] for run in runs if run["tags"]["wesemu.handle"] == handle)

    async def answers(self) -> dict[str, Any]:
        """Return RunLog by run id and DescirbeWorkflow by job name."""
        found: dict[str, Any] = {"wes": {}, "ags": {}}
        for run in await self._get("/ga4gh/wes/v1/runs", "runs"):
            run_id = run["run_id"]
            found["wes"][run_id] = await self._get(f"/ga4gh/wes/v1/runs/{run_id}")
        for job in await self._get("/gs/workflows", "jobs"):
            name = job["job_name"]
            found["ags"][name] = await self._get(f"/gs/workflow/{name}")
        return found

    async def _get(self, path: str, member: str | None = None) -> Any:
        async with self._session.get(f"{self._url}{path}") as response:
            answer = await response.json()
        return answer if member is None else answer[member]

    async def cancel(self, run_id: str) -> None:
        async with self._session.delete(f"{self._url}/ga4gh/wes/v1/runs/{run_id}") as response:
            assert response.ok

    async def until(self, run_id: str, state: str) -> None:
        for _ in range(300):
            answer = await self._get(f"/ga4gh/wes/v1/runs/{run_id}")
            found = answer["wesemu"]["state"]  # WES 0.3 has no CANCELING
            if found == state:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{run_id} is {found}, not {state}")


async def submit(caller: Caller, workflow: Path) -> None:
    """Submit a run for each state, and further ones; each ends before the next one starts."""
    by_ags = await caller.ags(mapping_bam_file_name="out/ags.bam", wesemu_bases="120e9")
    await caller.until(by_ags, "COMPLETE")
    complete = await caller.wes(
        "mapping",
        mapping("complete", "wes"),
        key="a key",
        tags={"project": "p"},
    )
    await caller.until(complete, "COMPLETE")
    callback = {"callback_url": "http://192.0.2.1/hook"}
    failed = await caller.wes(
        "mapping", mapping("fail", "failed"), workflow_engine_parameters=callback
    )
    await caller.until(failed, "EXECUTOR_ERROR")
    crashed = await caller.wes("mapping", mapping("crash", "crashed"))
    await caller.until(crashed, "SYSTEM_ERROR")
    steps = [{"task": "own"}, {"write": "results/a.txt"}, {"write": "results/link"}]
    own = await caller.wes(workflow.as_uri(), {"script": steps})
    await caller.until(own, "COMPLETE")
    running = await caller.wes("mapping", mapping("wait-running", "running"))
    await caller.until(running, "RUNNING")
    starting = await caller.wes("mapping", mapping("launch-never", "starting"))
    await caller.until(starting, "INITIALIZING")
    canceling = await caller.wes("mapping", mapping("wait-canceling", "canceling"))
    await caller.until(canceling, "RUNNING")
    await caller.cancel(canceling)
    await caller.until(canceling, "CANCELING")
    canceled = await caller.wes("mapping", mapping("canceled", "canceled"))
    await caller.cancel(canceled)
    await caller.until(canceled, "CANCELED")
    await caller.wes("mapping", mapping("queued", "running"), key="another key")  # shares an output
    await caller.wes(
        "mapping", mapping("gpu", "gpu"), workflow_engine_parameters={"node": "cuda", "gpus": "1"}
    )


async def make(folder: Path, data: Path) -> None:
    fill_bucket(data)
    workflow = data.parent / "workflows" / "Snakefile"
    workflow.parent.mkdir()
    workflow.write_text(SNAKEFILE)
    settings = Settings.model_validate(
        {
            "data": data,
            "node": {"cores": 2, "gpus": 0, "runs": 3, "without_gpu": "queue"},
            "workflows": {"fetch": False, "folders": [workflow.parent]},
            "callbacks": {"networks": ["192.0.2.0/24"]},
        }
    )
    clock = ManualClock(START)
    engine = SlowEngine(clock, script=script, name="snakemake", workflow_types={"SMK": ("9.27.1",)})
    server = TestServer(
        await create_app(settings, clock=clock, ids=IdSource(seed=1), engines=[engine])
    )
    await server.start_server()
    async with aiohttp.ClientSession() as session:
        caller = Caller(session, str(server.make_url("")))
        await submit(caller, workflow)
        answers = json.dumps(await caller.answers(), indent=1)
    places = {str(data.parent): HERE, str(server.make_url("")): SERVER}
    save(folder, data, places, answers)


def save(folder: Path, data: Path, places: Mapping[str, str], answers: str) -> None:
    """Write the text files; `places` maps what is replaced to its placeholder."""

    def write(name: Path, text: str) -> None:
        for place, placeholder in places.items():
            text = text.replace(place, placeholder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    write(Path("answers.json"), answers)
    with closing(sqlite3.connect(data / "wesemu.db")) as index:
        version = index.execute("PRAGMA user_version").fetchone()[0]
        dump = "\n".join([*index.iterdump(), f"PRAGMA user_version = {version};", ""])
    write(Path("index.sql"), dump)
    runs = data / "runs"
    for path in sorted([*runs.glob("*/*.json"), *runs.glob("*/attachments/*")]):
        write(path.relative_to(data), path.read_text())


async def main(folder: Path) -> None:
    temporary = Path(tempfile.mkdtemp()).resolve()
    await make(folder, temporary / "data")
    shutil.rmtree(temporary)
    os._exit(0)  # the runs never end


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
