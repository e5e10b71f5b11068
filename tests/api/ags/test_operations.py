"""The five operations of AGS: responses and their formats."""

import asyncio
import gzip
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import ClientResponse
from api.ags.conftest import MAPPING, WGS, Client, Reach, Start, reads

from wesemu.runs.clock import ManualClock
from wesemu.runs.model import LOCAL_OWNER, JsonObject, Owner, RunRequest, RunState
from wesemu.runs.service import RunService
from wesemu.testing.fake_engine import ScriptedEngine

pytestmark = pytest.mark.usefixtures("bucket")

HANDLE = r"-gpu-[bcdfghjklmnpqrstvwxz2456789]{5}"


async def described(client: Client, name: str) -> dict[str, str]:
    response = await client.get(f"/gs/workflow/{name}")
    assert response.status == 200
    assert response.content_type == "application/json"
    answer = await response.json()
    assert all(isinstance(value, str) for value in answer.values())
    return dict(answer)


async def listed(client: Client, query: str = "") -> list[dict[str, str]]:
    response = await client.get(f"/gs/workflows{query}")
    assert response.status == 200
    answer = await response.json()
    assert answer.keys() == {"jobs"}
    return list(answer["jobs"])


async def test_a_job_s_name_tells_its_type(start: Start) -> None:
    assert re.fullmatch("mapping" + HANDLE, await start(MAPPING))
    assert re.fullmatch("wgs" + HANDLE, await start(WGS))


@pytest.mark.parametrize("content_type", ["application/octet-stream", "text/plain", ""])
async def test_the_body_is_json_whatever_its_content_type(
    client: Client, content_type: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await client.post("/gs/workflow", data=json.dumps(WGS).encode(), headers=headers)
    assert response.status == 200


@pytest.mark.parametrize("as_json", [True, False])
async def test_the_typed_requests_of_the_java_sdk_wrap_the_body(
    client: Client, start: Start, reach: Reach, as_json: bool
) -> None:
    """`setBody` of aliyun-java-sdk-cs sends a form, or JSON if the content type is JSON."""

    async def send(method: str, path: str, body: JsonObject) -> ClientResponse:
        wrapped = {"body": json.dumps(body)}
        sent = {"json": wrapped} if as_json else {"data": wrapped}
        return await client.request(method, path, **sent)

    response = await send("POST", "/gs/workflow", WGS | reads("wait-1"))
    assert response.status == 200
    name = (await response.json())["JobName"]
    assert (await send("PUT", f"/gs/workflow/{name}", {"action": "cancel"})).status == 200
    await reach(name, RunState.CANCELED)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"body=", "not JSON"),
        (b"body=%5B%5D", "not an object"),
        (b"body=%7B%7D&more=1", "not JSON"),
        ("body=ü".encode(), "not UTF-8"),
        (b"body=" + b"%5B" * 100_000, "nested too deeply"),
        (b'{"body": "[]"}', "not an object"),
        (b'{"body": "{"}', "not JSON"),
        (b'{"body": 1}', "workflow_type"),
        (b'{"body": "{}", "more": 1}', "workflow_type"),
    ],
)
async def test_a_wrapped_body_is_checked_as_well(client: Client, body: bytes, reason: str) -> None:
    response = await client.post("/gs/workflow", data=body)
    answer = await response.json()
    assert (response.status, answer["Code"]) == (400, "InvalidParameter")
    assert reason in answer["Message"]


async def test_a_finished_wgs_job_is_described_in_full(
    client: Client,
    start: Start,
    reach: Reach,
    clock: ManualClock,
    engine: ScriptedEngine,
    bucket: Path,
) -> None:
    name = await start(WGS | reads("wait-1") | {"wgs_bam_file_name": "bam/a.bam"})
    await reach(name, RunState.RUNNING)
    clock.advance(timedelta(minutes=12, seconds=25, milliseconds=600))
    engine.release("wait-1")
    await reach(name)
    told = await described(client, name)
    assert re.fullmatch(r"[1-9][0-9]{15}", told.pop("job_namespace"))
    assert told == {
        "create_time": "2020-01-15 16:30:25 +0800 CST",
        "duration": "12m25s",
        "finish_time": "2020-01-15 16:42:50 +0800 CST",
        "input_data_size": "10",
        "job_name": name,
        "output_data_size": "9",
        "status": "Succeeded",
        "total_bases": "600000",
        "total_reads": "4000",
        "user_input_data": '{"wgs_oss_region":"cn-shenzhen",'
        '"wgs_fastq_first_name":"fastq/wait-1_1.fq.gz",'
        '"wgs_fastq_second_name":"fastq/wait-1_2.fq.gz","wgs_bucket_name":"genes",'
        '"wgs_vcf_file_name":"vcf/a.vcf","wgs_bam_file_name":"bam/a.bam",'
        '"wgs_reference_file":"reference/tiny","wgs_service":"g"}',
        "sla_bases": "600000",
        "sla_minutes": "45",
        "sla_price_cny": "0.0009",
        "sla_deadline": "2020-01-15 17:15:25 +0800 CST",
        "sla_met": "true",
        "sla_charged_cny": "0.0009",
        "real_seconds": "0.000",
        "node": "cpu",
    }
    assert (bucket / "vcf" / "a.vcf").read_text() == "VCF"
    assert (bucket / "bam" / "a.bam").read_text() == "BAM"


