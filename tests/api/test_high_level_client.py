"""AsyncClient and Client against the whole server; the engine plays scripts."""

import asyncio
import os
import resource
import signal
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from threading import enumerate as threads

import pytest
from aiohttp import web
from support.small_disk import small_disk

from wesemu.client import AsyncClient, Client, ClientError
from wesemu.client.async_client import workflow
from wesemu.client.sync_client import run_in_thread
from wesemu.client.transport import Transport
from wesemu.client.wes import Output
from wesemu.errors import InvalidRequest
from wesemu.runs.model import RunState

READS = ("fastq/a_1.fq.gz", "fastq/a_2.fq.gz")
SAMPLE = {"bucket": "genes", "reads": READS, "reference": "oss://genes/reference/tiny"}


@pytest.fixture
def there(client) -> AsyncClient:
    """A client without `async with`: each request has its own connection."""
    return AsyncClient(str(client.make_url("/")))


@pytest.fixture
def act(client):
    """Call a function with the sync client in a thread; the test's loop runs the server."""
    sync = Client(str(client.make_url("/")))

    async def call(function):
        return await asyncio.to_thread(function, sync)

    return call


async def test_a_bundled_pipeline_runs_and_its_results_come_down(
    there: AsyncClient, tmp_path: Path
) -> None:
    run = await there.run("mapping", **SAMPLE, bam="out/a.bam", tags={"project": "p"})
    seen: list[RunState] = []
    await run.wait(30, progress=lambda run: seen.append(run.state))
    assert seen[-1] is run.state is RunState.COMPLETE
    assert (run.counts.reads, run.counts.bases) == (4000, 600_000)
    assert (run.sla.minutes, run.sla.price_cny, run.sla.met) == (60, Decimal("0.0003"), True)
    bam = run.outputs["bam"]
    assert bam.url == "oss://genes/out/a.bam"
    assert await bam.download(tmp_path) == tmp_path / "a.bam"
    assert await bam.download(f"{tmp_path}/new/results/") == tmp_path / "new" / "results" / "a.bam"
    assert await bam.read() == (tmp_path / "a.bam").read_bytes() == b"BAM"
    assert run.tags["project"] == "p"
    assert await run.logs("align") == ""
    with pytest.raises(KeyError):
        await run.logs("no-such-task")
    assert (await there.get(run.tags["wesemu.handle"])).id == run.id
    assert "<td>COMPLETE</td>" in run._repr_html_()


async def test_a_download_to_a_full_disk_names_it(there: AsyncClient, tmp_path: Path) -> None:
    await there.bucket("genes").put("large", bytes(90000))
    with ExitStack() as mounts:
        disk = await asyncio.to_thread(mounts.enter_context, small_disk(tmp_path / "disk", "64k"))
        with pytest.raises(OSError, match=rf"No space left on device: '{disk}/large'"):
            await there.bucket("genes").download("large", disk)
        assert not await asyncio.to_thread(lambda: list(disk.iterdir()))
        await asyncio.to_thread(mounts.close)


async def test_a_wait_that_is_too_long_names_the_state(there: AsyncClient) -> None:
    run = await there.run("mapping", **SAMPLE, bam="out/a.bam", sample="wait-for-ever")
    with pytest.raises(TimeoutError, match=r"has not ended after 0\.2 s"):
        await run.wait(0.2)
    run.raise_for_state()
    await run.cancel()
    with pytest.raises(ClientError, match="ended as CANCELED"):
        (await run.wait(60)).raise_for_state()


async def test_buckets_store_and_list_objects(there: AsyncClient, tmp_path: Path) -> None:
    bucket = there.bucket("inputs")
    with pytest.raises(ClientError, match="bucket") as missing:
        await bucket.get("a")
    assert (missing.value.status, missing.value.code) == (404, "NoSuchBucket")
    await bucket.create()
    (tmp_path / "file").write_bytes(b"from a file")
    assert await bucket.put("a/b c+ä.txt", "text ä") == "oss://inputs/a/b c+ä.txt"
    await bucket.put("a/file", tmp_path / "file")
    await bucket.put("z", b"")
    assert await bucket.get("a/b c+ä.txt") == "text ä".encode()
    assert await bucket.download("a/file", tmp_path / "copy") == tmp_path / "copy"
    assert (tmp_path / "copy").read_bytes() == b"from a file"
    assert [(each.key, each.size) for each in await bucket.list("a/")] == [
        ("a/b c+ä.txt", 7),
        ("a/file", 11),
    ]
    await bucket.delete("z")
    assert len(await bucket.list()) == 2
    assert await there.buckets() == ["genes", "inputs"]


