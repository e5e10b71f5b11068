"""The page of the emulator: clock, faults, requests, and its access rules."""

import json

import pytest
from aiohttp import FormData
from api.dashboard.conftest import Client, Read, Submit

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
    assert "at speed 60 " in await read("/ui/emulator")


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


async def test_a_fault_of_the_form_happens_and_is_listed(client: Client, read: Read) -> None:
    form = {"fault": "request", "operation": "ListRuns", "status": "418", "code": "", "times": ""}
    async with client.post("/ui/emulator", data=form) as response:
        assert "ListRuns" in await response.text()
    async with client.get("/ga4gh/wes/v1/runs") as response:
        assert response.status == 418
    page = json.loads(await read("/ui/emulator.json"))
    assert page["faults"] == []
    [applied] = page["applied"]
    assert (applied["what"], applied["effect"]) == ("GET /ga4gh/wes/v1/runs", "status 418")
    assert page["requests"][0]["operation"] == "ListRuns"


async def test_a_fault_of_a_run_names_the_run(client: Client, read: Read, submit: Submit) -> None:
    async with client.post("/ui/emulator", data={"fault": "run", "fails_at_task": "1"}) as response:
        assert response.status == 200
    run = await submit([{"task": "align"}])
    assert run.state.value != "COMPLETE"
    [applied] = json.loads(await read("/ui/emulator.json"))["applied"]
    assert (applied["run"], applied["effect"]) == (run.id, "fails at task 1")
    async with client.post("/ui/emulator", data={"clear": "faults"}):
        assert json.loads(await read("/ui/emulator.json"))["applied"] == []


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"operation": "ListRuns"},
        {"operation": "ListRuns", "status": "x"},
        {"operation": "ListRuns", "status": "200"},
        {"operation": "ListRuns", "delay": "-1"},
        {"operation": "Nothing", "status": "503"},
        {"unknown": "x"},
    ],
)
async def test_a_bad_fault_is_refused(client: Client, read: Read, form: dict[str, str]) -> None:
    async with client.post("/ui/emulator", data={"fault": "request", **form}) as response:
        assert response.status == 400
    assert json.loads(await read("/ui/emulator.json"))["faults"] == []


async def test_a_reset_removes_runs_and_on_request_objects(
    client: Client, read: Read, submit: Submit, settings: Settings
) -> None:
    await submit()
    async with client.post("/ui/emulator", data={"reset": "runs"}) as response:
        assert response.url.path == "/ui/emulator"
    assert json.loads(await read("/ui/index.json"))["runs"] == []
    assert json.loads(await read("/ui/buckets.json"))["buckets"]
    async with client.post("/ui/emulator", data={"reset": "everything"}) as response:
        assert response.status == 200
    assert json.loads(await read("/ui/buckets.json"))["buckets"] == []


async def test_a_snapshot_is_saved_and_loaded(client: Client, read: Read, submit: Submit) -> None:
    run = await submit()
    async with client.post("/ui/emulator/snapshot") as response:
        assert response.headers["Content-Disposition"].startswith("attachment")
        snapshot = await response.read()
    async with client.post("/ui/emulator", data={"reset": "everything"}):
        assert json.loads(await read("/ui/index.json"))["runs"] == []
    form = FormData()
    form.add_field("snapshot", snapshot, filename="a.tar")
    async with client.post("/ui/emulator/load", data=form) as response:
        assert response.status == 200, await response.text()
    assert [row["id"] for row in json.loads(await read("/ui/index.json"))["runs"]] == [run.id]
    assert json.loads(await read("/ui/buckets.json"))["buckets"]


@pytest.mark.parametrize(("name", "content"), [("", b""), ("a.tar", b"garbage")])
async def test_a_bad_snapshot_changes_nothing(
    client: Client, read: Read, submit: Submit, name: str, content: bytes
) -> None:
    await submit()
    form = FormData()
    form.add_field("snapshot", content, filename=name)
    async with client.post("/ui/emulator/load", data=form) as response:
        assert response.status == 400
    assert len(json.loads(await read("/ui/index.json"))["runs"]) == 1


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
        for path in ("", "/snapshot", "/load"):
            async with client.post(f"/ui/emulator{path}", data={"speed": "2"}) as response:
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
