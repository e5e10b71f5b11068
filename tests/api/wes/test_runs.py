"""The routes of runs and tasks: states, logs, tags, paging, cancel, purge."""

import hashlib
from datetime import UTC, datetime

import pytest
from api.wes.fixtures import Client, Ended, Submit, fetch, fetch_text

from wesemu.api.wes.responses import task_log
from wesemu.runs.model import RunState, TaskDetails, TaskLog, TaskState
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

RUNS = "/ga4gh/wes/v1/runs"

SCRIPT = [
    {"task": "align", "stdout": "out\n", "stderr": "err\n", "wildcards": {"sample": "a"}},
    {"write": "results/a b.txt", "text": "0123456789"},
]


async def test_a_whole_life(wes: Client, submit: Submit, ended: Ended) -> None:
    run_id = await submit(SCRIPT, tags={"project": "x"}, workflow_type_version="9")
    await ended(run_id)
    assert await fetch(wes, f"{RUNS}/{run_id}/status") == {"run_id": run_id, "state": "COMPLETE"}
    log = await fetch(wes, f"{RUNS}/{run_id}")
    url = f"http://{wes.host}:{wes.port}{RUNS}/{run_id}"
    handle = log["wesemu"]["handle"]
    assert log == {
        "run_id": run_id,
        "state": "COMPLETE",
        "request": {
            "workflow_params": {"script": SCRIPT},
            "workflow_type": "SMK",
            "workflow_type_version": "9",
            "workflow_url": "Snakefile",
            "tags": {
                "project": "x",
                "wesemu.handle": handle,
                "wesemu.node": "cpu",
                "wesemu.real.seconds": "0.000",
                "wesemu.sla.level": "s",
                "wesemu.workflow": "Snakefile",
            },
            "workflow_engine_parameters": {},
        },
        "run_log": {
            "name": "Snakefile",
            "stdout": f"{url}/stdout",
            "stderr": f"{url}/stderr",
            "start_time": "2020-01-15T08:30:25Z",
            "end_time": "2020-01-15T08:30:25Z",
            "exit_code": 0,
        },
        "task_logs": [
            {
                "id": "1-1",
                "name": "align",
                "cmd": ["play align"],
                "start_time": "2020-01-15T08:30:25Z",
                "end_time": "2020-01-15T08:30:25Z",
                "exit_code": 0,
                "stdout": f"{url}/tasks/1-1/stdout",
                "stderr": f"{url}/tasks/1-1/stderr",
                "system_logs": [
                    "state: COMPLETE",
                    "attempt: 1",
                    "wildcard sample: a",
                    "threads: 1",
                ],
            }
        ],
        "task_logs_url": f"{url}/tasks",
        "outputs": {
            "results/a b.txt": {
                "url": f"{url}/outputs/results/a%20b.txt",
                "size": 10,
                "sha256": hashlib.sha256(b"0123456789").hexdigest(),
            },
        },
        "wesemu": {"handle": handle, "state": "COMPLETE", "created": "2020-01-15T08:30:25Z"},
    }


