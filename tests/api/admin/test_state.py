"""The endpoints health, ready and info."""

import asyncio
from typing import Any

import pytest
from api.admin.conftest import Client, Control
from pytest_aiohttp import AiohttpClient

from wesemu.app import create_app
from wesemu.runs.clock import ManualClock
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine


async def test_it_is_alive_ready_and_says_what_it_is(control: Control, settings: Settings) -> None:
    assert await control("health") == {"status": "ok"}
    assert await control("ready") == {"ready": True, "reasons": []}
    info = await control("info")
    assert info["engines"] == {"snakemake": "1.0"}
    assert info["data"] == str(settings.data)
    names = {tool["name"] for tool in info["tools"]}
    assert names >= {"samtools", "bcftools"}
    assert names & {"bwa", "bwa-mem3"}
    assert all(tool["version"] for tool in info["tools"])
    assert info["pace"] == "real"


class ColdEngine(ScriptedEngine):
    """Gets ready when told to, or not at all."""

    def __init__(
        self, clock: ManualClock, error: Exception | None = None, name: str = "scripted"
    ) -> None:
        super().__init__(clock, name=name)
        self.ready = asyncio.Event()
        self._error = error

    async def warm(self) -> None:
        await self.ready.wait()
        if self._error is not None:
            raise self._error


async def test_it_is_ready_without_an_engine_that_starts_with_its_first_run(
    aiohttp_client: AiohttpClient, settings: Settings, clock: ManualClock
) -> None:
    engines = [ScriptedEngine(clock), ColdEngine(clock, name="cwltool")]
    client: Client = await aiohttp_client(await create_app(settings, clock=clock, engines=engines))
    async with client.get("/_wesemu/ready") as response:
        assert (response.status, await response.json()) == (200, {"ready": True, "reasons": []})


@pytest.mark.parametrize("error", [None, OSError("no room for a process")])
async def test_it_is_not_ready_while_an_engine_is_cold(
    aiohttp_client: AiohttpClient, settings: Settings, clock: ManualClock, error: Exception | None
) -> None:
    engine = ColdEngine(clock, error)
    client: Client = await aiohttp_client(await create_app(settings, clock=clock, engines=[engine]))

    async def ready() -> tuple[int, Any]:
        response = await client.get("/_wesemu/ready")
        return response.status, (await response.json())["reasons"]

    assert await ready() == (503, ["the engine scripted is starting"])
    assert (await client.get("/_wesemu/health")).status == 200
    engine.ready.set()
    await asyncio.sleep(0)
    after = (200, [])
    if error is not None:
        after = (
            503,
            ["the engine scripted did not start: no room for a process; the server tries again"],
        )
    assert await ready() == after


async def test_it_is_not_ready_without_disk(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wesemu.runs.data_directory.LITTLE_DISK", 1 << 60)
    (reason,) = (await control("ready", status=503))["reasons"]
    assert reason.startswith("the disk of the data directory has ")


async def test_errors_name_the_field(control: Control) -> None:
    assert await control("clock", {"speed": "fast"}, method="PUT", status=400) == {
        "error": "speed: must be a number, not 'fast'",
        "status": 400,
        "field": "speed",
    }
    told = await control("clock", {"spede": 1, "speed": 1}, method="PUT", status=400)
    assert told["field"] == "spede"


async def test_paths_that_nobody_owns_are_nobodys(client: Client) -> None:
    response = await client.get("/nowhere")
    assert response.status == 404
    response = await client.get("/nowhere", headers={"Host": "evil.example.org"})
    assert response.status == 403
    response = await client.get("/_wesemu/nowhere", headers={"Host": "evil.example.org"})
    assert response.status == 403
    response = await client.get("/_wesemu/ready", headers={"Host": "evil.example.org"})
    assert response.status == 200


@pytest.mark.parametrize("path", ["/_wesemu/reset", "/ui/new"])
async def test_a_wrong_method_names_the_right_ones(client: Client, path: str) -> None:
    async with client.delete(path) as response:
        assert response.status == 405
        allowed = response.headers["Allow"].split(",")
        assert "POST" in allowed
        assert f"DELETE is not allowed here, only {', '.join(allowed)}" in await response.text()


async def test_a_range_after_the_end_of_an_object_names_its_size(client: Client) -> None:
    path = "/ui/objects/genes/fastq/a_1.fq.gz"
    async with client.get(path) as response:
        size = len(await response.read())
    async with client.get(path, headers={"Range": f"bytes={size}-"}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{size}"
