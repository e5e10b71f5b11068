"""Responses conform to GA4GH's own documents of each version."""

import re
from pathlib import Path

import pytest
import yaml
from api.wes.fixtures import Client, Ended, Serve, absolute
from conformance.wes.lives import ALICE, TOKENS, Checked, Document, live

from wesemu.api.wes.models import PREFIX, VERSIONS, VersionName
from wesemu.testing.fake_engine import ScriptedEngine

FOLDER = Path(__file__).resolve().parents[3] / ".." / "shared" / "openapi"
FILES = {
    "0.3.0": "wes-0.3.0-seed_aa0e7b9.swagger.yaml",
    "1.0.0": "wes-1.0.0.swagger.yaml",
    "1.0.1": "wes-1.0.1.bundled.yaml",
    "1.1.0": "wes-1.1.0.bundled.yaml",
}
NAMES = list(VERSIONS)


def load(version: str) -> Document:
    path = FOLDER / FILES[version]
    if not path.is_file():
        pytest.skip("no official documents in ../shared/openapi beside the checkout")
    return Document(yaml.safe_load(path.read_text()))


@pytest.fixture
async def guarded(serve: Serve) -> Client:
    return await serve(tokens=TOKENS)


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
    wes = await serve(version=version, tokens=TOKENS)
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
