"""A reset ends all activity: requests, uploads, streams, runs in every state."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient
from api.admin.conftest import Client, Control
from api.admin.test_faults import asked, ended
from pytest_aiohttp import AiohttpClient
from support.scripted import scripted_engine
from support.waiting import TIMEOUT_SECONDS, eventually, soon

from wesemu.api.admin import controls
from wesemu.api.fault_injection import MaintenanceGate
from wesemu.app import RUNS, create_app
from wesemu.errors import SystemFault
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import LOCAL_OWNER, Run, RunState
from wesemu.runs.ports import LaunchRequest
from wesemu.runs.run_directory import Workspace
from wesemu.runs.service import RunService
from wesemu.settings import Settings, SlaSettings
from wesemu.storage.object_records import ObjectInfo
from wesemu.storage.objects import ObjectStore
from wesemu.testing.fake_engine import ScriptedEngine

AGS_JOB = {
    "workflow_type": "mapping",
    "service": "s",
    "mapping_bucket_name": "genes",
    "mapping_fastq_first_filename": "fastq/a_1.fq.gz",
    "mapping_fastq_second_filename": "fastq/a_2.fq.gz",
    "mapping_reference_path": "reference/tiny",
    "mapping_is_mark_dup": "true",
    "mapping_bam_out_path": "out",
    "mapping_bam_out_filename": "b.bam",
}


def wes_run() -> FormData:
    form = FormData(default_to_multipart=True)
    form.add_field("workflow_url", "mapping")
    form.add_field("workflow_type", "SMK")
    form.add_field("workflow_type_version", "9")
    form.add_field(
        "workflow_params",
        '{"reads": [{"first": "oss://genes/fastq/a_1.fq.gz", "second": '
        '"oss://genes/fastq/a_2.fq.gz"}], "reference": "oss://genes/reference/tiny", '
        '"bam": "oss://genes/out/c.bam", "sample": "c"}',
    )
    return form


CALLS: dict[str, tuple[str, str, Any]] = {
    "StartWorkflow": ("POST", "/gs/workflow", lambda: {"json": AGS_JOB}),
    "RunWorkflow": ("POST", "/ga4gh/wes/v1/runs", lambda: {"data": wes_run()}),
    "PUT /oss/**": ("PUT", "/oss/genes/new", lambda: {"data": b"new"}),
    "ListRuns": ("GET", "/ga4gh/wes/v1/runs", dict),
    "DescribeWorkflows": ("GET", "/gs/workflows", dict),
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"sla": SlaSettings(pace="sla")})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "_REQUEST_SECONDS", 0.1)


async def running(runs: RunService, sample: str) -> Run:
    run = await runs.submit(LOCAL_OWNER, asked(sample))
    async with soon():
        async for seen in runs.follow(LOCAL_OWNER, run.id):
            run = seen
            if seen.state is RunState.RUNNING:
                break
    return run


async def held(client: Client, control: Control, operation: str) -> asyncio.Task[int]:
    """A call that waits for half a second of the machine's clock, which stands still."""
    await control("faults", {"operation": operation, "delay": 0.5})
    method, path, rest = CALLS[operation]

    async def call() -> int:
        async with client.request(method, path, **rest()) as answer:
            return answer.status

    task = asyncio.create_task(call())

    async def is_held() -> bool:
        return (await control("faults"))["faults"] == []

    await eventually(is_held)
    return task


async def until_resetting(client: Client) -> None:
    async def is_resetting() -> bool:
        async with client.get("/_wesemu/ready") as answer:
            told = await answer.json()
            return answer.status == 503 and "the server is being reset" in told["reasons"]

    await eventually(is_resetting)


async def nothing_is_left(runs: RunService, settings: Settings) -> None:
    assert (await runs.page(LOCAL_OWNER, size=10)).runs == ()
    assert await asyncio.to_thread(lambda: list((settings.data / "runs").iterdir())) == []


