"""The typed client against the whole server; the engine plays scripts."""

from pathlib import Path

import pytest

from wesemu.client import AsyncClient, ClientError
from wesemu.runs.model import RunState

MAPPING = {
    "workflow_type": "mapping",
    "mapping_bucket_name": "genes",
    "mapping_fastq_first_name": "fastq/a_1.fq.gz",
    "mapping_fastq_second_name": "fastq/a_2.fq.gz",
    "mapping_reference_file": "reference/tiny",
    "mapping_bam_file_name": "out/a.bam",
}
PARAMS = {
    "reads": [{"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}],
    "reference": "oss://genes/reference/tiny",
    "bam": "oss://genes/out/b.bam",
}


@pytest.fixture
def url(client) -> str:
    """The address of the server."""
    return str(client.make_url("/"))


@pytest.fixture
async def wesemu(url: str):
    async with AsyncClient(url) as connected:
        yield connected


async def ended(wesemu: AsyncClient, run_id: str):
    async for run in wesemu.wes.follow(run_id):
        last = run
    return last


async def test_a_job_of_ags_is_a_run_of_wes(wesemu: AsyncClient) -> None:
    name = await wesemu.ags.start(MAPPING)
    assert name.startswith("mapping-gpu-")
    [line] = await wesemu.wes.runs()
    assert name.endswith(line.handle)
    run = await ended(wesemu, line.id)
    assert run.state is RunState.COMPLETE
    assert run.outputs["bam"].published == "oss://genes/out/a.bam"
    job = await wesemu.ags.job(name)
    assert job.ended
    assert (job.status, job.total_reads, job.total_bases) == ("Succeeded", 4000, 600_000)
    assert job.request["mapping_bam_file_name"] == "out/a.bam"
    assert (job.sla_minutes, job.sla_price_cny, job.error) == ("60", "0.0003", None)


async def test_a_run_of_wes_is_a_job_of_ags(wesemu: AsyncClient) -> None:
    run_id = await wesemu.wes.submit("mapping", PARAMS, tags={"project": "p"})
    run = await ended(wesemu, run_id)
    assert run.tags["project"] == "p"
    assert (await wesemu.ags.jobs())[0].name == f"mapping-gpu-{run.handle}"
    assert await wesemu.wes.state(run_id) is RunState.COMPLETE


async def test_logs_and_outputs_come_down(wesemu: AsyncClient, tmp_path: Path) -> None:
    run = await ended(wesemu, await wesemu.wes.submit("mapping", PARAMS))
    assert [task.name for task in run.tasks] == ["align"]
    assert run.tasks_done == 1
    assert await wesemu.wes.text(run.tasks[0].stdout or "") == ""
    await wesemu.wes.download(run.outputs["bam"], tmp_path / "down.bam")
    assert (tmp_path / "down.bam").read_bytes() == b"BAM"
    rest = [chunk async for chunk in wesemu.wes.read(run.outputs["bam"].download_url, start=2)]
    assert b"".join(rest) == b"M"
    beyond = [chunk async for chunk in wesemu.wes.read(run.outputs["bam"].download_url, start=3)]
    assert beyond == []
    assert [path.name for path in tmp_path.glob("*down*")] == ["down.bam"]


async def test_attachments_go_up(wesemu: AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text("rule all: input: []\n")
    script = [{"write": "a.txt", "text": "hello"}]
    run_id = await wesemu.wes.submit(
        "Snakefile", {"script": script}, attachments=[("Snakefile", tmp_path / "Snakefile")]
    )
    run = await ended(wesemu, run_id)
    assert run.state is RunState.COMPLETE, run.error
    assert list(run.outputs) == ["a.txt"]
    assert await wesemu.ags.jobs() == []


async def test_a_failure_tells_its_reason(wesemu: AsyncClient) -> None:
    run = await ended(wesemu, await wesemu.wes.submit("mapping", PARAMS | {"sample": "fail"}))
    assert run.state is RunState.EXECUTOR_ERROR
    assert "align" in (run.error or "")
    job = await wesemu.ags.job(f"mapping-gpu-{run.handle}")
    assert (job.status, job.error) == ("Failed", run.error)


@pytest.mark.parametrize("api", ["ags", "wes"])
async def test_runs_are_cancelled_and_removed(wesemu: AsyncClient, api: str) -> None:
    run_id = await wesemu.wes.submit("mapping", PARAMS | {"sample": "wait-for-ever"})
    name = (await wesemu.ags.jobs())[0].name
    with pytest.raises(ClientError) as refused:
        await wesemu.ags.remove(name)
    assert (refused.value.status, refused.value.code) == (409, "ErrorWorkflowRunning")
    await (wesemu.wes.cancel(run_id) if api == "wes" else wesemu.ags.cancel(name))
    assert (await ended(wesemu, run_id)).state is RunState.CANCELED
    await wesemu.ags.remove(name)
    assert await wesemu.wes.runs() == []


async def test_lists_are_read_over_pages_and_cut_at_a_limit(
    wesemu: AsyncClient, monkeypatch
) -> None:
    ids = [
        await wesemu.wes.submit("mapping", PARAMS | {"bam": f"oss://genes/{n}.bam"})
        for n in range(5)
    ]
    monkeypatch.setattr("wesemu.client.wes._PAGE", 2)
    assert [run.id for run in await wesemu.wes.runs()] == ids[::-1]
    assert [run.id for run in await wesemu.wes.runs(limit=3)] == ids[:1:-1]
    assert len(await wesemu.ags.jobs(limit=2)) == 2


async def test_service_info_comes_as_it_is(wesemu: AsyncClient) -> None:
    assert "1.1.0" in (await wesemu.wes.service_info())["supported_wes_versions"]


async def test_both_apis_refuse_in_their_own_words(wesemu: AsyncClient) -> None:
    with pytest.raises(ClientError, match="mapping_bucket_name") as by_ags:
        await wesemu.ags.start(MAPPING | {"mapping_bucket_name": "nowhere"})
    assert (by_ags.value.status, by_ags.value.code) == (404, "ErrorBucketNotFound")
    with pytest.raises(ClientError, match="no-such-workflow") as by_wes:
        await wesemu.wes.submit("no-such-workflow", {})
    assert (by_wes.value.status, by_wes.value.code) == (400, None)
    with pytest.raises(ClientError) as unknown:
        await wesemu.wes.run("../../etc/passwd")
    assert unknown.value.status == 404


async def test_an_injected_status_is_told_with_its_number_and_the_address(
    wesemu: AsyncClient,
) -> None:
    calls = {
        "ListRuns": wesemu.wes.runs,
        "StartWorkflow": lambda: wesemu.ags.start(MAPPING),
    }
    for operation, call in calls.items():
        await wesemu.control.add_fault({"operation": operation, "status": 503})
        with pytest.raises(ClientError, match=r"http://.* HTTP status 503 \(.*\)$") as refused:
            await call()
        assert refused.value.status == 503
        await wesemu.control.add_fault(
            {"operation": operation, "status": 503, "message": "come back later"}
        )
        with pytest.raises(ClientError, match=r"^come back later$"):
            await call()


async def test_nobody_at_home_is_a_client_error_without_status() -> None:
    async with AsyncClient("http://127.0.0.1:1") as client:
        with pytest.raises(ClientError, match="wesemu serve") as refused:
            await client.wes.runs()
    assert refused.value.status is None


async def test_another_program_at_the_address_is_reported(aiohttp_server) -> None:
    from aiohttp import web

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/{any:.*}", page)
    server = await aiohttp_server(app)
    async with AsyncClient(str(server.make_url("/"))) as client:
        with pytest.raises(ClientError, match="is it a wesemu server"):
            await client.ags.jobs()


@pytest.mark.parametrize("address", ["", "ftp://x", "http://", "http://[::1"])
async def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ClientError, match="not the address of a server"):
        async with AsyncClient(address):
            pass
