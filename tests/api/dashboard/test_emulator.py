"""The page of the emulator: clock, faults, requests, and who may use it."""

import json

import pytest
from api.dashboard.conftest import Client, Read

from wesemu.settings import Settings

FAULT = {"operation": "StartWorkflow", "status": 503, "times": 2}


async def test_the_clock_is_shown_and_changed(client: Client, read: Read) -> None:
    before = json.loads(await read("/ui/emulator.json"))
    async with client.post("/ui/emulator", data={"minutes": "80"}) as response:
        assert response.url.path == "/ui/emulator"
    async with client.post("/ui/emulator", data={"speed": "60"}) as response:
        assert response.status == 200
    after = json.loads(await read("/ui/emulator.json"))
    assert (before["speed"], after["speed"]) == (1.0, 60.0)
    assert before["now"] < after["now"]
    assert "60.0 emulated seconds a second" in await read("/ui/emulator")


@pytest.mark.parametrize(
    "form", [{}, {"speed": "0"}, {"speed": "nan"}, {"speed": "x"}, {"minutes": "-1"}]
)
async def test_a_bad_form_changes_nothing(client: Client, form: dict[str, str]) -> None:
    async with client.post("/ui/emulator", data=form) as response:
        assert response.status == 400


async def test_faults_are_listed_and_cleared(client: Client, read: Read) -> None:
    async with client.post("/_wesemu/faults", json=FAULT) as response:
        assert response.status == 200
    async with client.post("/_wesemu/faults", json={"next_run": {"misses_sla": True}}) as response:
        assert response.status == 200
    faults = json.loads(await read("/ui/emulator.json"))["faults"]
    assert [(fault["for"], fault["times"]) for fault in faults] == [
        ("StartWorkflow", 2),
        ("the next run", 1),
    ]
    assert "status 503" in await read("/ui/emulator")
    async with client.post("/ui/emulator", data={"clear": "faults"}):
        assert json.loads(await read("/ui/emulator.json"))["faults"] == []


async def test_requests_are_listed_with_the_fields_that_nothing_read(
    client: Client, read: Read
) -> None:
    async with client.get("/ga4gh/wes/v1/runs/nothing") as response:
        assert response.status == 404
    requests = json.loads(await read("/ui/emulator.json"))["requests"]
    assert (requests[0]["path"], requests[0]["status"]) == ("/ga4gh/wes/v1/runs/nothing", 404)
    assert "/ga4gh/wes/v1/runs/nothing" in await read("/ui/emulator")


async def test_pages_are_not_in_the_list_of_requests(read: Read) -> None:
    await read("/ui/")
    assert json.loads(await read("/ui/emulator.json"))["requests"] == []


class TestWithAdminToken:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        settings.auth.admin_token = "admin-token"
        return settings

    async def test_the_page_needs_the_token(self, client: Client) -> None:
        for page in ("emulator", "emulator.json"):
            async with client.get(f"/ui/{page}") as response:
                assert response.status == 401
                assert "the admin token" in await response.text()
        async with client.post("/ui/emulator", data={"speed": "2"}) as response:
            assert response.status == 401
        headers = {"Authorization": "Bearer admin-token"}
        async with client.get("/ui/emulator.json", headers=headers) as response:
            assert response.status == 200


class TestSwitchedOff:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        settings.controls = False
        return settings

    async def test_there_is_no_page(self, read: Read) -> None:
        await read("/ui/emulator", 404)