@pytest.mark.parametrize("operation", CALLS)
async def test_a_request_that_is_held_finishes_first(
    client: Client,
    control: Control,
    runs: RunService,
    clock: ManualClock,
    settings: Settings,
    operation: str,
) -> None:
    await running(runs, "a")
    call = await held(client, control, operation)
    resetting = asyncio.create_task(control("reset", {}))
    await until_resetting(client)
    clock.advance(timedelta(seconds=1))
    async with soon():
        assert await call < 300
        await resetting
    await nothing_is_left(runs, settings)
    async with soon(), client.get("/_wesemu/ready") as answer:
        assert answer.status == 200
    assert (await ended_at_once(client, control, runs)).state is RunState.COMPLETE


async def ended_at_once(client: Client, control: Control, runs: RunService) -> Run:
    run = await runs.submit(LOCAL_OWNER, asked("z"))
    await control("clock/advance", {"days": 1})
    await running_or_ended(runs, run)
    await control("clock/advance", {"days": 1})
    return await ended(runs, run)


async def running_or_ended(runs: RunService, run: Run) -> None:
    async with soon():
        async for seen in runs.follow(LOCAL_OWNER, run.id):
            if seen.counts is not None:
                return


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("operation", CALLS)
async def test_a_request_that_takes_too_long_is_broken_off(
    client: Client, control: Control, runs: RunService, settings: Settings, operation: str
) -> None:
    await running(runs, "wait-a")
    call = await held(client, control, operation)
    async with soon():
        await control("reset", {})
        assert await call in (500, 503)
    await nothing_is_left(runs, settings)
    assert not (settings.data / "buckets" / "genes" / "new").exists()
    async with client.get("/gs/workflows") as answer:
        assert answer.status == 200


class Upload:
    """A body whose end does not come until it is asked for."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.rest = asyncio.Event()

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        self.begun.set()
        await self.rest.wait()
        yield b"end"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", ["/oss/genes/large", "/ga4gh/wes/v1/runs"])
async def test_an_upload_is_broken_off_and_leaves_nothing(
    client: Client, control: Control, runs: RunService, settings: Settings, path: str
) -> None:
    upload = Upload()
    headers = {}
    if path.endswith("runs"):
        headers["Content-Type"] = "multipart/form-data; boundary=b"

    async def chunks() -> AsyncIterator[bytes]:
        if headers:
            yield b'--b\r\nContent-Disposition: form-data; name="workflow_attachment"; '
            yield b'filename="Snakefile"\r\n\r\n'
        async for chunk in upload.chunks():
            yield chunk

    async def send() -> int:
        method = "POST" if headers else "PUT"
        async with client.request(method, path, data=chunks(), headers=headers) as answer:
            return answer.status

    sending = asyncio.create_task(send())
    async with soon():
        await upload.begun.wait()
        if headers:
            await eventually(lambda: any((settings.data / "runs").iterdir()))
        await control("reset", {})
        upload.rest.set()
        # or the server has closed the connection before all was sent
        with contextlib.suppress(aiohttp.ClientConnectionError):
            assert await sending in (500, 503)
    await nothing_is_left(runs, settings)
    assert not (settings.data / "buckets" / "genes" / "large").exists()


@pytest.mark.usefixtures("impatient")
async def test_a_change_that_its_thread_still_makes_is_waited_for(
    client: Client, control: Control, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No object appears in the emptied bucket later."""
    begun, released = asyncio.Event(), threading.Event()
    loop, append = asyncio.get_running_loop(), ObjectStore.append

    def slow(*arguments: Any) -> ObjectInfo:
        loop.call_soon_threadsafe(begun.set)
        assert released.wait(TIMEOUT_SECONDS)
        return append(*arguments)

    wait = MaintenanceGate._wait_until_empty

    async def release_later(gate: MaintenanceGate, seconds: float) -> None:
        if gate._cancelled:
            loop.call_later(0.1, released.set)
        await wait(gate, seconds)

    monkeypatch.setattr(ObjectStore, "append", slow)
    monkeypatch.setattr(MaintenanceGate, "_wait_until_empty", release_later)
    call = client.post("/oss/genes/log?append&position=0", data=b"a line")
    sending = asyncio.create_task(call, name="append")
    async with soon():
        await begun.wait()
        await control("reset", {"buckets": True})
        assert (await sending).status == 500
    assert not (settings.data / "buckets" / "genes").exists()


