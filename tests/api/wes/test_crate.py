"""RO-Crates of runs: read by ro-crate-py, compared with the profile."""

import asyncio
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import FormData
from api.wes.fixtures import Client, fetch

from wesemu.client import AsyncClient
from wesemu.provenance import collect
from wesemu.runs.model import LOCAL_OWNER
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

rocrate = pytest.importorskip(
    "rocrate.rocrate", reason="ro-crate-py is not installed: pip install 'wesemu[crate]'"
)

RUNS = "/ga4gh/wes/v1/runs"
FIRST, SECOND = "oss://genes/fastq/a_1.fq.gz", "oss://genes/fastq/a_2.fq.gz"
PARAMS = {
    "reads": [{"first": FIRST, "second": SECOND}],
    "reference": "oss://genes/reference/tiny",
    "bam": "oss://genes/o/a.bam",
    "markdup": True,
}
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5",
    "https://w3id.org/ro/wfrun/workflow/0.5",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "auth": settings.auth.model_copy(update={"tokens": {"a": "local", "b": "bob"}}),
            "workflows": settings.workflows.model_copy(update={"owners": ["local"]}),
        }
    )


HEADERS = {"Authorization": "Bearer a"}


async def send(client: Client, runs: RunService, data: Any = None, **body: Any) -> str:
    """A run that has ended."""
    how: Any = {"data": data} if data is not None else {"json": body}
    async with client.post(RUNS, headers=HEADERS, **how) as answer:
        told = await answer.json()
        assert answer.status == 200, told
    async for _ in runs.follow(LOCAL_OWNER, told["run_id"]):
        pass
    return str(told["run_id"])


async def fetch_crate(client: Client, run_id: str, folder: Path, **query: str) -> Any:
    """The crate as ro-crate-py reads it; its ZIP is whole."""
    async with client.get(f"{RUNS}/{run_id}/ro-crate", params=query, headers=HEADERS) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "application/zip"
        assert f"{run_id}.crate.zip" in answer.headers["Content-Disposition"]
        content = await answer.read()

    def read() -> Any:
        file = folder / f"{len(list(folder.glob('*.zip')))}.zip"
        file.write_bytes(content)
        with zipfile.ZipFile(file) as archive:
            assert archive.testzip() is None
        return rocrate.ROCrate(file)

    return await asyncio.to_thread(read)


def metadata(crate: Any) -> dict[str, Any]:
    graph = json.loads((Path(crate.source) / "ro-crate-metadata.json").read_text())["@graph"]
    return {entity["@id"]: entity for entity in graph}


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    if isinstance(value, dict):
        return [value["@id"]] if set(value) == {"@id"} else references([*value.values()])
    return []


async def test_a_bundled_pipeline_s_run_keeps_to_the_profile(
    client: Client, runs: RunService, tmp_path: Path
) -> None:
    run_id = await send(client, runs, workflow_url="mapping", workflow_params=PARAMS)
    crate = await fetch_crate(client, run_id, tmp_path)
    root = crate.root_dataset
    assert {profile.id for profile in root["conformsTo"]} == PROFILES
    assert root["license"]
    workflow = crate.mainEntity
    assert set(workflow.type) == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
    assert workflow.id == "pipelines/mapping/workflow/Snakefile"
    assert workflow.lang.name == "Snakemake"
    action, server = root["mentions"]
    assert server["name"] == "wesemu"
    assert (action.type, action["instrument"], action["agent"]["name"]) == (
        "CreateAction", workflow, "local",
    )  # fmt: skip
    assert action["actionStatus"].endswith("/CompletedActionStatus")
    assert action["startTime"] <= action["endTime"] == "2020-01-15T08:30:25+00:00"
    inputs = {entity.id: entity for entity in action["object"]}
    assert inputs[FIRST]["contentSize"] == "3"
    assert inputs[FIRST]["sha256"] == hashlib.sha256(b"one").hexdigest()
    assert inputs[FIRST]["exampleOfWork"]["name"] == "reads.0.first"
    assert inputs["#value-markdup"]["value"] is True
    assert PARAMS["bam"] not in inputs
    formal = {parameter["name"]: parameter for parameter in workflow["input"]}
    assert {name: told["additionalType"] for name, told in formal.items()} == {
        "reads": "PropertyValue", "reads.0.first": "File", "reads.0.second": "File",
        "reference": "File", "bam": "Text", "markdup": "Boolean",
    }  # fmt: skip
    results = {entity["name"]: entity for entity in action["result"]}
    assert set(results) == {"bam", "bam_index", "flagstat", "stats", "reads"}
    assert results["bam"]["alternateName"] == "oss://genes/o/a.bam"
    assert results["bam"]["sha256"] == hashlib.sha256(b"BAM").hexdigest()
    assert [result["exampleOfWork"] for result in action["result"]] == workflow["output"]
    assert all(parameter.type == "FormalParameter" for parameter in workflow["output"])


