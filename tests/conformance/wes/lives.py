"""Complete runs of which every response is checked against OpenAPI documents."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.wes.fixtures import Client, Ended, absolute
from jsonschema import Draft4Validator, FormatChecker

from wesemu.runs.model import Owner
from wesemu.testing.fake_engine import ScriptedEngine

TOKENS = {"secret-a": "alice", "secret-b": "bob"}
ALICE = {"Authorization": "Bearer secret-a"}
BOB = {"Authorization": "Bearer secret-b"}
READS = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
PARAMS = {"reads": [READS], "reference": "oss://genes/reference/tiny", "bam": "oss://genes/a.bam"}


@dataclass(frozen=True)
class Document:
    """Swagger 2 or OpenAPI 3."""

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
        answers = operation["responses"]
        answer = answers[str(status)] if str(status) in answers else answers["default"]
        while "$ref" in answer:
            *_, section, name = answer["$ref"].split("/")
            answer = self.text["components"][section][name]
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
