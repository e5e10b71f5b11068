"""Injected faults: requests and runs that fail on demand."""

import asyncio
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from api.admin.conftest import Client, Control
from support.waiting import soon

from wesemu.api.fault_injection import OPERATIONS, RequestFault, RequestFaults
from wesemu.errors import InvalidRequest
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import LOCAL_OWNER, Run, RunRequest, RunState
from wesemu.runs.service import RunService
from wesemu.settings import Settings


async def test_the_first_calls_of_an_operation_fail_in_its_own_words(
    client: Client, control: Control
) -> None:
    await control("faults", {"operation": "DescribeWorkflows", "status": 503, "times": 2})
    await control("faults", {"operation": "ListRuns", "status": 429})
    for _ in range(2):
        response = await client.get("/gs/workflows")
        assert (response.status, (await response.json())["Code"]) == (503, "ServiceUnavailable")
        assert response.headers["x-acs-request-id"]
    assert (await client.get("/gs/workflows")).status == 200
    response = await client.get("/ga4gh/wes/v1/runs")
    assert await response.json() == {"msg": "Too Many Requests", "status_code": 429}
    assert (await client.get("/ga4gh/wes/v1/runs")).status == 200
    assert (await control("faults"))["faults"] == []


async def test_a_call_is_answered_later(
    client: Client, control: Control, clock: ManualClock
) -> None:
    await control("faults", {"operation": "GET /gs/**", "delay": 30})
    call = asyncio.create_task(client.get("/gs/workflows"))
    while (await control("faults"))["faults"]:
        await asyncio.sleep(0)
    assert not call.done()
    clock.advance(timedelta(seconds=30))
    assert (await call).status == 200


async def test_a_connection_is_dropped(client: Client, control: Control) -> None:
    await control("faults", {"operation": "POST /gs/workflow", "drop": True})
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.post("/gs/workflow", json={})
    assert (await client.post("/gs/workflow", json={})).status == 400


@pytest.mark.parametrize(
    ("operation", "call", "status", "code"),
    [
        ("PutObject", "PUT /oss/genes/a", 403, "AccessDenied"),
        ("PutObject", "PUT /oss/genes/a", 500, "InternalError"),
        ("GetObject", "GET /oss/genes/fastq/a_1.fq.gz", 503, "ServiceUnavailable"),
        ("GetObject", "GET /genes/fastq/a_1.fq.gz", 404, "NoSuchKey"),
        ("ListObjects", "GET /oss/genes", 404, "NoSuchBucket"),
        ("ListObjects", "GET /oss/genes", 429, "TooManyRequests"),
        ("UploadPart", "PUT /oss/genes/a?partNumber=1&uploadId=X", 412, "PreconditionFailed"),
        ("DeleteObject", "DELETE /oss/genes/a", 409, "OperationAborted"),
        ("CopyObject", "PUT /oss/genes/a", 504, "ServiceUnavailable"),
        ("StartWorkflow", "POST /gs/workflow", 403, "ErrorCheckAcl"),
        ("StartWorkflow", "POST /gs/workflow", 400, "InvalidParameter"),
        ("DescirbeWorkflow", "GET /gs/workflow/x", 404, "ErrorWorkflowNotFound"),
        ("DescribeWorkflows", "GET /gs/workflows", 429, "Throttling"),
        ("CancelWorkflow", "PUT /gs/workflow/x", 409, "ErrorConflict"),
        ("RemoveWorkflow", "DELETE /gs/workflow/x", 409, "ErrorWorkflowRunning"),
        ("RemoveWorkflow", "DELETE /gs/workflow/x", 500, "InternalError"),
    ],
)
async def test_the_code_fits_the_status(
    client: Client, control: Control, operation: str, call: str, status: int, code: str
) -> None:
    await control("faults", {"operation": operation, "status": status})
    method, path = call.split()
    source = {"x-oss-copy-source": "/genes/b"} if operation == "CopyObject" else {}
    headers = {} if path.startswith("/gs") else {"x-oss-date": "now", **source}
    response = await client.request(method, path, headers=headers)
    assert response.status == status
    assert f"{code}<" in (text := await response.text()) or f'"{code}"' in text
    assert (await control("faults"))["faults"] == []


async def test_a_fault_may_have_a_code_and_a_message_of_its_own(
    client: Client, control: Control
) -> None:
    told = {"status": 403, "code": "UserDisable", "message": "The account is in arrears."}
    await control("faults", {"operation": "GetObject", **told})
    await control("faults", {"operation": "DescribeWorkflows", **told})
    await control("faults", {"operation": "ListRuns", "status": 403, "message": "closed today"})
    assert (await control("faults"))["faults"][0] | told == (await control("faults"))["faults"][0]
    text = await (await client.get("/oss/genes/fastq/a_1.fq.gz")).text()
    assert "<Code>UserDisable</Code><Message>The account is in arrears.</Message>" in text
    body = await (await client.get("/gs/workflows")).json()
    assert (body["Code"], body["message"]) == ("UserDisable", "The account is in arrears.")
    body = await (await client.get("/ga4gh/wes/v1/runs")).json()
    assert body == {"msg": "closed today", "status_code": 403}


