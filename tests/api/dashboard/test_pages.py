"""The contents of the pages, and of their JSON."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData, MultipartWriter
from api.dashboard.conftest import Client, Read, Submit

from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

HOSTILE = "<script>alert(1)</script>"


async def test_the_root_leads_to_the_runs(client: Client) -> None:
    async with client.get("/") as response:
        assert response.url.path == "/ui/"
        assert response.status == 200


async def test_an_empty_table_says_how_to_start_a_run_on_this_server(
    client: Client, read: Read
) -> None:
    page = await read("/ui/")
    assert f"export WESEMU_SERVER=http://127.0.0.1:{client.port}\n" in page
    assert "wesemu run mapping" in page


async def test_a_run_is_in_the_table_and_on_its_page(read: Read, submit: Submit) -> None:
    run = await submit([{"task": "align"}, {"write": "results/a.txt", "text": "hello"}])
    table = json.loads(await read("/ui/index.json"))["runs"]
    assert [(row["id"], row["word"]) for row in table] == [(run.id, "complete")]
    assert run.handle in await read("/ui/")
    page = json.loads(await read(f"/ui/runs/{run.id}.json"))
    assert page["sentence"] == "Complete: 1 task, 1 result."
    assert [(step["name"], step["done"], step["total"]) for step in page["steps"]] == [
        ("align", 1, 1)
    ]
    assert page["outputs"][0]["size"] == 5
    assert await read(f"/ui/runs/{run.id}/outputs/results/a.txt") == "hello"


async def test_a_failure_names_its_task_exit_status_and_log(read: Read, submit: Submit) -> None:
    run = await submit([{"task": "align", "exit_code": 127, "stderr": "bwa: not found\n"}])
    page = json.loads(await read(f"/ui/runs/{run.id}.json"))
    assert page["run"]["word"] == "failed"
    assert page["sentence"].startswith("Failed: ")
    assert page["failure"]["exit_words"] == "the command was not found"
    logs = await read(f"/ui/runs/{run.id}/logs", task=page["failure"]["log"])
    assert "bwa: not found" in logs


async def test_an_active_run_shows_what_is_done_and_can_be_canceled(
    client: Client, read: Read, submit: Submit, engine: ScriptedEngine, runs: RunService
) -> None:
    run = await submit([{"task": "first"}, {"wait": "gate"}, {"task": "second"}], wait=False)
    async for latest in runs.follow(run.owner, run.id):
        if latest.state.value == "RUNNING" and await runs.tasks(latest):
            break
    page = await read(f"/ui/runs/{run.id}")
    assert 'data-live="../../ui/events"' in page
    async with client.post(f"/ui/runs/{run.id}/cancel") as response:
        assert response.url.path == f"/ui/runs/{run.id}"
    async for latest in runs.follow(run.owner, run.id):
        run = latest
    assert run.state.value == "CANCELED"
    assert "data-live" not in await read(f"/ui/runs/{run.id}")


async def test_a_removed_run_is_gone(client: Client, read: Read, submit: Submit) -> None:
    run = await submit()
    async with client.post(f"/ui/runs/{run.id}/remove") as response:
        assert response.url.path == "/ui/"
    await read(f"/ui/runs/{run.id}", 404)


@pytest.mark.parametrize(
    ("search", "found"),
    [("", 2), ("batch=7", 1), ("batch=8", 0), ("Snakefile", 0), ("mapping", 0)],
)
async def test_a_search_finds_tags(read: Read, submit: Submit, search: str, found: int) -> None:
    await submit(tags={"batch": "7"})
    await submit()
    assert len(json.loads(await read("/ui/index.json", q=search))["runs"]) == found


async def test_a_search_finds_names_and_ids(read: Read, submit: Submit) -> None:
    runs = [await submit(), await submit()]
    for run in runs:
        for search in (run.handle, run.id):
            table = json.loads(await read("/ui/index.json", q=search))["runs"]
            assert [row["id"] for row in table] == [run.id]


async def test_filters_count_and_select_states(read: Read, submit: Submit) -> None:
    await submit()
    failed = await submit([{"exit": 1, "message": "no"}])
    page = json.loads(await read("/ui/index.json", state="failed"))
    assert [row["id"] for row in page["runs"]] == [failed.id]
    counts = {each["name"]: each["count"] for each in page["filters"]}
    assert counts == {"all": 2, "active": 0, "complete": 1, "failed": 1, "canceled": 0}
    await read("/ui/", 400, state="nonsense")
    await read("/ui/", 400, before="nonsense")


async def test_the_table_has_pages(read: Read, submit: Submit, monkeypatch: Any) -> None:
    monkeypatch.setattr("wesemu.dashboard.run_table._PAGE", 2)
    ids = [(await submit()).id for _ in range(3)]
    first = json.loads(await read("/ui/index.json"))
    assert [row["id"] for row in first["runs"]] == ids[:0:-1]
    last = json.loads(await read(first["next"].replace("/ui/?", "/ui/index.json?")))
    assert [row["id"] for row in last["runs"]] == ids[:1]
    assert last["next"] is None


async def test_newest_keeps_search_and_filter(read: Read) -> None:
    text = await read("/ui/", q="batch=7", state="failed", before="5")
    assert re.search(r"""href="[^"]*/ui/\?state=failed&amp;q=batch%3D7">Newest<""", text)


