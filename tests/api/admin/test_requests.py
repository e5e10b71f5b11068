"""The log of requests: what clients sent, and which fields the server ignored."""

import asyncio

import pytest

MAPPING = {
    "workflow_type": "mapping",
    "mapping_bucket_name": "genes",
    "mapping_fastq_first_name": "fastq/a_1.fq.gz",
    "mapping_fastq_second_name": "fastq/a_2.fq.gz",
    "mapping_reference_file": "reference/tiny",
    "mapping_bam_file_name": "out/a.bam",
}


async def logged(client) -> list[dict]:
    return (await (await client.get("/_wesemu/requests")).json())["requests"]


async def test_a_job_is_logged_with_the_fields_that_nothing_read(client) -> None:
    sent = MAPPING | {"mapping_bam_fiel_name": "typo.bam", "wgs_vcf_file_name": "", "vpc": "x"}
    async with client.post("/gs/workflow", json=sent, headers={"User-Agent": "tool/1"}):
        pass
    [entry] = await logged(client)
    assert entry["unread"] == ["mapping_bam_fiel_name", "vpc"]
    assert (entry["operation"], entry["status"], entry["owner"]) == ("StartWorkflow", 200, "local")
    assert (entry["method"], entry["path"], entry["client"]) == ("POST", "/gs/workflow", "tool/1")
    assert entry["milliseconds"] > 0
    assert entry["error"] is None


@pytest.mark.parametrize("how", ["data", "json"])
async def test_unknown_fields_of_a_run_are_unread(client, how: str) -> None:
    fields = {"workflow_url": "mapping", "workflow_prams": "{}"}
    async with client.post("/ga4gh/wes/v1/runs", **{how: fields}) as response:
        assert response.status == 400
    [entry] = await logged(client)
    assert entry["operation"] == "RunWorkflow"
    assert entry["unread"] == ["workflow_prams"]
    assert "reads" in entry["error"]


async def test_unknown_parts_of_a_form_are_unread(client) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="tag"\r\n\r\n{}\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with client.post("/ga4gh/wes/v1/runs", data=form, headers=headers) as response:
        assert response.status == 400
    assert (await logged(client))[-1]["unread"] == ["tag"]


async def test_operations_of_oss_and_paths_without_a_name_are_logged(client) -> None:
    await client.put("/oss/inputs")
    await client.get("/oss/inputs/no-such-key")
    await client.get("/nowhere")
    await client.get("/_wesemu/health")
    entries = await logged(client)
    assert [(each["operation"], each["status"]) for each in entries] == [
        ("PutBucket", 200),
        ("GetObject", 404),
        ("GET /nowhere", 404),
    ]
    assert entries[1]["error"]


async def test_a_delete_and_a_reset_clear_the_log(client) -> None:
    await client.get("/gs/workflows")
    assert (await (await client.delete("/_wesemu/requests")).json()) == {"requests": []}
    await client.get("/gs/workflows")
    assert len(await logged(client)) == 1
    await client.post("/_wesemu/reset")
    assert await logged(client) == []


async def test_the_log_is_bounded(client, app) -> None:
    for _ in range(501):
        await client.get("/nowhere")
    assert len(await logged(client)) == 500


@pytest.mark.parametrize("path", ["//ga4gh/wes/v1/runs/", "/1.0.0/ga4gh/wes/v1//runs"])
async def test_surplus_slashes_do_not_change_the_operation(client, path: str) -> None:
    await client.post("/_wesemu/faults", json={"operation": "ListRuns", "status": 503})
    url = client.make_url("/").with_path(path)
    for status in (503, 200):
        async with client.session.get(url) as response:
            assert response.status == status
    assert [each["operation"] for each in await logged(client)] == ["ListRuns"] * 2


async def test_texts_that_are_not_utf_8_are_logged_with_escapes(client) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"GET /gs/workflows HTTP/1.0\r\nHost: localhost\r\nUser-Agent: caf\xe9\r\n\r\n")
    assert b" 200 OK" in await reader.read()
    writer.close()
    await writer.wait_closed()
    async with client.post("/gs/workflow", json=MAPPING | {"\ud800": "x"}) as response:
        assert response.status == 200
    first, second = await logged(client)
    assert (first["client"], second["unread"]) == ("caf\\udce9", ["\\ud800"])
    assert (await client.get("/ui/emulator")).status == 200
