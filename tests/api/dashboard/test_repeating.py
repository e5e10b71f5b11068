"""Running a request again: by the commands of its page, and by the form."""

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from api.dashboard.conftest import LOCAL, Client, Read, Submit

from wesemu.runs.service import RunService

NAMES = ("Snakefile", "rules/a b,c;d.smk", "-x.txt")


async def _start(client: Client, names: tuple[str, ...]) -> str:
    form = FormData(quote_fields=False)
    fields = {
        "workflow_url": names[0],
        "workflow_type": "SMK",
        "workflow_type_version": "9",
        "workflow_params": json.dumps({"script": [{"task": "it's"}], "file": "@/etc/passwd"}),
        "workflow_engine_parameters": json.dumps({"retries": "1"}),
        "tags": json.dumps({"batch": "7 ä"}),
    }
    for name, value in fields.items():
        form.add_field(name, value)
    for name in names:
        form.add_field("workflow_attachment", f"# {name}\nrule all:\n".encode(), filename=name)
    async with client.post("/ga4gh/wes/v1/runs", data=form) as response:
        assert response.status == 200, await response.text()
        return str((await response.json())["run_id"])


async def _shell(command: list[str], folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.mark.parametrize("names", [NAMES, ("flows/main.smk", "flows/b.smk")])
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_commands_of_the_page_repeat_a_run(
    client: Client, read: Read, runs: RunService, tmp_path: Path, names: tuple[str, ...]
) -> None:
    first = await runs.get(LOCAL, await _start(client, names))
    async for _ in runs.follow(LOCAL, first.id):
        pass
    page = json.loads(await read(f"/ui/runs/{first.id}/request.json"))
    assert await read(f"/ui/runs/{first.id}/request")
    await _shell(["sh", "-ec", page["files"]], tmp_path)
    wesemu = f"{sys.executable} -m wesemu.cli"
    await _shell(["sh", "-ec", page["curl"]], tmp_path)
    await _shell([sys.executable, "-c", page["python"]], tmp_path)
    await _shell(["sh", "-ec", page["cli"].replace("wesemu", wesemu, 1)], tmp_path)
    repeated = (await runs.page(LOCAL, size=10)).runs[:-1]
    assert len(repeated) == 3
    for run in repeated:
        assert run.request.params == first.request.params
        assert run.request.workflow_url == names[0]
        assert run.request.workflow_type_version == "9"
        assert run.request.engine_parameters == {"retries": "1"}
        assert run.request.tags.items() >= {"batch": "7 ä"}.items()
        attachments = runs.workspace(run).attachments
        assert {name: (attachments / name).read_text() for name in names} == {
            name: f"# {name}\nrule all:\n" for name in names
        }


async def test_the_python_of_a_pipelines_run_repeats_it(
    client: Client, read: Read, runs: RunService, tmp_path: Path
) -> None:
    form: Mapping[str, str] = {
        "first": "oss://genes/fastq/a_1.fq.gz",
        "second": "oss://genes/fastq/a_2.fq.gz",
        "reference": "oss://genes/reference/tiny",
        "bam": "oss://genes/out/a.bam",
        "markdup": "false",
    }
    async with client.post("/ui/new", params={"pipeline": "mapping"}, data=form) as response:
        assert response.status == 200
    [first] = (await runs.page(LOCAL, size=10)).runs
    python = json.loads(await read(f"/ui/runs/{first.id}/request.json"))["python"]
    await _shell([sys.executable, "-c", python], tmp_path)
    again = (await runs.page(LOCAL, size=10)).runs[0]
    assert again.id != first.id
    assert again.request.params == first.request.params


async def test_an_ended_run_is_run_again_with_changed_parameters(
    client: Client, read: Read, submit: Submit, runs: RunService
) -> None:
    first = await submit([{"task": "one"}, {"exit": 1, "message": "no"}])
    page = await read(f"/ui/runs/{first.id}")
    assert ">Resume<" in page
    assert ">Rerun<" in page
    changes = json.dumps({"script": [{"task": "two"}, {"task": "three"}]})
    planned = json.loads(await read(f"/ui/runs/{first.id}/rerun.json", params=changes))
    assert (planned["counts"], planned["total"]) == ({"two": 1, "three": 1}, 2)
    assert len((await runs.page(LOCAL, size=10)).runs) == 1
    form = {"params": changes, "from_scratch": "true"}
    async with client.post(f"/ui/runs/{first.id}/rerun", data=form) as response:
        assert response.status == 200, await response.text()
        latest = (await runs.page(LOCAL, size=10)).runs[0]
        assert response.url.path == f"/ui/runs/{latest.id}"
    async for run in runs.follow(LOCAL, latest.id):
        latest = run
    assert [task.name for task in await runs.tasks(latest)] == ["two", "three"]


async def test_a_run_that_cannot_run_again_says_why(
    client: Client, read: Read, submit: Submit, engine: Any
) -> None:
    ended = await submit()
    for params in ("{", "[1]", "NaN"):
        await read(f"/ui/runs/{ended.id}/rerun", 400, params=params)
        form = {"params": params}
        async with client.post(f"/ui/runs/{ended.id}/rerun", data=form) as response:
            assert response.status == 400
            assert params in await response.text()
    active = await submit([{"wait": "gate"}], wait=False)
    assert "when it has ended" in await read(f"/ui/runs/{active.id}/rerun")
    async with client.post(f"/ui/runs/{active.id}/rerun", data={}) as response:
        assert response.status == 409
    engine.release("gate")