async def test_logs_are_searched_and_errors_marked(read: Read, submit: Submit) -> None:
    run = await submit([{"task": "align", "stderr": "fine\nError: no space\n"}])
    page = json.loads(await read(f"/ui/runs/{run.id}/logs.json", task="1-1"))
    stderr = next(log for log in page["logs"] if log["name"] == "stderr")
    assert [(line["text"], line["error"]) for line in stderr["lines"]] == [
        ("fine", False),
        ("Error: no space", True),
    ]
    page = json.loads(await read(f"/ui/runs/{run.id}/logs.json", task="1-1", q="FINE"))
    stderr = next(log for log in page["logs"] if log["name"] == "stderr")
    assert [line["text"] for line in stderr["lines"]] == ["fine"]
    assert await read(stderr["url"]) == "fine\nError: no space\n"
    await read(f"/ui/runs/{run.id}/logs", 404, task="99-1")


async def test_names_from_workflows_are_no_markup(read: Read, submit: Submit) -> None:
    run = await submit(
        [{"task": HOSTILE, "stderr": HOSTILE}, {"exit": 1, "message": HOSTILE}],
        tags={HOSTILE: HOSTILE},
    )
    for part in ("", "/timeline", "/logs?task=1-1", "/request", "/results"):
        assert HOSTILE not in await read(f"/ui/runs/{run.id}{part}")
    assert HOSTILE not in await read("/ui/", q=HOSTILE)


async def test_every_page_of_a_run_answers_in_each_state(
    read: Read, submit: Submit, engine: ScriptedEngine
) -> None:
    waiting = await submit([{"wait": "gate"}], wait=False)
    queued = await submit(wait=False)
    for run in (waiting, queued):
        for part in ("", "/timeline", "/logs", "/request", "/results"):
            assert run.handle in await read(f"/ui/runs/{run.id}{part}")
            json.loads(await read(f"/ui/runs/{run.id}{part}.json"))
    engine.release("gate")


@pytest.mark.parametrize(
    "page", ["", "buckets", "buckets/genes", "node", "new", "emulator", "login"]
)
async def test_pages_allow_no_inline_script_and_no_other_host(client: Client, page: str) -> None:
    async with client.get(f"/ui/{page}") as response:
        assert response.status == 200
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    assert "default-src 'self'" in policy
    assert "unsafe-inline" not in policy
    assert " style=" not in text
    assert "<style" not in text
    assert text.count("<script") == text.count("<script src=")


async def test_an_unknown_page_is_not_found_in_html_and_in_json(read: Read) -> None:
    assert "There is no page /ui/nothing." in await read("/ui/nothing", 404)
    body = json.loads(await read("/ui/nothing.json", 404))
    assert body == {"status": 404, "message": "There is no page /ui/nothing.json."}


async def test_a_bucket_is_listed_by_folder(read: Read) -> None:
    top = json.loads(await read("/ui/buckets/genes.json"))
    assert [folder["name"] for folder in top["folders"]] == ["fastq/", "reference/"]
    below = json.loads(await read("/ui/buckets/genes.json", prefix="fastq/"))
    assert [entry["url"] for entry in below["objects"]] == [
        "oss://genes/fastq/a_1.fq.gz",
        "oss://genes/fastq/a_2.fq.gz",
    ]
    assert await read("/ui/objects/genes/fastq/a_1.fq.gz") == "one"
    await read("/ui/objects/genes/fastq/nothing", 404)
    await read("/ui/buckets/unknown", 404)