async def test_an_answer_is_lost_after_the_work(
    client: Client, control: Control, settings: Settings
) -> None:
    await control("faults", {"operation": "PutObject", "after": True})
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.put("/oss/genes/new.txt", data=b"new")
    assert (settings.data / "buckets/genes/new.txt").read_bytes() == b"new"
    await control("faults", {"operation": "GetObject", "after": True, "status": 500})
    assert (await client.get("/oss/genes/new.txt")).status == 500
    await control("faults", {"operation": "DeleteObject", "after": True, "status": 503})
    assert (await client.delete("/oss/genes/new.txt")).status == 503
    assert not (settings.data / "buckets/genes/new.txt").exists()
    assert (await control("faults"))["faults"] == []


async def test_a_late_answer_comes_after_the_work(
    client: Client, control: Control, clock: ManualClock, settings: Settings
) -> None:
    await control("faults", {"operation": "PutObject", "after": True, "delay": 30})
    call = asyncio.create_task(client.put("/oss/genes/new.txt", data=b"new"))
    async with soon():
        while not (settings.data / "buckets/genes/new.txt").exists():
            await asyncio.sleep(0.01)
    assert not call.done()
    async with soon():
        while not call.done():
            clock.advance(timedelta(seconds=30))
            await asyncio.sleep(0.01)
    assert (await call).status == 200


async def test_lateness_alone_misses_the_service_level(control: Control) -> None:
    told = await control("faults", {"next_run": {"late_minutes": 5}})
    assert told["faults"][0]["next_run"]["misses_sla"] is True


async def test_the_bucket_door_has_faults_too(client: Client, control: Control) -> None:
    await control("faults", {"operation": "GET /oss/**", "status": 500})
    response = await client.get("/oss/genes/fastq/a_1.fq.gz")
    assert response.status == 500
    assert b"<Code>" in await response.read()
    assert (await client.get("/oss/genes/fastq/a_1.fq.gz")).status == 200


async def test_faults_can_be_looked_at_and_taken_back(control: Control, client: Client) -> None:
    await control("faults", {"operation": "* /**", "status": 418, "times": 7})
    told = await control("faults", {"next_run": {"fails_at_task": 2}})
    calls, run = told["faults"]
    assert (calls["operation"], calls["times"], calls["status"]) == ("* /**", 7, 418)
    assert run["next_run"]["fails_at_task"] == 2
    assert (await client.get("/gs/workflows")).status == 418
    assert await control("faults", method="DELETE") == {"faults": []}
    assert (await client.get("/gs/workflows")).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"operation": "StartWorkflow"},
        {"operation": "NoSuchThing", "status": 500},
        {"operation": "StartWorkflow", "status": 200},
        {"operation": "StartWorkflow", "status": 500, "next_run": {}},
        {"operation": "StartWorkflow", "status": 500, "times": 0},
        {"next_run": {"explodes": True}},
        {"next_run": {}},
        {"next_run": {"misses_sla": False, "late_minutes": 3}},
        {"next_run": {"fails_at_task": 1}, "status": 500},
        {"next_run": {"fails_at_task": 1}, "after": True},
        {"operation": "StartWorkflow", "drop": True, "status": 500},
        {"operation": "StartWorkflow", "code": "Throttling"},
        {"operation": "StartWorkflow", "delay": 1, "message": "no status"},
        {"operation": "StartWorkflow", "status": 500, "code": "<b>"},
        {"operation": "StartWorkflow", "status": 500, "message": "two\nlines"},
        {"operation": "RunWorkflow", "status": 500, "code": "Throttling"},
        {"operation": "GET /1.1.0/ga4gh/wes/v1/runs", "status": 500, "code": "Throttling"},
        {"operation": "GET /_wesemu/info", "status": 500},
        {"operation": "* /_wesemu/**", "status": 500},
        {"operation": "GET /oss/genes?acl", "status": 500},
        {"operation": "GET /oss/genes/a%20b", "status": 500},
        {"operation": "GET /oss/genes/../x", "status": 500},
        {"operation": "FETCH /oss/genes", "status": 500},
        {"operation": "", "status": 500},
    ],
)
async def test_orders_that_mean_nothing_are_refused(control: Control, body: dict[str, Any]) -> None:
    assert (await control("faults", body, status=400))["error"]
    assert (await control("faults"))["faults"] == []