async def test_a_running_job_s_duration_grows(
    client: Client, start: Start, reach: Reach, clock: ManualClock
) -> None:
    name = await start(WGS | reads("wait-1"))
    await reach(name, RunState.RUNNING)
    clock.advance(timedelta(hours=1, minutes=15, seconds=33, microseconds=529968))
    told = await described(client, name)
    assert told["duration"] == "1h15m33.529968s"
    assert told["status"] == "Running"
    assert told["finish_time"] == "0001-01-01 00:00:00 +0000 UTC"
    assert (told["total_reads"], told["total_bases"], told["output_data_size"]) == ("0", "0", "0")
    assert "sla_minutes" not in told


async def test_a_job_that_waits_is_pending(
    client: Client, start: Start, reach: Reach, clock: ManualClock
) -> None:
    await reach(await start(WGS | reads("wait-1")), RunState.RUNNING)
    name = await start(WGS | reads("wait-1") | {"wgs_vcf_File_name": "vcf/b.vcf"})
    clock.advance(timedelta(minutes=1))
    told = await described(client, name)
    assert (told["status"], told["duration"]) == ("Pending", "0s")


async def test_a_failed_job_says_why(
    client: Client, start: Start, reach: Reach, bucket: Path
) -> None:
    name = await start(WGS | reads("fail"))
    await reach(name, RunState.EXECUTOR_ERROR)
    told = await described(client, name)
    assert told["status"] == "Failed"
    assert told["error_message"]
    assert told["finish_time"].startswith("2020-01-15 16:30:25")
    assert not (bucket / "vcf").exists()


async def test_jobs_are_listed_newest_first(
    client: Client, start: Start, reach: Reach, clock: ManualClock
) -> None:
    first = await start(MAPPING)
    await reach(first)
    clock.advance(timedelta(seconds=27))
    second = await start(WGS)
    await reach(second)
    jobs = await listed(client)
    cluster = jobs[0]["cluster_id"]
    assert re.fullmatch("c[0-9a-f]{32}", cluster)
    assert jobs == [
        {
            "cluster_id": cluster,
            "job_name": second,
            "create_time": "2020-01-15T08:30:52Z",
            "status": "Succeeded",
        },
        {
            "cluster_id": cluster,
            "job_name": first,
            "create_time": "2020-01-15T08:30:25Z",
            "status": "Succeeded",
        },
    ]
    assert [job["job_name"] for job in await listed(client, "?limit=1")] == [second]
    assert len(await listed(client, "?limit=7&RegionId=cn-shenzhen")) == 2


async def test_an_empty_list_is_a_list(client: Client) -> None:
    assert await listed(client) == []