async def test_files_are_uploaded_below_the_prefix(
    client: Client, read: Read, settings: Settings
) -> None:
    form = FormData(quote_fields=False)  # as browsers
    form.add_field("prefix", "new/")
    for name in ("a b.txt", "ä.txt"):
        form.add_field("files", name.encode() * 1000, filename=name)
    async with client.post("/ui/buckets/genes", data=form) as response:
        assert response.status == 200, await response.text()
        assert str(response.url.relative()) == "/ui/buckets/genes?prefix=new/"
    folder = settings.data / "buckets" / "genes" / "new"
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {
        "a b.txt": 7000,
        "ä.txt": 6000,
    }
    entries = json.loads(await read("/ui/buckets/genes.json", prefix="new/"))["objects"]
    assert [entry["etag"].endswith("-1") for entry in entries] == [False, False]


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", ".wesemu/x"])
async def test_an_upload_stays_in_its_bucket(client: Client, settings: Settings, name: str) -> None:
    before = sorted((settings.data / "buckets").rglob("*"))
    with MultipartWriter("form-data") as form:
        part = form.append(b"bad")
        part.set_content_disposition("form-data", quote_fields=False, name="files", filename=name)
        async with client.post("/ui/buckets/genes", data=form) as response:
            assert response.status == 400, await response.text()
    after = sorted((settings.data / "buckets").rglob("*"))
    assert [path for path in after if path.is_file()] == [path for path in before if path.is_file()]


async def test_a_bucket_is_created(client: Client, read: Read, settings: Settings) -> None:
    async with client.post("/ui/buckets", data={"name": "fresh"}) as response:
        assert response.url.path == "/ui/buckets/fresh"
    assert (settings.data / "buckets" / "fresh").is_dir()
    async with client.post("/ui/buckets", data={"name": "No!"}) as response:
        assert response.status == 400


async def test_the_node_shows_its_resources_and_queue(
    read: Read, submit: Submit, engine: ScriptedEngine
) -> None:
    await submit([{"wait": "gate"}], wait=False)
    await submit(wait=False)
    page = json.loads(await read("/ui/node.json"))
    offered: dict[str, Sequence[int]] = {row["name"]: row["offered"] for row in page["resources"]}
    assert (offered["cores"], offered["gpus"]) == (2, 0)
    assert sum(level["runs"] for level in page["queue"]) >= 1
    assert await read("/ui/node")
    engine.release("gate")


async def test_a_log_behind_a_link_is_not_shown(
    read: Read, submit: Submit, settings: Settings, tmp_path: Path
) -> None:
    run = await submit([{"task": "align"}])
    secret = tmp_path / "secret"
    secret.write_text("secret")
    log = settings.data / "runs" / run.id / "stderr.log"
    log.unlink(missing_ok=True)
    log.symlink_to(secret)
    assert "secret" not in await read(f"/ui/runs/{run.id}/logs")
    await read(f"/ui/runs/{run.id}/log/stderr", 404)


async def test_the_apis_are_linked_from_every_page_and_have_their_documents(
    client: Client, read: Read
) -> None:
    for path in ("/ui/", "/ui/node", "/ui/buckets", "/ui/new", "/ui/emulator"):
        assert 'href="../ui/api"' in await read(path)
    html = await read("/ui/api")
    for document in set(
        re.findall(r'href="([^"]+/(?:reference|openapi.yaml|service-info))"', html)
    ):
        async with client.get(document) as response:
            assert response.status == 200, document
    page = json.loads(await read("/ui/api.json"))
    wes = {(each["name"], each["method"]) for each in page["wes"]["operations"]}
    assert {("RunWorkflow", "POST"), ("GetRunLog", "GET")} <= wes
    ags = {each["name"]: each["path"] for each in page["ags"]["operations"]}
    assert ags["StartWorkflow"] == "/gs/workflow"
    control = {(each["method"], each["path"]) for each in page["control"]["operations"]}
    assert ("POST", "/_wesemu/faults") in control