async def test_reads_and_service_level_are_tags(wes: Client, submit: Submit, ended: Ended) -> None:
    run_id = await submit(
        workflow_url="mapping",
        workflow_params={
            "reads": [
                {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
            ],
            "reference": "oss://genes/reference/tiny",
            "service": "g",
            "bam": "oss://genes/out/a.bam",
        },
    )
    await ended(run_id)
    log = await fetch(wes, f"{RUNS}/{run_id}")
    assert log["state"] == "COMPLETE"
    tags = log["request"]["tags"]
    assert tags["wesemu.total_reads"] == "4000"
    assert tags["wesemu.total_bases"] == "600000"
    assert tags["wesemu.sla.level"] == "g"
    assert tags["wesemu.sla.minutes"] == "45"
    assert tags["wesemu.sla.price_cny"] == "0.00045"
    assert tags["wesemu.sla.deadline"] == "2020-01-15T09:15:25Z"
    assert tags["wesemu.sla.met"] == "true"
    assert log["run_log"]["name"] == "mapping"
    assert log["outputs"]["bam"]["published"] == "oss://genes/out/a.bam"


async def test_a_queued_run_has_no_times_tasks_or_outputs(
    wes: Client, submit: Submit, ended: Ended, engine: ScriptedEngine
) -> None:
    first = await submit([{"wait": "gate"}], workflow_engine_parameters={"cores": "2"})
    queued = await submit([])
    log = await fetch(wes, f"{RUNS}/{queued}")
    assert log["state"] == "QUEUED"
    assert set(log["run_log"]) == {"name", "stdout", "stderr"}
    assert log["outputs"] == {}
    assert log["task_logs"] == []
    engine.release("gate")
    await ended(first)
    await ended(queued)


async def test_a_failure_is_shown_where_clients_look(
    wes: Client, submit: Submit, ended: Ended
) -> None:
    run_id = await submit([{"task": "align", "exit_code": 3, "stderr": "no such read\n"}])
    await ended(run_id)
    log = await fetch(wes, f"{RUNS}/{run_id}")
    message = "the task align ended with exit status 3"
    assert log["state"] == "EXECUTOR_ERROR"
    assert log["request"]["tags"]["wesemu.error"] == message
    assert log["run_log"]["system_logs"][0] == message
    error = log["wesemu"]["error"]
    assert (error["message"], error["task"], error["exit_code"]) == (message, "align", 3)
    assert await fetch_text(wes, error["stderr"]) == "no such read\n"


@pytest.mark.parametrize("how", ["DELETE", "POST"])
async def test_both_ways_to_cancel(wes: Client, submit: Submit, ended: Ended, how: str) -> None:
    run_id = await submit([{"wait": "never"}])
    path = f"{RUNS}/{run_id}" + ("/cancel" if how == "POST" else "")
    async with wes.request(how, path) as answer:
        assert (answer.status, await answer.json()) == (200, {"run_id": run_id})
    assert (await ended(run_id)).state is RunState.CANCELED
    async with wes.request(how, path) as answer:
        assert answer.status == 200
    assert (await fetch(wes, f"{RUNS}/{run_id}/status"))["state"] == "CANCELED"


async def test_pages_hold_every_run_once(wes: Client, submit: Submit) -> None:
    sent = [await submit([]) for _ in range(5)]
    seen: list[str] = []
    token = ""
    for expected in (2, 2, 1):
        page = await fetch(wes, RUNS, page_size="2", page_token=token)
        assert len(page["runs"]) == expected
        seen += [run["run_id"] for run in page["runs"]]
        token = page["next_page_token"]
    assert token == ""
    assert seen == sent[::-1]


async def test_a_listed_run_is_a_summary(wes: Client, submit: Submit, ended: Ended) -> None:
    run_id = await submit([], tags={"project": "x"})
    await ended(run_id)
    [listed] = (await fetch(wes, RUNS))["runs"]
    assert listed["run_id"] == run_id
    assert listed["start_time"] == listed["end_time"] == "2020-01-15T08:30:25Z"
    assert listed["tags"]["project"] == "x"


@pytest.mark.parametrize("query", ["page_size=1&page_size=2", "page_token=a&page_token=b"])
async def test_a_parameter_with_two_values_is_400(wes: Client, query: str) -> None:
    response = await wes.get(f"{RUNS}?{query}")
    assert response.status == 400
    assert "two values" in (await response.json())["msg"]


@pytest.mark.parametrize("size", ["0", "-1", "00", "1.5", "x", "\u0663", "1_0", "-" + "9" * 30])
async def test_a_senseless_page_size_is_400(wes: Client, size: str) -> None:
    body = await fetch(wes, RUNS, 400, page_size=size)
    assert "page_size" in body["msg"]


@pytest.mark.parametrize("size", ["1000000000", "9" * 5000, "+7", ""])
async def test_a_huge_page_size_is_as_good_as_the_largest(
    wes: Client, submit: Submit, size: str
) -> None:
    run_id = await submit([])
    page = await fetch(wes, RUNS, page_size=size)
    assert [run["run_id"] for run in page["runs"]] == [run_id]


@pytest.mark.parametrize("token", ["x", "AAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAA", "é", "%00", "=" * 9])
async def test_a_forged_page_token_is_400(wes: Client, submit: Submit, token: str) -> None:
    await submit([])
    assert "page_token" in (await fetch(wes, RUNS, 400, page_token=token))["msg"]


async def test_a_page_token_is_good_for_its_own_list_only(wes: Client, submit: Submit) -> None:
    ids = [await submit([]) for _ in range(2)]
    token = (await fetch(wes, RUNS, page_size="1"))["next_page_token"]
    await fetch(wes, f"{RUNS}/{ids[0]}/tasks", 404, page_token=token)


async def test_a_page_of_tasks_that_is_not_there_is_404(wes: Client, submit: Submit) -> None:
    run_id = await submit([])
    for query in ({"page_size": "0"}, {"page_size": "-1"}, {"page_token": "x"}):
        body = await fetch(wes, f"{RUNS}/{run_id}/tasks", 404, **query)
        assert next(iter(query)) in body["msg"]


async def test_tasks_page_as_the_run_log_lists_them(
    wes: Client, submit: Submit, ended: Ended
) -> None:
    run_id = await submit([{"task": name} for name in "abcde"])
    await ended(run_id)
    log = await fetch(wes, f"{RUNS}/{run_id}")
    first = await fetch(wes, f"{RUNS}/{run_id}/tasks", page_size="3")
    second = await fetch(wes, f"{RUNS}/{run_id}/tasks", page_token=first["next_page_token"])
    assert len(first["task_logs"]) == 3
    assert second["next_page_token"] == ""
    assert first["task_logs"] + second["task_logs"] == log["task_logs"]
    task = first["task_logs"][1]
    assert await fetch(wes, f"{RUNS}/{run_id}/tasks/{task['id']}") == task
    whole = await fetch(wes, f"{RUNS}/{run_id}/tasks", page_size="5")
    assert (whole["task_logs"], whole["next_page_token"]) == (log["task_logs"], "")


async def test_a_task_has_one_id_only(wes: Client, submit: Submit, ended: Ended) -> None:
    run_id = await submit([{"task": "a"}])
    await ended(run_id)
    tasks = await fetch(wes, f"{RUNS}/{run_id}/tasks")
    number, attempt = tasks["task_logs"][0]["id"].rsplit("-", 1)
    for other in (f"{number}-0{attempt}", f"{number}-+{attempt}", f"{number}-{attempt}.0", number):
        await fetch(wes, f"{RUNS}/{run_id}/tasks/{other}", 404)


@pytest.mark.parametrize("task", ["9-9", "%00", "x" * 300, "..%2f..%2fetc"])
async def test_an_unknown_task_is_404(wes: Client, submit: Submit, task: str) -> None:
    run_id = await submit([{"task": "a"}])
    async with wes.get(f"{RUNS}/{run_id}/tasks/{task}") as answer:
        assert answer.status == 404
        assert (await answer.json())["status_code"] == 404


async def test_a_run_that_has_ended_can_be_forgotten(
    wes: Client, submit: Submit, ended: Ended, settings: Settings, engine: ScriptedEngine
) -> None:
    run_id = await submit([{"wait": "gate"}])
    url = f"{RUNS}/{run_id}"
    for query, status in (("purge=true", 409), ("purge=maybe", 400)):
        async with wes.delete(f"{url}?{query}") as answer:
            assert answer.status == status
    engine.release("gate")
    assert (await ended(run_id)).state is RunState.COMPLETE
    async with wes.delete(f"{url}?purge=false") as answer:
        assert answer.status == 200
    await fetch(wes, url)
    async with wes.delete(f"{url}?purge=true") as answer:
        assert (answer.status, await answer.json()) == (200, {"run_id": run_id})
    await fetch(wes, url, 404)
    assert (await fetch(wes, RUNS))["runs"] == []
    assert list((settings.data / "runs").iterdir()) == []


def test_a_task_tells_its_lease_and_its_files() -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    details = TaskDetails(
        ready=moment, cores=2, memory_mb=100, devices=(1,), read_bytes=512, written_bytes=0,
        inputs=("a.txt", "b c"), outputs=("d",), after=("1", "2"),
    )  # fmt: skip
    log = task_log(TaskLog("3", "sort", TaskState.RUNNING, details=details), "http://here/runs/1")
    assert log["system_logs"] == [
        "state: RUNNING",
        "attempt: 1",
        "ready: 2026-01-01T12:00:00.000000+00:00",
        "lease_cores: 2",
        "lease_memory_mb: 100",
        "read_bytes: 512",
        "written_bytes: 0",
        "devices: [1]",
        'after: ["1", "2"]',
        'inputs: ["a.txt", "b c"]',
        'outputs: ["d"]',
    ]