async def test_no_reference_leads_nowhere_and_every_file_is_there(
    client: Client, runs: RunService, tmp_path: Path
) -> None:
    run_id = await send(client, runs, workflow_url="mapping", workflow_params=PARAMS)
    crate = await fetch_crate(client, run_id, tmp_path)
    entities = metadata(crate)
    outside = {one for one in references([*entities.values()]) if one not in entities}
    assert {one for one in outside if not one.startswith("http")} == set()
    parts = [part["@id"] for part in entities["./"]["hasPart"]]
    local = [part for part in parts if "://" not in part]
    assert {"run.json", "pipelines/mapping/workflow/rules/mapping.smk"} <= set(local)
    assert [part for part in local if not (Path(crate.source) / part).is_file()] == []
    assert (Path(crate.source) / "README.md").read_text().startswith(f"# {crate.name}\n")
    log = json.loads((Path(crate.source) / "run.json").read_text())
    async with client.get(f"{RUNS}/{run_id}", headers=HEADERS) as answer:
        assert log == await answer.json()


async def test_large_outputs_are_named_by_their_url(
    client: Client, runs: RunService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "SMALL", 50)
    form = FormData({"workflow_type": "SMK", "workflow_url": "Snakefile"})
    script = [
        {"write": "small.txt", "text": "s"},
        {"write": "a folder/large.txt", "text": "l" * 100},
    ]
    form.add_field("workflow_params", json.dumps({"script": script}))
    form.add_field("workflow_attachment", b"rule all:\n", filename="Snakefile")
    form.add_field("workflow_attachment", b"rule a:\n", filename="rules/a.smk")
    run_id = await send(client, runs, form)
    for wrong in ("outputs=some", "outputs=all&outputs=none"):
        async with client.get(f"{RUNS}/{run_id}/ro-crate?{wrong}", headers=HEADERS) as answer:
            assert (answer.status, "outputs" in await answer.text()) == (400, True)
    url = str(client.make_url(f"{RUNS}/{run_id}/outputs/"))
    small, large = "outputs/small.txt", "outputs/a folder/large.txt"
    for inclusion, inside in (("small", {small}), ("all", {small, large}), ("none", set())):
        crate = await fetch_crate(client, run_id, tmp_path, outputs=inclusion)
        there = {
            path.relative_to(crate.source).as_posix()
            for path in Path(crate.source, "outputs").rglob("*")
            if path.is_file()
        }
        assert there == inside
        told = {result.id for result in crate.root_dataset["mentions"][0]["result"]}
        assert len(told) == 2
        assert {one for one in told if one.startswith("http")} == {
            f"{url}{name.removeprefix('outputs/').replace(' ', '%20')}"
            for name in {small, large} - inside
        }
    assert crate.mainEntity.id == "workflow/Snakefile"
    assert (Path(crate.source) / "workflow" / "rules" / "a.smk").read_text() == "rule a:\n"


async def test_a_large_attachment_is_named_without_its_content(
    client: Client, runs: RunService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "LARGEST_PART", 20)
    form = FormData({"workflow_type": "SMK", "workflow_url": "Snakefile"})
    form.add_field("workflow_params", '{"script": []}')
    form.add_field("workflow_attachment", b"rule all:\n", filename="Snakefile")
    form.add_field("workflow_attachment", b"ACGT" * 6, filename="reads.txt")
    crate = await fetch_crate(client, await send(client, runs, form), tmp_path)
    assert crate.get("#workflow/reads.txt")["contentSize"] == "24"
    assert not (Path(crate.source) / "workflow" / "reads.txt").exists()