@pytest.mark.parametrize("key", ["", ".", "..", "a/../../genes/b", "a/./b"])
async def test_a_key_leads_to_no_other_object_and_no_bucket(there: AsyncClient, key: str) -> None:
    bucket = there.bucket("inputs")
    await bucket.create()
    with pytest.raises(InvalidRequest, match="cannot be a key"):
        await bucket.put(key, b"")
    with pytest.raises(InvalidRequest, match="cannot be a key"):
        await bucket.delete(key)
    assert await there.buckets() == ["genes", "inputs"]


@pytest.mark.parametrize("name", ["", "."])
async def test_what_is_no_name_is_refused(there: AsyncClient, name: str) -> None:
    for call in (
        there.get(name),
        there.wes.cancel(name),
        there.ags.job(name),
        there.bucket(name).list(),
        there.control.remove_reference(name),
    ):
        with pytest.raises(InvalidRequest, match="is not a name"):
            await call


async def test_messages_of_buckets_are_text(there: AsyncClient) -> None:
    with pytest.raises(ClientError, match="'a<b>&c'"):
        await there.bucket("a<b>&c").list()


async def test_clock_and_faults_are_controlled(there: AsyncClient) -> None:
    before = await there.clock.now()
    assert ((await there.clock.advance(minutes=80)) - before).total_seconds() >= 4800
    await there.faults.add(operation="RunWorkflow", status=503, message="later")
    assert len(await there.faults.pending()) == 1
    with pytest.raises(ClientError, match="later"):
        await there.submit("rule all:\n")
    await there.faults.add(next_run={"fails_at_task": 1})
    await there.faults.clear()
    assert await there.faults.pending() == []


async def test_a_failed_task_is_not_done(there: AsyncClient) -> None:
    run = await (await there.run("mapping", **SAMPLE, sample="fail", bam="out/a.bam")).wait(60)
    assert (len(run.tasks), run.detail.tasks_done) == (1, 0)


async def test_a_dry_run_is_no_run(there: AsyncClient) -> None:
    with pytest.raises(ValueError, match="run_workflow"):
        await there.submit("rule all:\n", engine_parameters={"dry_run": "true"})
    assert await there.runs() == []


async def test_the_sync_client_has_the_same_methods(act, tmp_path: Path) -> None:
    def story(client: Client) -> None:
        assert client.ready()
        states: list[RunState] = []
        run = client.run("mapping", **SAMPLE, bam="out/a.bam")
        run.wait(30, progress=lambda run: states.append(run.state))
        assert states[-1] is RunState.COMPLETE
        assert [each.state for each in run.follow()] == [RunState.COMPLETE]
        assert run.outputs["bam"].download(tmp_path / "x").read_bytes() == b"BAM"
        assert run.outputs["bam"].read() == b"BAM"
        assert client.get(run.id).state is RunState.COMPLETE
        assert [line.id for line in client.runs()] == [run.id]
        job = client.ags.job(client.ags.jobs()[0].name)
        assert job.total_reads == run.counts.reads
        assert client.requests()[0].operation == "RunWorkflow"
        assert client.requests()[0].client.startswith("wesemu-client/")
        bucket = client.bucket("more").create()
        assert bucket.put("k", b"v") == bucket.url("k")
        assert (bucket.get("k"), bucket.list()[0].size) == (b"v", 1)
        assert client.buckets() == ["genes", "more"]
        before = client.clock.now()
        client.clock.set_speed(0)
        assert (client.clock.advance(hours=1) - before).total_seconds() >= 3600
        client.faults.add(operation="ListRuns", status=500)
        with pytest.raises(ClientError):
            client.runs()
        run.remove()
        assert client.reset(buckets=True) == 0
        assert client.buckets() == []

    before = set(threads())
    await act(story)
    assert {each for each in threads() if each.name == "wesemu client"} <= before


