"""This project's OpenAPI document describes every response, and nothing else."""

import re
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from api.wes.fixtures import Client, Ended, Serve
from conformance.wes.lives import ALICE, TOKENS, Checked, Document, live

from wesemu.api.wes import routes
from wesemu.api.wes.models import PREFIX, VERSIONS, VersionName
from wesemu.runs.model import RunState
from wesemu.runs.sla import ServiceLevel
from wesemu.testing.fake_engine import ScriptedEngine

PATH = Path(routes.__file__).with_name("openapi.yaml")
DOCUMENT = Document(yaml.safe_load(PATH.read_text()))


@pytest.mark.parametrize("version", list(VERSIONS))
async def test_every_answer_keeps_to_it(
    serve: Serve, ended: Ended, engine: ScriptedEngine, version: VersionName
) -> None:
    client = Checked(await serve(tokens=TOKENS), f"/{version}{PREFIX}", DOCUMENT)
    await live(client, ended, engine, "POST")


async def test_the_document_is_served(wes: Client) -> None:
    async with wes.get(f"{PREFIX}/openapi.yaml", headers=ALICE) as answer:
        assert answer.content_type == "application/yaml"
        assert await answer.text() == PATH.read_text()


async def test_it_has_the_servers_routes_and_no_others(wes: Client) -> None:
    served = {
        (route.method, re.sub(r"{(\w+)[^}]*}", r"{\1}", path.removeprefix(PREFIX)))
        for route in wes.app.router.routes()
        if route.resource is not None and (path := route.resource.canonical).startswith(PREFIX)
        if route.method != "HEAD"
    }
    described = {
        (method.upper(), path)
        for path, operations in DOCUMENT.text["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert described == served


def test_the_error_names_every_status_that_is_raised() -> None:
    sources = "".join(path.read_text() for path in PATH.parent.glob("*.py"))
    raised = {getattr(web, name).status_code for name in re.findall(r"raise web\.(\w+)", sources)}
    told = DOCUMENT.text["components"]["responses"]["Error"]["description"]
    assert {412, 413, 416} <= raised <= {int(status) for status in re.findall(r"\d+", told)}


def test_it_lists_every_service_level_and_every_state_of_a_run() -> None:
    schemas = DOCUMENT.text["components"]["schemas"]
    level = schemas["DryRun"]["properties"]["wesemu"]["properties"]["service_level"]
    assert set(level["enum"]) == set(ServiceLevel)
    assert set(schemas["State"]["enum"]) >= set(RunState)
