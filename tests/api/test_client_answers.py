"""The client against servers that answer anything, or late, or name other addresses."""

import asyncio
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from wesemu.client import AsyncClient, Client, ClientError, transport
from wesemu.client.wes import Output

ANSWERS = {
    "nothing": "",
    "an empty object": "{}",
    "a list": "[]",
    "text": "hello",
    "XML": "<Result><Contents><Key>a</Key></Contents></Result>",
    "other members": json.dumps(
        {
            "state": "LOST",
            "runs": [{}],
            "references": [{"name": "hg38", "state": "lost"}],
            "requests": [{}],
            "now": "today",
            "speed": "fast",
            "user_input_data": "no JSON",
            "outputs": {"a": {"size": "large"}},
        }
    ),
}

OPENSSL = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
)

Operation = Callable[[AsyncClient, Path], Awaitable[object]]

NEED_AN_ANSWER: dict[str, Operation] = {
    "a job": lambda client, file: client.ags.start({}),
    "a state": lambda client, file: client.wes.state("a"),
    "a run": lambda client, file: client.wes.run("a"),
    "a submission": lambda client, file: client.submit(file),
    "the time": lambda client, file: client.clock.now(),
    "an advance": lambda client, file: client.clock.advance(days=1),
    "a reference from a file": lambda client, file: client.control.add_reference("hg38", file),
    "a reference": lambda client, file: client.control.add_reference("hg38", "oss://a/b"),
}
ANY: dict[str, Operation] = {
    "job": lambda client, file: client.ags.job("a"),
    "jobs": lambda client, file: client.ags.jobs(),
    "runs": lambda client, file: client.runs(),
    "requests": lambda client, file: client.control.requests(),
    "clock": lambda client, file: client.control.clock(),
    "objects": lambda client, file: client.bucket("genes").list(),
    "buckets": lambda client, file: client.buckets(),
    "a snapshot": lambda client, file: client.control.load_snapshot(file),
}


@pytest.fixture
async def answering(aiohttp_server):
    """Return a function that starts a server with one answer for everything."""

    async def start(
        text: str, *, seconds: float = 0.0, tls: ssl.SSLContext | None = None
    ) -> AsyncClient:
        async def answer(request: web.Request) -> web.Response:
            await request.read()
            await asyncio.sleep(seconds)
            return web.Response(text=text)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        return AsyncClient(str((await aiohttp_server(app, ssl=tls)).make_url("/")))

    return start


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "Snakefile"
    path.write_text("rule all:\n")
    return path


@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS)
async def test_answers_of_other_servers_are_client_errors(answering, file: Path, text: str) -> None:
    client = await answering(text)
    for operation in NEED_AN_ANSWER.values():
        with pytest.raises(ClientError):
            await operation(client, file)
    for operation in ANY.values():
        with suppress(ClientError):  # any other error fails the test
            await operation(client, file)


@pytest.mark.parametrize(
    "url", ["", "http:", "http://[", "file:///etc/passwd", "s3://bucket/key", "mailto:a"]
)
async def test_an_output_without_an_http_address_is_named(
    answering, tmp_path: Path, url: str
) -> None:
    client = await answering("the home page")
    with pytest.raises(ClientError, match=r"names the address .*, which is no http URL"):
        await client.wes.download(Output("bam", url, 1, None, None), tmp_path / "a.bam")
    assert list(tmp_path.iterdir()) == []


async def test_another_server_that_does_not_answer_is_named(answering) -> None:
    client = await answering("")
    with pytest.raises(ClientError, match=r"no server answers at http://127\.0\.0\.1:1, to which"):
        await client.wes.content("http://127.0.0.1:1/a.bam")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
async def test_a_certificate_of_an_unknown_authority_is_named(answering, tmp_path: Path) -> None:
    await asyncio.to_thread(subprocess.run, OPENSSL.split(), cwd=tmp_path, check=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = (await answering("{}", tls=context)).server
    client = AsyncClient(server.replace("127.0.0.1", "localhost"))
    with pytest.raises(ClientError, match=r"certificate of https://localhost.* SSL_CERT_FILE"):
        await client.control.info()


async def test_a_server_without_tls_is_named(answering) -> None:
    server = (await answering("")).server.replace("http://", "https://")
    with pytest.raises(ClientError, match="no secure connection to https://"):
        await AsyncClient(server).control.info()


@pytest.mark.parametrize(
    ("path", "length"), [("Snakefile", 10), ("empty", 0), ("/proc/version", None)]
)
async def test_the_size_of_a_file_is_announced_if_it_is_known(
    aiohttp_server, file: Path, path: str, length: int | None
) -> None:
    """The server can then refuse at once what its disk cannot hold."""
    announced: list[int | None] = []

    async def receive(request: web.Request) -> web.Response:
        announced.append(request.content_length)
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_put("/{path:.*}", receive)
    bucket = AsyncClient(str((await aiohttp_server(app)).make_url("/"))).bucket("genes")
    file.with_name("empty").touch()
    await bucket.put("key", file.parent / path)
    assert announced == [length]


async def test_what_a_server_prepares_may_take_long(
    answering, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans, snapshots and crates take as long as their workflows and buckets are large."""
    for name in ("_QUICK", "_NO_TOTAL"):
        monkeypatch.setattr(transport, name, aiohttp.ClientTimeout(total=0.05))
    client = await answering('{"run_id": "a", "state": "COMPLETE"}', seconds=0.2)
    with pytest.raises(ClientError, match="connection"):
        await client.wes.run("a")
    await asyncio.gather(
        client.wes.resume("a", {}, dry_run=True),
        client.wes.run_workflow("Snakefile", {}, attachments=[("Snakefile", file)]),
        client.wes.crate("a", file.with_name("crate.zip")),
        client.control.save_snapshot(file.with_name("snapshot.tar")),
        client.control.load_snapshot(file),
    )


def test_a_thread_that_cannot_start_is_an_error() -> None:
    previous = threading.stack_size(1 << 46)  # more memory than a process can address
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Client("http://127.0.0.1:1").runs()
    finally:
        threading.stack_size(previous)
