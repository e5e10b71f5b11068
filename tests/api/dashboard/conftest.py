"""Fixtures of the dashboard's tests: the whole server with the scripted engine."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient

from wesemu.runs.model import Owner, Run
from wesemu.runs.service import RunService

Client = TestClient[web.Request, web.Application]
Submit = Callable[..., Awaitable[Run]]
Read = Callable[..., Awaitable[str]]

LOCAL = Owner("local")


@pytest.fixture
def submit(client: Client, runs: RunService) -> Submit:
    """Submit a Snakefile that plays `script` and wait for its end; return the run."""

    async def send(
        script: Sequence[Mapping[str, Any]] = (),
        *,
        tags: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        owner: Owner = LOCAL,
        wait: bool = True,
    ) -> Run:
        form = FormData()
        form.add_field("workflow_attachment", b"rule all:\n", filename="Snakefile")
        form.add_field("workflow_url", "Snakefile")
        form.add_field("workflow_type", "SMK")
        form.add_field("workflow_type_version", "9")
        form.add_field("workflow_params", json.dumps({"script": list(script)}))
        form.add_field("tags", json.dumps(dict(tags or {})))
        async with client.post("/ga4gh/wes/v1/runs", data=form, headers=headers) as response:
            body = await response.json()
            assert response.status == 200, body
        run = await runs.get(owner, body["run_id"])
        if wait:
            async for latest in runs.follow(owner, run.id):
                run = latest
        return run

    return send


@pytest.fixture
def read(client: Client) -> Read:
    """Return a function that reads a page and checks its status."""

    async def read(path: str, status: int = 200, **query: str) -> str:
        async with client.get(path, params=query) as response:
            text = await response.text()
            assert response.status == status, text
            return text

    return read