@pytest.mark.parametrize("limit", ["0", "-1", "x", "²", "1.5"])
async def test_a_limit_is_a_number_from_one_on(client: Client, limit: str) -> None:
    response = await client.get("/gs/workflows", params={"limit": limit})
    assert response.status == 400
    assert (await response.json())["Code"] == "InvalidParameter"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("limit=1", "limit=2"),
        ("Format=XML", "Format=JSON"),
        ("Format=JSON", "format=XML"),
        ("Format=JSON", "Format="),
        ("Action=StartWorkflow", "Action=RemoveWorkflow"),
        ("SignatureNonce=1", "SignatureNonce=2"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE"])
async def test_a_parameter_with_two_values_is_refused(
    client: Client, start: Start, method: str, first: str, second: str
) -> None:
    name = await start(MAPPING)
    path = {"POST": "/gs/workflow", "GET": "/gs/workflows"}.get(method, f"/gs/workflow/{name}")
    body = {"POST": WGS, "PUT": {"action": "cancel"}}.get(method)
    response = await client.request(method, f"{path}?{first}&{second}", json=body)
    assert response.status == 400
    text, parameter = await response.text(), second.partition("=")[0]
    assert "InvalidParameter" in text
    assert f"{parameter}: it has two values" in text
    assert len(await listed(client)) == 1  # it started nothing
    response = await client.get(f"/gs/workflow/{name}?{first}&{first}")
    assert response.status == 200


async def test_a_compressed_body_is_refused_and_named(client: Client) -> None:
    body = gzip.compress(b'{"workflow_type": "wgs"}')
    headers = {"Content-Encoding": "gzip"}
    response = await client.post("/gs/workflow", data=body, headers=headers)
    assert response.status == 400
    assert "Content-Encoding" in (await response.json())["Message"]


async def test_more_jobs_than_a_page_are_all_listed(
    client: Client, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wesemu.api.ags.routes._PAGE", 2)
    names = [await start(WGS | {"wgs_vcf_File_name": f"{n}.vcf"}) for n in range(5)]
    assert [job["job_name"] for job in await listed(client)] == names[::-1]
    assert [job["job_name"] for job in await listed(client, "?limit=3")] == names[:1:-1]


async def test_a_client_of_http_1_0_gets_an_empty_body_too(client: Client, start: Start) -> None:
    name = await start(WGS | reads("wait-1"))
    reader, writer = await asyncio.open_connection(client.host, client.port)
    body = b'{"action":"cancel"}'
    head = f"PUT /gs/workflow/{name} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.0 200 OK")
    assert answer.endswith(b"\r\n\r\n")


async def test_cancelling_answers_with_an_empty_body(
    client: Client, start: Start, reach: Reach, clock: ManualClock
) -> None:
    name = await start(WGS | reads("wait-1"))
    await reach(name, RunState.RUNNING)
    clock.advance(timedelta(seconds=90))
    response = await client.put(f"/gs/workflow/{name}", json={"action": "cancel"})
    assert (response.status, await response.read()) == (200, b"")
    await reach(name, RunState.CANCELED)
    told = await described(client, name)
    assert (told["status"], told["duration"]) == ("Failed", "1m30s")


async def test_a_job_that_waits_can_be_cancelled(
    client: Client, start: Start, reach: Reach
) -> None:
    await reach(await start(WGS | reads("wait-1")), RunState.RUNNING)
    name = await start(WGS | reads("wait-1") | {"wgs_vcf_File_name": "vcf/b.vcf"})
    await client.put(f"/gs/workflow/{name}", json={"action": "cancel"})
    told = await described(client, name)
    assert (told["status"], told["duration"]) == ("Failed", "0s")


async def test_a_cancelled_job_says_so(client: Client, start: Start, reach: Reach) -> None:
    name = await start(WGS | reads("wait-1"))
    await reach(name, RunState.RUNNING)
    assert (await client.put(f"/gs/workflow/{name}", json={"action": "cancel"})).status == 200
    await reach(name, RunState.CANCELED)
    told = await described(client, name)
    assert (told["status"], told["error_message"]) == ("Failed", "the workflow was cancelled")


async def test_a_job_that_is_being_cancelled_is_not_removed(
    client: Client, start: Start, reach: Reach, runs: RunService, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await start(WGS | reads("wait-1"))
    run = await reach(name, RunState.RUNNING)
    monkeypatch.setattr(runs._dispatcher, "cancel", lambda run_id: None)
    await client.put(f"/gs/workflow/{name}", json={"action": "cancel"})
    for path in (f"/gs/workflow/{name}", f"/ga4gh/wes/v1/runs/{run.id}?purge=true"):
        response = await client.delete(path)
        assert response.status == 409
        assert "is being cancelled; remove it once it has ended" in await response.text()


async def test_cancelling_a_job_that_has_ended_changes_nothing(
    client: Client, start: Start, reach
) -> None:
    name = await start(MAPPING)
    await reach(name)
    response = await client.put(f"/gs/workflow/{name}", json={"action": "cancel"})
    assert response.status == 200
    assert (await described(client, name))["status"] == "Succeeded"


@pytest.mark.parametrize("body", [{"action": "pause"}, {}, {"action": None}, {"Action": "cancel"}])
async def test_cancel_is_the_only_action(
    client: Client, start: Start, reach: Reach, body: JsonObject
) -> None:
    name = await start(WGS | reads("wait-1"))
    response = await client.put(f"/gs/workflow/{name}", json=body)
    assert response.status == 400
    assert "action" in (await response.json())["Message"]
    await reach(name, RunState.RUNNING)


async def test_a_running_job_cannot_be_removed(client: Client, start: Start, reach: Reach) -> None:
    name = await start(WGS | reads("wait-1"))
    await reach(name, RunState.RUNNING)
    response = await client.delete(f"/gs/workflow/{name}")
    assert response.status == 409
    assert (await response.json())["Code"] == "ErrorWorkflowRunning"
    assert (await described(client, name))["status"] == "Running"


async def test_removing_forgets_the_job_and_keeps_its_results(
    client: Client, start: Start, reach: Reach, bucket: Path
) -> None:
    name = await start(MAPPING)
    await reach(name)
    response = await client.delete(f"/gs/workflow/{name}")
    assert (response.status, await response.read()) == (200, b"")
    assert (await client.get(f"/gs/workflow/{name}")).status == 404
    assert await listed(client) == []
    assert (bucket / "output" / "bamDirName" / "abc.bam").read_text() == "BAM"


async def test_the_index_lies_beside_the_bam(
    client: Client, start: Start, reach: Reach, bucket: Path
) -> None:
    name = await start(MAPPING)
    await reach(name, RunState.COMPLETE)
    assert (bucket / "output" / "bamDirName" / "abc.bam.bai").read_text() == "BAI"
    assert (await described(client, name))["output_data_size"] == "6"


async def test_a_run_that_came_in_over_wes_is_a_job_too(
    client: Client, runs: RunService, other_bucket: Path
) -> None:
    lane = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
    params = {
        "reads": [lane],
        "reference": "oss://genes/reference/tiny",
        "vcf": "oss://other/vcf/a.vcf.gz",
        "service": "p",
        "markdup": False,
    }
    run = await runs.submit(LOCAL_OWNER, RunRequest("wgs", params=params))
    told = await described(client, f"wgs-gpu-{run.handle}")
    assert json.loads(told["user_input_data"]) == {
        "wgs_fastq_first_name": "fastq/a_1.fq.gz",
        "wgs_fastq_second_name": "fastq/a_2.fq.gz",
        "wgs_bucket_name": "genes",
        "wgs_vcf_file_name": "oss://other/vcf/a.vcf.gz",
        "wgs_reference_file": "reference/tiny",
        "wgs_mark_dup": "false",
        "wgs_service": "p",
    }


async def test_jobs_of_others_are_neither_listed_nor_found(
    client: Client, runs: RunService
) -> None:
    lane = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
    params = {"reads": [lane], "reference": "oss://genes/reference/tiny"}
    run = await runs.submit(Owner("somebody"), RunRequest("mapping", params=params))
    assert await listed(client) == []
    name = f"mapping-gpu-{run.handle}"
    for call in (client.get, client.delete):
        response = await call(f"/gs/workflow/{name}")
        assert response.status == 404
        assert (await response.json())["Code"] == "ErrorWorkflowNotFound"
    response = await client.put(f"/gs/workflow/{name}", json={"action": "cancel"})
    assert response.status == 404


@pytest.mark.parametrize("name", ["nothing", "wgs-gpu-zzzzz", "wgs-gpu-", "rna-gpu-bbbbb", "a%20b"])
async def test_an_unknown_job_is_not_found(client: Client, name: str) -> None:
    response = await client.get(f"/gs/workflow/{name}")
    assert response.status == 404
    assert (await response.json())["Code"] == "ErrorWorkflowNotFound"


async def test_a_job_is_not_found_under_another_type(client: Client, start: Start) -> None:
    name = await start(MAPPING)
    assert (await client.get(f"/gs/workflow/{name.replace('mapping', 'wgs')}")).status == 404


async def test_a_folder_of_lanes_is_one_job(
    client: Client, start: Start, reach: Reach, bucket: Path
) -> None:
    for lane in ("L1", "L2"):
        (bucket / "fastq" / "S1" / lane).mkdir(parents=True)
        for mate in (1, 2):
            (bucket / "fastq" / "S1" / lane / f"x_{lane}_{mate}.fq.gz").write_bytes(b"12345")
    both = {"wgs_fastq_first_name": "fastq/S1", "wgs_fastq_second_name": "fastq/S1"}
    name = await start(WGS | both)
    await reach(name, RunState.COMPLETE)
    assert (await described(client, name))["input_data_size"] == "20"