async def test_a_run_that_failed_says_why(client: Client, runs: RunService, tmp_path: Path) -> None:
    params = PARAMS | {"sample": "fail"}
    run_id = await send(client, runs, workflow_url="mapping", workflow_params=params)
    crate = await fetch_crate(client, run_id, tmp_path)
    action = crate.root_dataset["mentions"][0]
    assert action["actionStatus"].endswith("/FailedActionStatus")
    assert "align" in action["error"]
    assert action.get("result", []) == []


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, '{"engine": "a"}', "no JSON"])
async def test_a_launch_that_the_workflow_has_written_hinders_no_crate(
    client: Client, runs: RunService, settings: Settings, tmp_path: Path, text: str
) -> None:
    run_id = await send(client, runs, workflow_url="mapping", workflow_params=PARAMS)
    (settings.data / "runs" / run_id / "engine.json").write_text(text)
    await fetch_crate(client, run_id, tmp_path)


async def test_before_the_end_it_is_409(client: Client, engine: ScriptedEngine) -> None:
    body = {"workflow_url": "mapping", "workflow_params": PARAMS | {"sample": "wait-a"}}
    async with client.post(RUNS, json=body, headers=HEADERS) as answer:
        run_id = (await answer.json())["run_id"]
    async with client.get(f"{RUNS}/{run_id}/ro-crate", headers=HEADERS) as answer:
        told = await answer.json()
    assert (answer.status, "once it has ended" in told["msg"]) == (409, True)


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ({"outputs": "some"}, HEADERS, 400),
        ({}, {"Authorization": "Bearer b"}, 403),
        ({}, {}, 401),
    ],
)
async def test_it_is_as_guarded_as_its_run(
    client: Client, runs: RunService, query: Any, headers: Any, status: int
) -> None:
    run_id = await send(client, runs, workflow_url="mapping", workflow_params=PARAMS)
    url = f"{RUNS}/{run_id}/ro-crate"
    async with client.get(url, params=query, headers=headers) as answer:
        assert (answer.status, (await answer.json())["status_code"]) == (status, status)
    async with client.get(f"{RUNS}/none/ro-crate", headers=HEADERS) as answer:
        assert answer.status == 404


async def test_a_server_without_the_extra_says_what_is_missing(wes: Client) -> None:
    body = {"workflow_url": "mapping", "workflow_params": PARAMS}
    async with wes.post(RUNS, json=body) as answer:
        run_id = (await answer.json())["run_id"]
    assert "wesemu[crate]" in (await fetch(wes, f"{RUNS}/{run_id}/ro-crate", 404))["msg"]


async def test_words_that_mention_a_url_are_no_file(
    client: Client, runs: RunService, tmp_path: Path
) -> None:
    form = FormData({"workflow_type": "SMK", "workflow_type_version": "9"})
    form.add_field("workflow_url", "s.smk")
    form.add_field("workflow_params", json.dumps({"note": "see https://example.org"}))
    form.add_field("workflow_attachment", b"rule x: shell: 'true'", filename="s.smk")
    crate = await fetch_crate(client, await send(client, runs, data=form), tmp_path)
    assert "see https://example.org" in json.dumps(metadata(crate))


async def test_a_data_directory_behind_a_link_gives_its_outputs(
    client: Client, runs: RunService, settings: Settings, tmp_path: Path
) -> None:
    run_id = await send(
        client, runs, workflow_type="SMK", workflow_url="mapping", workflow_params=PARAMS
    )

    def move() -> None:
        folder = settings.data / "runs" / run_id
        (settings.data / "elsewhere").mkdir()
        folder.rename(settings.data / "elsewhere" / run_id)
        folder.symlink_to(settings.data / "elsewhere" / run_id)

    await asyncio.to_thread(move)
    crate = await fetch_crate(client, run_id, tmp_path, outputs="all")
    assert any(name.startswith("outputs/") for name in metadata(crate))