async def test_a_reset_gives_up_on_a_request_that_does_not_end() -> None:
    gate, begun, released = MaintenanceGate(), asyncio.Event(), asyncio.Event()

    async def stubborn() -> web.StreamResponse:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await released.wait()
        await released.wait()
        return web.Response()

    request = asyncio.create_task(gate.answer(stubborn), name="request")
    await begun.wait()
    with pytest.raises(SystemFault, match="1 requests have not ended within 0 seconds; try again"):
        await gate.emptied(0, 0)
    released.set()
    await request


async def test_event_streams_stay_and_delay_nothing(
    client: Client, control: Control, runs: RunService, settings: Settings
) -> None:
    async with client.get("/_wesemu/events") as stream:
        run = await running(runs, "wait-a")
        async with soon():
            await control("reset", {})
            told = ""
            while f'"{run.id}","state":null' not in told:
                told += (await stream.content.readline()).decode()
    await nothing_is_left(runs, settings)


async def test_several_resets_at_once(
    control: Control, runs: RunService, settings: Settings
) -> None:
    for sample in ("a", "wait-b", "c"):
        await runs.submit(LOCAL_OWNER, asked(sample))
    async with soon():
        told = await asyncio.gather(*(control("reset", {"buckets": True}) for _ in range(4)))
    assert sorted(each["runs"] for each in told) == [0, 0, 0, 3]
    await nothing_is_left(runs, settings)


class SlowEngine(ScriptedEngine):
    """Launches, attaches and cancels once it is allowed to."""

    def __init__(self, like: ScriptedEngine, clock: ManualClock, stage: str) -> None:
        super().__init__(
            clock, name=like.name, script=like._script, workflow_types=like.workflow_types
        )
        self.stage = stage
        self.reached = asyncio.Event()
        self.allowed = asyncio.Event()

    async def _at(self, stage: str) -> None:
        if stage == self.stage:
            self.reached.set()
            await self.allowed.wait()

    async def launch(self, job: LaunchRequest) -> Any:
        await self._at("launch")
        play = await super().launch(job)
        if self.stage == "cancel":
            cancel = play.cancel

            async def slow() -> None:
                await self._at("cancel")
                await cancel()

            play.cancel = slow  # type: ignore[method-assign]
        return play

    async def attach(self, run: Run, workspace: Workspace) -> Any:
        await self._at("attach")
        return await super().attach(run, workspace)


@pytest.mark.parametrize("stage", ["launch", "attach", "cancel"])
@pytest.mark.parametrize("ends", [True, False])
async def test_a_run_at_every_stage_ends_or_the_reset_says_so(
    settings: Settings,
    clock: ManualClock,
    aiohttp_client: AiohttpClient,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    ends: bool,
) -> None:
    engine = SlowEngine(scripted_engine(clock), clock, stage)
    client: TestClient[web.Request, web.Application] = await aiohttp_client(
        await create_app(settings, clock=clock, engines=[engine])
    )
    runs = client.app[RUNS]
    if not ends:
        monkeypatch.setattr(controls, "_RUN_SECONDS", 0.2)

    async def wiped() -> tuple[int, str]:
        async with client.post("/_wesemu/reset") as answer:
            return answer.status, await answer.text()

    await runs.submit(LOCAL_OWNER, asked("wait-a"))
    if stage == "cancel":
        await eventually(lambda: bool(engine._launched))
    else:
        async with soon():
            await engine.reached.wait()
    resetting = asyncio.create_task(wiped())
    await until_resetting(client)
    if ends:
        engine.allowed.set()
    async with soon():
        status, told = await resetting
    if ends:
        assert (status, told) == (200, '{"runs":1,"buckets":false}')
    else:
        assert (status, "have ended within" in told) == (503, True)
        engine.allowed.set()
        async with soon():
            assert (await wiped())[0] == 200
    await nothing_is_left(runs, settings)