@pytest.mark.parametrize(
    ("operation", "call", "meant"),
    [
        ("RunWorkflow", "POST /ga4gh/wes/v1/runs", True),
        ("RunWorkflow", "POST /1.1.0/ga4gh/wes/v1/runs", True),
        ("GetRunLog", "GET /ga4gh/wes/v1/runs/1/status", False),
        ("GetRunStatus", "GET /ga4gh/wes/v1/runs/1/status", True),
        ("StartWorkflow", "POST /gs/workflows", False),
        ("DescirbeWorkflow", "GET /gs/workflow/a.b", True),
        ("GET /a.b", "GET /axb", False),
    ],
)
def test_an_operation_means_its_calls_and_no_others(operation: str, call: str, meant: bool) -> None:
    faults = RequestFaults()
    faults.inject(RequestFault(operation, 500), 1)
    assert (faults.match(*call.split()) is not None) is meant


def test_every_operation_has_a_pattern() -> None:
    faults = RequestFaults()
    for name in OPERATIONS:
        faults.inject(RequestFault(name, 500), 1)
    assert len(faults.pending) == len(OPERATIONS)
    with pytest.raises(InvalidRequest, match="StartWorkflow"):
        faults.inject(RequestFault("get /gs", 500), 1)


def asked(sample: str) -> RunRequest:
    lane = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
    reference, bam = "oss://genes/reference/tiny", "oss://genes/out/a.bam"
    return RunRequest(
        "mapping", params={"reads": [lane], "reference": reference, "bam": bam, "sample": sample}
    )


async def ended(runs: RunService, run: Run) -> Run:
    async with soon():
        async for seen in runs.follow(LOCAL_OWNER, run.id):
            run = seen
    return run


async def test_the_next_run_fails_at_a_task(control: Control, runs: RunService) -> None:
    await control("faults", {"next_run": {"fails_at_task": 1}})
    run = await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    assert run.state is RunState.EXECUTOR_ERROR
    assert run.failure is not None
    assert run.failure.message == "the task align failed, as the control API requested"
    assert not run.outputs
    run = await ended(runs, await runs.submit(LOCAL_OWNER, asked("b")))
    assert run.state is RunState.COMPLETE


async def test_the_next_run_finds_the_disk_full(control: Control, runs: RunService) -> None:
    await control("faults", {"next_run": {"runs_out_of_disk": True}})
    run = await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    assert run.state is RunState.SYSTEM_ERROR
    assert run.failure is not None
    assert "the disk is full" in run.failure.message
    assert not run.outputs


async def test_a_refused_run_does_not_use_a_fault_up(control: Control, runs: RunService) -> None:
    await control("faults", {"next_run": {"fails_at_task": 1}, "times": 2})
    with pytest.raises(InvalidRequest):
        await runs.submit(LOCAL_OWNER, RunRequest("mapping"))
    assert [fault["times"] for fault in (await control("faults"))["faults"]] == [2]


async def test_a_fault_of_many_runs_is_one_entry_that_is_counted_down(
    control: Control, runs: RunService
) -> None:
    many = {"next_run": {"runs_out_of_disk": True}, "times": 3}
    assert [fault["times"] for fault in (await control("faults", many))["faults"]] == [3]
    for left in ([2], [1], []):
        run = await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
        assert run.state is RunState.SYSTEM_ERROR
        assert [fault["times"] for fault in (await control("faults"))["faults"]] == left


async def test_a_job_is_late_in_real_pace_too(
    control: Control, runs: RunService, clock: ManualClock
) -> None:
    await control("faults", {"next_run": {"misses_sla": True}})
    run = await runs.submit(LOCAL_OWNER, asked("a"))
    async with soon():
        async for seen in runs.follow(LOCAL_OWNER, run.id):
            run = seen
            if run.counts is not None:
                break
    assert run.state is RunState.RUNNING
    await control("clock/advance", {"minutes": 61})
    run = await ended(runs, run)
    assert run.started is not None
    assert run.ended == run.started + timedelta(minutes=61)


def test_no_pattern_is_slow() -> None:
    faults = RequestFaults()
    faults.inject(RequestFault("GET /" + "**/a/" * 40 + "b", status=500), 1)
    assert faults.match("GET", "/" + "a/" * 2000) is None
    with pytest.raises(InvalidRequest, match="not an operation"):
        faults.inject(RequestFault("GET /**a**a**b", status=500), 1)


@pytest.mark.parametrize(
    ("operation", "path", "fits"),
    [
        ("GetRunLog", "/ga4gh/wes/v1/runs/1", True),
        ("GetRunLog", "/1.1.0/ga4gh/wes/v1/runs/1", True),
        ("GetRunLog", "/ga4gh/wes/v1/runs/1/status", False),
        ("GET /**/a/**/b", "/x/a/y/a/z/b", True),
        ("GET /**/a/**/b", "/x/a/y/b/z", False),
        ("GET /**", "/", True),
        ("GET /*", "/a/b", False),
    ],
)
def test_patterns(operation: str, path: str, fits: bool) -> None:
    faults = RequestFaults()
    faults.inject(RequestFault(operation, status=500), 1)
    assert (faults.match("GET", path) is not None) is fits
