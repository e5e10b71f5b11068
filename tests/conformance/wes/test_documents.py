"""Every answer of whole lives of runs, held against GA4GH's own documents of each version."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from api.wes.fixtures import Client, Ended, Serve, absolute
from jsonschema import Draft4Validator, FormatChecker

from wesemu.api.wes.versions import PREFIX, VERSIONS, VersionName
from wesemu.engines.scripted import ScriptedEngine
from wesemu.runs.model import Owner

FOLDER = Path(__file__).resolve().parents[3] / ".." / "shared" / "openapi"
FILES = {
    "0.3.0": "wes-0.3.0-seed_aa0e7b9.swagger.yaml",
    "1.0.0": "wes-1.0.0.swagger.yaml",
    "1.0.1": "wes-1.0.1.bundled.yaml",
    "1.1.0": "wes-1.1.0.bundled.yaml",
}
NAMES = list(VERSIONS)
ALICE = {"Authorization": "Bearer secret-a"}
BOB = {"Authorization": "Bearer secret-b"}
READS = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
PARAMS = {"reads": [READS], "reference": "oss://genes/reference/tiny", "bam": "oss://genes/a.bam"}


@dataclass(frozen=True)
class Document:
    """One official document; Swagger 2 or OpenAPI 3."""

    text: Mapping[str, Any]

    def check(self, method: str, path: str, status: int, body: object) -> None:
        """The answer is one that the document describes. Routes it lacks are not judged."""
        operation = next(
            (
                operations[method.lower()]
                for template, operations in self.text["paths"].items()
                if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path)
                and method.lower() in operations
            ),
            None,
        )
        if operation is None:
            return
        answer = operation["responses"][str(status)]
        if "content" in answer:
            answer = answer["content"]["application/json"]
        parts = {key: self.text[key] for key in ("definitions", "components") if key in self.text}
        validator = Draft4Validator(answer["schema"] | parts, format_checker=FormatChecker())
        errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]
        assert not errors, (method, path, status, errors)

    def properties(self, name: str) -> set[str]:
        schema = self.text["components"]["schemas"][name]
        found = set(schema.get("properties", ()))
        for part in schema.get("allOf", ()):
            reference = part.get("$ref", "").rpartition("/")[2]
            found |= self.properties(reference) if reference else set(part["properties"])
        return found


def load(version: str) -> Document:
    path = FOLDER / FILES[version]
    if not path.is_file():
        pytest.skip("no official documents in ../shared/openapi beside the checkout")
    return Document(yaml.safe_load(path.read_text()))


class Checked:
    """A client that holds each answer against a document."""

    def __init__(self, wes: Client, prefix: str, *documents: Document) -> None:
        self._wes = wes
        self._prefix = prefix
        self._documents = documents

    async def ask(
        self, method: str, path: str, status: int = 200, headers: Any = ALICE, **options: Any
    ) -> Any:
        url = absolute(self._wes, self._prefix + path)
        async with self._wes.session.request(method, url, headers=headers, **options) as answer:
            body = await answer.json()
            assert answer.status == status, body
        for document in self._documents:
            document.check(method, path, status, body)
        return body


async def live(client: Checked, ended: Ended, engine: ScriptedEngine, cancel: str) -> None:
    """Runs that complete, fail and are cancelled, watched all the way, and every error."""
    await client.ask("GET", "/service-info")
    ids = []
    for sample in ("wait-a", "fail", "wait-c"):
        body = {"workflow_url": "mapping", "workflow_params": PARAMS | {"sample": sample}}
        body |= {"tags": {"project": "x"}, "workflow_engine": "snakemake"}
        ids.append((await client.ask("POST", "/runs", json=body))["run_id"])
        await watch(client, ids[-1])
    engine.release("wait-a")
    for run_id in ids[:2]:
        await ended(run_id, Owner("alice"))
    await client.ask(*(("DELETE", f"/runs/{ids[2]}") if cancel == "DELETE" else
                       ("POST", f"/runs/{ids[2]}/cancel")))  # fmt: skip
    await ended(ids[2], Owner("alice"))
    states = [(await watch(client, run_id))["state"] for run_id in ids]
    assert states == ["COMPLETE", "EXECUTOR_ERROR", "CANCELED"]
    await fail(client, ids[0])


async def watch(client: Checked, run_id: str) -> Any:
    await client.ask("GET", "/runs", params={"page_size": "1"})
    await client.ask("GET", f"/runs/{run_id}/status")
    listed = await client.ask("GET", f"/runs/{run_id}/tasks")
    for task in listed["task_logs"]:
        await client.ask("GET", f"/runs/{run_id}/tasks/{task['id']}")
    return await client.ask("GET", f"/runs/{run_id}")


async def fail(client: Checked, run_id: str) -> None:
    await client.ask("GET", "/runs", 400, params={"page_size": "0"})
    await client.ask("POST", "/runs", 400, json={"workflow_url": "file:///etc/passwd"})
    for path in ("/runs", f"/runs/{run_id}", f"/runs/{run_id}/status"):
        await client.ask("GET", path, 401, headers={})
    for path in (f"/runs/{run_id}", f"/runs/{run_id}/status", f"/runs/{run_id}/tasks"):
        await client.ask("GET", path, 403, headers=BOB)
    for path in ("/runs/none", "/runs/none/status", f"/runs/{run_id}/tasks/none"):
        await client.ask("GET", path, 404)
    await client.ask("DELETE", "/runs/none", 404)
    await client.ask("POST", "/runs/none/cancel", 404)


@pytest.fixture
async def guarded(serve: Serve) -> Client:
    return await serve(tokens={"secret-a": "alice", "secret-b": "bob"})


@pytest.mark.parametrize("version", NAMES)
async def test_each_mounted_version_keeps_to_its_document(
    guarded: Client, ended: Ended, engine: ScriptedEngine, version: VersionName
) -> None:
    client = Checked(guarded, f"/{version}{PREFIX}", load(version))
    await live(client, ended, engine, "DELETE" if version == "0.3.0" else "POST")


@pytest.mark.parametrize("version", NAMES)
async def test_the_unversioned_path_keeps_to_its_document(
    serve: Serve, ended: Ended, engine: ScriptedEngine, version: VersionName
) -> None:
    wes = await serve(version=version, tokens={"secret-a": "alice", "secret-b": "bob"})
    await live(Checked(wes, PREFIX, load(version)), ended, engine, "DELETE")


async def test_0_3_0_is_valid_under_every_later_document(
    guarded: Client, ended: Ended, engine: ScriptedEngine
) -> None:
    """Except for workflow_engine_versions, whose type 1.1.0 changed."""
    documents = [load(version) for version in NAMES]
    schema = documents[-1].text["components"]["schemas"]["ServiceInfo"]["allOf"][1]
    del schema["properties"]["workflow_engine_versions"]
    await live(Checked(guarded, PREFIX, *documents), ended, engine, "POST")


async def test_what_1_1_0_does_not_know_is_the_documented_extension(
    guarded: Client, ended: Ended, engine: ScriptedEngine
) -> None:
    document = load("1.1.0")
    client = Checked(guarded, f"/1.1.0{PREFIX}", document)
    await live(client, ended, engine, "POST")
    info = await client.ask("GET", "/service-info")
    for run in (await client.ask("GET", "/runs"))["runs"]:
        assert set(run) <= document.properties("RunSummary")
        log = await client.ask("GET", f"/runs/{run['run_id']}")
        assert set(log) - document.properties("RunLog") == {"wesemu"}
        assert set(log["request"]) <= document.properties("RunRequest")
        assert set(log["run_log"]) <= document.properties("Log")
        for task in log["task_logs"]:
            assert set(task) <= document.properties("TaskLog")
    earlier = {"contact_info", "contact_info_url", "supported_file_system_protocols"}
    assert set(info) - document.properties("ServiceInfo") == earlier


@pytest.mark.parametrize("version", NAMES)
async def test_every_route_of_the_document_is_there(guarded: Client, version: VersionName) -> None:
    for template, operations in load(version).text["paths"].items():
        for method in operations:
            path = f"/{version}{PREFIX}{re.sub(r'{.*?}', 'x', template)}"
            url = absolute(guarded, path)
            async with guarded.session.request(method.upper(), url, headers=ALICE) as answer:
                assert answer.status != 405, (method, path)
                assert "no such route" not in (await answer.text())