async def test_a_sync_wait_times_out(act) -> None:
    def story(client: Client) -> None:
        run = client.run("mapping", **SAMPLE, bam="out/a.bam", sample="wait-for-ever")
        with pytest.raises(TimeoutError, match=r"has not ended after 0\.1 s"):
            run.wait(0.1)
        run.cancel()
        assert run.wait(60).state is RunState.CANCELED

    await act(story)


async def test_the_text_of_a_workflow_is_enough(there: AsyncClient) -> None:
    script = {"script": [{"write": "a.txt", "text": "hello"}]}
    run = await (await there.submit("rule all:\n    input: []\n", script)).wait(60)
    assert await run.outputs["a.txt"].read() == b"hello"


async def test_a_folder_may_have_more_files_than_a_process_may_open(
    there: AsyncClient, tmp_path: Path
) -> None:
    for number in range(100):
        (tmp_path / f"{number}.txt").write_text(str(number))
    (tmp_path / "Snakefile").write_text("rule all:\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "Snakefile").open() as file:  # it has the lowest free number
        lowest = file.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 50, hard))
    try:
        run = await there.submit(tmp_path, {"script": []})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (await run.wait(60)).state is RunState.COMPLETE


async def test_a_file_that_cannot_be_read_is_named_before_anything_is_sent(
    there: AsyncClient, tmp_path: Path
) -> None:
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        await there.submit("rule all:\n    input: []\n", files={"a": tmp_path})
    assert "RunWorkflow" not in {each.operation for each in await there.control.requests()}


@pytest.mark.parametrize("seconds", [0, 0.1], ids=["while it starts", "while it runs"])
@pytest.mark.parametrize("blocked", [set(), {signal.SIGUSR1}], ids=["", "in another thread"])
def test_ctrl_c_ends_a_call_and_its_thread(seconds: float, blocked: set[signal.Signals]) -> None:
    """`blocked` in the main thread: another one gets the signal, which ends no wait of this one."""
    cancelled: list[bool] = []

    async def call() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        if seconds:
            await asyncio.sleep(seconds)
        os.kill(os.getpid(), signal.SIGUSR1)  # Python's handler runs in the main thread
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    previous = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_thread(call())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR1, previous)
    assert cancelled == [True]
    assert [each for each in threads() if each.name == "wesemu client"] == []


def test_nobody_at_home_is_not_ready() -> None:
    client = Client("http://127.0.0.1:1")
    assert not client.ready()
    with pytest.raises(ClientError, match="wesemu serve"):
        client.runs()


def test_the_environment_names_the_server(monkeypatch) -> None:
    monkeypatch.setenv("WESEMU_SERVER", "http://there:1")
    assert Client().server == "http://there:1"
    monkeypatch.delenv("WESEMU_SERVER")
    assert Client().server == "http://127.0.0.1:8070"


def test_folders_files_and_urls_are_workflows(tmp_path: Path) -> None:
    (tmp_path / "workflow" / "rules").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ("workflow/Snakefile", "workflow/rules/a.smk", ".git/config", "main.cwl"):
        (tmp_path / name).write_text("x")
    folder = workflow(tmp_path, {}, {"more.txt": "x"}, None, None)
    assert folder.workflow_url == "workflow/Snakefile"
    assert [name for name, _ in folder.attachments] == [
        "main.cwl",
        "workflow/Snakefile",
        "workflow/rules/a.smk",
        "more.txt",
    ]
    cwl = workflow(tmp_path / "main.cwl", {}, {}, None, None)
    assert (cwl.workflow_url, cwl.workflow_type) == ("main.cwl", "CWL")
    url = workflow("https://example.org/Snakefile", {}, {}, None, None)
    assert (url.workflow_url, url.attachments) == ("https://example.org/Snakefile", ())
    with pytest.raises(FileNotFoundError, match="workflow/Snakefile"):
        workflow(tmp_path / "nowhere", {}, {}, None, None)


@pytest.mark.parametrize("name", ["..", ".", "a\nb", "a\\b", "\x1b[2J"])
async def test_a_servers_name_for_a_result_stays_in_the_folder(
    there: AsyncClient, tmp_path: Path, name: str
) -> None:
    result = Output("bam", "/ga4gh/wes/v1/service-info", 1, f"oss://genes/{name}", None)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InvalidRequest, match="file name"):
        await there.wes.download(result, folder)
    assert not [*folder.iterdir()]