async def test_a_run_without_its_workflow_has_no_crate(
    client: Client, runs: RunService, settings: Settings
) -> None:
    form = FormData({"workflow_type": "SMK", "workflow_type_version": "9"})
    form.add_field("workflow_url", "s.smk")
    form.add_field("workflow_attachment", b"rule x: shell: 'true'", filename="s.smk")
    run_id = await send(client, runs, data=form)
    (settings.data / "runs" / run_id / "attachments" / "s.smk").unlink()
    async with client.get(f"{RUNS}/{run_id}/ro-crate", headers=HEADERS) as answer:
        assert answer.status == 404
        assert "gone" in (await answer.json())["msg"]


SECRETS = ("s3cret-a", "s3cret-b", "s3cret-c", "s3cret-d", "s3cret-e", "s3cret-f")
SIGNED = f"https://reads.example/a_1.fq.gz?versionId=7&X-Amz-Signature={SECRETS[0]}"
TOLD = "https://reads.example/a_1.fq.gz?versionId=7&X-Amz-Signature=REDACTED"


def signed_form(script: list[dict[str, str]]) -> FormData:
    """A run whose request is full of credentials."""
    form = FormData({"workflow_type": "SMK", "workflow_url": "Snakefile"})
    params = {"reads": SIGNED, "script": script, "more": {"api_key": SECRETS[1]}}
    form.add_field("workflow_params", json.dumps(params))
    tags = {"source": f"http://joe:{SECRETS[2]}@h/f", "wesemu.tools.x": f"://h?sig={SECRETS[5]}"}
    form.add_field("tags", json.dumps(tags))
    config = f"reads: {SIGNED}\nréférence: 'http://joe:{SECRETS[2]}@h/f'\n"
    form.add_field("workflow_attachment", f"# {SIGNED}\n".encode(), filename="Snakefile")
    form.add_field("workflow_attachment", config.encode(), filename="config.yaml")
    form.add_field("workflow_attachment", b"\xff\x00://h/f?sig=" + SECRETS[3].encode(),
                   filename="b.bin")  # fmt: skip
    return form


async def test_no_credential_of_the_request_leaves_in_a_crate(
    client: Client, runs: RunService, tmp_path: Path
) -> None:
    script = [
        {"task": "fetch", "command": f"curl -H 'Authorization: Bearer {SECRETS[4]}' '{SIGNED}'"},
        {"write": "o.txt", "text": f"from {SIGNED}"},
    ]
    crate = await fetch_crate(client, await send(client, runs, signed_form(script)), tmp_path)
    files = {
        path.relative_to(crate.source).as_posix(): path.read_bytes()
        for path in Path(crate.source).rglob("*")
        if path.is_file()
    }
    assert {"workflow/config.yaml", "workflow/b.bin", "run.json"} <= set(files)
    leaks = [
        (name, secret) for name in files for secret in SECRETS if secret.encode() in files[name]
    ]
    assert leaks == []
    entities = metadata(crate)
    assert entities[TOLD]["exampleOfWork"] == {"@id": "#input-reads"}
    assert entities[TOLD]["encodingFormat"] == "application/gzip"
    assert json.loads(entities["#value-more"]["value"]) == {"api_key": "REDACTED"}
    told = f"reads: {TOLD}\nréférence: 'http://REDACTED@h/f'\n".encode()
    assert files["workflow/config.yaml"] == told
    assert entities["workflow/config.yaml"]["contentSize"] == str(len(told))
    assert "REDACTED" in entities["workflow/config.yaml"]["description"]
    assert files["workflow/b.bin"] == b"\xff\x00://h/f?sig=REDACTED"
    assert entities["#software-x"]["softwareVersion"] == "://h?sig=REDACTED"
    log = json.loads(files["run.json"])
    assert log["request"]["tags"]["source"] == "http://REDACTED@h/f"
    (output,) = (entity for entity in entities.values() if entity.get("name") == "o.txt"
                 and entity["@type"] == "File")  # fmt: skip
    assert output["@id"].startswith("http")
    assert "credentials" in output["description"]


