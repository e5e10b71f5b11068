"""`/_wesemu/snapshots`: the state of a server in one file, which another server can load."""

import asyncio
import io
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api.admin.conftest import Client
from api.admin.test_faults import asked, ended
from support.scripted import scripted_engine

from wesemu.app import create_app
from wesemu.cli.app import execute
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.model import LOCAL_OWNER
from wesemu.runs.service import RunService
from wesemu.settings import Settings

SNAPSHOTS = "/_wesemu/snapshots"
RUNS = "/ga4gh/wes/v1/runs"


async def saved(client: Client) -> bytes:
    response = await client.post(SNAPSHOTS)
    assert response.status == 200, await response.text()
    assert response.headers["Content-Type"] == "application/x-tar"
    return await response.read()


async def loaded(client: Client, content: bytes, status: int = 200) -> dict[str, Any]:
    response = await client.put(SNAPSHOTS, data=io.BytesIO(content))
    assert response.status == status, await response.text()
    return dict(await response.json())


@pytest.fixture
async def other(tmp_path: Path, settings: Settings, clock: ManualClock, aiohttp_client: Any) -> Any:
    """Another server with another data directory, whose path is longer."""
    there = settings.model_copy(update={"data": tmp_path / "another machine" / "data"})
    app = await create_app(there, clock=clock, ids=IdSource(), engines=[scripted_engine(clock)])
    return await aiohttp_client(app)


_SERVERS_OWN = re.compile(r'"cluster_id":"\w+"|<RequestId>[^<]+')
"""Parts of answers that come from the server's secret, or differ in each answer."""


async def everything(client: Client) -> dict[str, Any]:
    """Return what the APIs answer, without the server's address."""
    answers: dict[str, Any] = {}
    listed = await (await client.get(RUNS)).json()
    pages = ["/gs/workflows", "/_wesemu/clock", RUNS]
    pages += [f"{RUNS}/{run['run_id']}" for run in listed["runs"]]
    for page in pages:
        text = await (await client.get(page)).text()
        answers[page] = _SERVERS_OWN.sub("", text.replace(f":{client.port}", ""))
    for key in ("", "genes", "genes/out/a.bam", "genes/fastq/a_1.fq.gz", "genes/notes.txt"):
        response = await client.get(f"/oss/{key}")
        headers = {name: response.headers.get(name) for name in ("ETag", "Last-Modified")}
        text = await response.text()
        answers[key] = (headers, _SERVERS_OWN.sub("", text.replace(f":{client.port}", "")))
    return answers


async def test_another_server_answers_the_same_after_a_load(
    client: Client, other: Client, runs: RunService, settings: Settings
) -> None:
    await client.post("/_wesemu/clock/advance", json={"hours": 5})
    await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    await ended(runs, await runs.submit(LOCAL_OWNER, asked("fail")))
    waiting = await runs.submit(LOCAL_OWNER, asked("wait-for-it"))
    await client.put("/oss/genes/notes.txt", data=b"notes", headers={"x-oss-meta-a": "b"})
    await client.put("/oss/genes/empty/", data=b"")
    reference = settings.data / "references" / "tiny"
    reference.mkdir()
    (reference / "genome.fa").write_text(">1\nACGT\n")
    content = await saved(client)
    counts = await loaded(other, content)
    assert counts == {"runs": 2, "buckets": 1, "references": 1}
    await runs.cancel(LOCAL_OWNER, waiting.id)
    await ended(runs, waiting)
    await runs.remove(LOCAL_OWNER, waiting.id)
    before, after = await everything(client), await everything(other)
    assert len(before) == 10
    assert after == before
    notes = await other.get("/oss/genes/notes.txt")
    assert notes.headers["x-oss-meta-a"] == "b"


async def test_a_snapshot_has_no_path_of_this_machine(
    client: Client, runs: RunService, settings: Settings
) -> None:
    run = await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    log = runs.workspace(run).stderr
    log.write_text(f"reading {settings.data}/buckets/genes/x and {settings.data}\n")
    content = await saved(client)
    assert str(settings.data).encode() not in content
    assert b"reading @wesemu-data@/buckets/genes/x and @wesemu-data@\n" in content
    await loaded(client, content)
    assert log.read_text() == f"reading {settings.data}/buckets/genes/x and {settings.data}\n"


async def test_a_load_replaces_what_is_there(
    client: Client, runs: RunService, settings: Settings
) -> None:
    content = await saved(client)
    await client.put("/oss/later", data=b"")
    run = await runs.submit(LOCAL_OWNER, asked("wait-for-ever"))
    await client.post("/_wesemu/clock/advance", json={"days": 1})
    before = (await (await client.get("/_wesemu/clock")).json())["now"]
    kept = settings.data / "references" / "kept"
    kept.mkdir()
    assert await loaded(client, content) == {"runs": 0, "buckets": 1, "references": 0}
    assert (await (await client.get(f"{RUNS}/{run.id}")).json())["status_code"] == 404
    assert sorted(folder.name for folder in (settings.data / "buckets").iterdir()) == ["genes"]
    assert (await (await client.get("/_wesemu/clock")).json())["now"] < before
    assert kept.is_dir()
    assert not list((settings.data / "cache").glob("incoming-*"))


async def test_seeded_ids_continue_where_the_snapshot_was(client: Client) -> None:
    async def next_id() -> str:
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("workflow_type", "SMK")
        form.add_field("workflow_type_version", "9.27.1")
        form.add_field("workflow_attachment", b"# x\n", filename="Snakefile")
        response = await client.post(RUNS, data=form)
        assert response.status == 200, await response.text()
        return str((await response.json())["run_id"])

    await client.post("/_wesemu/seed", json={"seed": 7})
    await next_id()
    content = await saved(client)
    second = await next_id()
    await loaded(client, content)
    assert await next_id() == second


async def test_a_wrong_snapshot_changes_nothing(
    client: Client, runs: RunService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    content = await saved(client)
    before = await everything(client)
    for wrong in (
        b"",
        content[:700],
        b"\x1f\x8b" + content,
        content.replace(b'"ids": [3, [', b'"ids": [9, ['),
    ):
        assert "error" in await loaded(client, wrong, status=400)
        assert await everything(client) == before
    monkeypatch.setattr("wesemu.runs.disk_full.LITTLE_DISK", 1 << 60)
    answer = await loaded(client, content, status=503)
    assert "the disk has room for 0 bytes" in answer["error"]


async def test_the_command_line_saves_and_loads(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("WESEMU_SERVER", str(client.make_url("/")))
    file = tmp_path / "state.tar"

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as exited:
            execute(arguments)
        return int(exited.value.code or 0)

    assert await asyncio.to_thread(run, "snapshot", "save", str(file)) == 0
    assert capsys.readouterr().out == f"{file}\n"
    assert await asyncio.to_thread(run, "snapshot", "load", str(file)) == 0
    assert "loaded runs: 0, buckets: 1, references: 0" in capsys.readouterr().err
    assert await asyncio.to_thread(run, "snapshot", "load", str(tmp_path / "none")) == 2
    assert await asyncio.to_thread(run, "snapshot", "save", str(tmp_path / "no" / "file")) == 2
    assert f"the folder {tmp_path / 'no'} does not exist" in capsys.readouterr().err