async def test_downloads_to_one_file_do_not_mix(aiohttp_server, tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def send(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first " if request.path == "/first" else b"2nd ")
        if request.path == "/first":
            await begun.wait()  # until the other download has ended
        await response.write(b"end")
        return response

    app = web.Application()
    app.router.add_get("/{path}", send)
    client = AsyncClient(str((await aiohttp_server(app)).make_url("/")))
    target = tmp_path / ("n" * 255)
    slow = asyncio.create_task(client.wes.download(Output("a", "/first", 9, None, None), target))
    while not slow.done() and not [*tmp_path.iterdir()]:
        await asyncio.sleep(0.01)
    await client.wes.download(Output("b", "/second", 7, None, None), target)
    assert target.read_text() == "2nd end"
    begun.set()
    await slow
    assert target.read_text() == "first end"
    assert [*tmp_path.iterdir()] == [target]


async def test_a_result_without_a_bucket_has_its_own_name(
    there: AsyncClient, tmp_path: Path
) -> None:
    script = {"script": [{"write": "a b%20ä.txt", "text": "text"}]}
    run = await (await there.submit("rule all:\n", script)).wait(60)
    [result] = run.outputs.values()
    assert (await result.download(tmp_path)).name == "a b%20ä.txt"


async def test_the_token_goes_to_the_server_only(aiohttp_server, tmp_path: Path) -> None:
    """The addresses of results come in answers, so a server could name another host."""
    seen: list[tuple[str, str | None]] = []

    async def record(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("Authorization")))
        if request.path == "/leave":
            raise web.HTTPFound(str(other.make_url("/redirected")))
        return web.Response(text="content")

    def application() -> web.Application:
        app = web.Application()
        app.router.add_get("/{path}", record)
        return app

    other = await aiohttp_server(application())
    own = await aiohttp_server(application())
    async with AsyncClient(str(own.make_url("/")), token="secret") as client:
        for number, url in enumerate(
            (str(own.make_url("/own")), "/path", "/leave", str(other.make_url("/other")))
        ):
            output = Output("result", url, 7, None, None)
            target = await client.wes.download(output, tmp_path / str(number))
            assert target.read_text() == "content"
    assert seen == [
        ("/own", "Bearer secret"),
        ("/path", "Bearer secret"),
        ("/leave", "Bearer secret"),
        ("/redirected", None),
        ("/other", None),
    ]
    seen.clear()
    address = own.make_url("/").with_user("u").with_password("p")
    client = AsyncClient(str(address))
    for url in (str(own.make_url("/own")), "/path", str(other.make_url("/other"))):
        await client.wes.content(url)
    basic = "Basic dTpw"
    assert seen == [("/own", basic), ("/path", basic), ("/other", None)]


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("", "/ga4gh/wes/v1/service-info"),
        ("/", "/ga4gh/wes/v1/service-info"),
        ("/lab/wesemu", "/lab/wesemu/ga4gh/wes/v1/service-info"),
        ("/lab%20a/", "/lab%20a/ga4gh/wes/v1/service-info"),
        ("/ga4gh/wes/v1", "/ga4gh/wes/v1/service-info"),
        ("/lab/1.1.0/ga4gh/wes/v1/", "/lab/ga4gh/wes/v1/service-info"),
    ],
)
async def test_the_address_of_a_server_may_have_a_path(
    aiohttp_server, address: str, path: str
) -> None:
    """A proxy strips it. The path of an API, as other clients need it, is no such path."""

    async def show_path(request: web.Request) -> web.Response:
        return web.json_response({"path": request.raw_path})

    app = web.Application()
    app.router.add_get("/{path:.*}", show_path)
    server = await aiohttp_server(app)
    transport = Transport(f"http://{server.host}:{server.port}{address}")
    assert await transport.call("GET", "/ga4gh/wes/v1/service-info") == {"path": path}
    absolute = str(server.make_url("/elsewhere"))
    assert (
        b"".join([chunk async for chunk in transport.chunks(absolute)]) == b'{"path": "/elsewhere"}'
    )