async def test_inputs_that_differ_in_their_credentials_stay_apart(
    client: Client, runs: RunService, tmp_path: Path
) -> None:
    ids = [f"https://h/data?id=3f2504e0-4f89-41d3-9a0c-0305e82c330{n}" for n in (1, 2)]
    signed = [f"https://h/a.fq?sig={secret}" for secret in (*SECRETS[:2], SECRETS[0])]
    params = {"script": [], "reads": ids + signed, "webhook": ["https://h/services/s3cret"]}
    lanes = {f"https://h/b.fq?sig={secret}": [0] * lane for lane, secret in enumerate(SECRETS)}
    params["lanes"] = lanes
    form = FormData({"workflow_type": "SMK", "workflow_url": "Snakefile"})
    form.add_field("workflow_params", json.dumps(params))
    form.add_field("workflow_attachment", b"rule all:\n", filename="Snakefile")
    entities = metadata(await fetch_crate(client, await send(client, runs, form), tmp_path))
    told = {
        name: one["exampleOfWork"]["@id"]
        for name, one in entities.items()
        if name.startswith("https://h/")
    }
    assert told == {
        ids[0]: "#input-reads.0",
        ids[1]: "#input-reads.1",
        "https://h/a.fq?sig=REDACTED": "#input-reads.2",
        "https://h/a.fq?sig=REDACTED-2": "#input-reads.3",
    }


async def test_its_owner_reads_in_the_run_log_what_was_sent(
    client: Client, runs: RunService
) -> None:
    run_id = await send(client, runs, signed_form([]))
    async with client.get(f"{RUNS}/{run_id}", headers=HEADERS) as answer:
        assert (await answer.json())["request"]["workflow_params"]["reads"] == SIGNED


async def test_files_go_by_their_names_whatever_is_in_them(
    client: Client, runs: RunService, tmp_path: Path
) -> None:
    form = FormData({"workflow_type": "SMK", "workflow_url": "my flow.smk"})
    script = [{"write": "an empty.txt", "text": ""}]
    form.add_field("workflow_params", json.dumps({"script": script}))
    form.add_field("workflow_attachment", f"# {SIGNED}\n".encode(), filename="my flow.smk")
    form.add_field("workflow_attachment", b"", filename="a%20b/c d.txt", content_type="text/plain")
    crate = await fetch_crate(client, await send(client, runs, form), tmp_path)
    parts = [part["@id"] for part in metadata(crate)["./"]["hasPart"]]
    assert [part for part in parts if not (Path(crate.source) / unquote(part)).is_file()] == []
    assert {"workflow/my%20flow.smk", "outputs/an%20empty.txt"} <= set(parts)
    assert TOLD in (Path(crate.source) / "workflow" / "my flow.smk").read_text()


@pytest.mark.parametrize("accept", ["application/json", "application/ld+json, */*;q=0.1"])
async def test_who_asks_for_json_gets_the_metadata(
    client: Client, runs: RunService, accept: str
) -> None:
    run_id = await send(
        client, runs, workflow_type="SMK", workflow_url="mapping", workflow_params=PARAMS
    )
    headers = {**HEADERS, "Accept": accept}
    async with client.get(f"{RUNS}/{run_id}/ro-crate", headers=headers) as answer:
        assert answer.status == 200
        assert answer.content_type == accept.partition(",")[0]
        told = json.loads(await answer.read())
    assert "https://w3id.org/ro/crate/1.1/context" in str(told["@context"])
    assert {"ro-crate-metadata.json", "./"} <= {entity["@id"] for entity in told["@graph"]}
    headers["Accept"] = f"application/zip, {accept}"
    async with client.get(f"{RUNS}/{run_id}/ro-crate", headers=headers) as answer:
        assert answer.content_type == "application/zip"


async def test_the_client_writes_a_crate_into_a_folder(
    client: Client, runs: RunService, tmp_path: Path
) -> None:
    form = FormData({"workflow_type": "SMK", "workflow_url": "Snakefile"})
    form.add_field("workflow_params", '{"script": []}')
    form.add_field("workflow_attachment", b"rule all:\n", filename="Snakefile")
    there = AsyncClient(str(client.make_url("/")), token="a")
    run = await there.get(await send(client, runs, form))
    crate = await run.crate(tmp_path)
    assert crate == tmp_path / f"{run.id}.crate.zip"
    assert crate.is_file()
