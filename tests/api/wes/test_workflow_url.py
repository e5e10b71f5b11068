"""workflow_url by http and TRS: fetched once, stored, only from allowed hosts."""

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientResponse, FormData, web
from aiohttp.test_utils import TestServer
from api.wes.fixtures import Client, fetch
from conformance.wes.test_own_document import DOCUMENT
from pytest_aiohttp import AiohttpClient
from support.waiting import soon

from wesemu.app import create_app
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.errors import InvalidRequest
from wesemu.runs.model import LOCAL_OWNER, RunRequest
from wesemu.runs.run_directory import RunDirectoryDraft
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine
from wesemu.util.ssrf import AddressGuard
from wesemu.workflows.fetch import RemoteWorkflows, WorkflowWeb, read_address

RUNS = "/ga4gh/wes/v1/runs"
TOOL = "#workflow/github.com/lab/tool"
SNAKEFILE = "include: 'rules/a.smk'\nrule all:\n    input: 'a.txt'\n"
RULE = "rule a:\n    output: 'a.txt'\n    shell: 'touch {output}'\n"


@dataclass
class Host:
    """A web host and a tool registry; `asked` are the raw paths of all requests."""

    url: str = ""
    pages: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    leads: dict[str, str] = field(default_factory=dict)
    tools: dict[str, tuple[str, str]] = field(default_factory=dict)
    listed: bool = True
    asked: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        return f"/ga4gh/trs/v2/tools/{quote(TOOL, safe='')}/versions/v1"

    async def answer(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        self.asked.append(path)
        if path in self.leads:
            raise web.HTTPFound(self.leads[path])
        if path in self.pages:
            content, media_type = self.pages[path]
            return web.Response(body=content, content_type=media_type)
        kind, _, below = path.removeprefix(f"{self.version}/").partition("/")
        if kind == "SMK" and below == "files" and self.listed:
            return web.json_response(
                [{"path": path, "file_type": kind} for path, (kind, _) in self.tools.items()]
            )
        for name, (_, content) in self.tools.items():
            if below == f"descriptor/{quote(name, safe='')}" or (
                below == "descriptor" and name == "Snakefile"
            ):
                digest = hashlib.sha256(content.encode()).hexdigest()
                checksum = {"checksum": digest, "type": "sha-256"}
                return web.json_response({"content": content, "checksum": [checksum]})
        raise web.HTTPNotFound


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    started = Host()
    app = web.Application()
    app.router.add_get("/{path:.*}", started.answer)
    started.pages["/lab/Snakefile"] = (b"rule all:\n", "text/plain")
    started.tools = {
        "Snakefile": ("PRIMARY_DESCRIPTOR", SNAKEFILE),
        "rules/a.smk": ("SECONDARY_DESCRIPTOR", RULE),
        "test/params.json": ("TEST_FILE", "{}"),
    }
    async with TestServer(app) as server:
        started.url = str(server.make_url("/")).rstrip("/")
        yield started


def opened(settings: Settings, **more: Any) -> Settings:
    workflows = {"fetch": True, "networks": ["127.0.0.0/8"], **more}
    return Settings.model_validate(settings.model_dump() | {"workflows": workflows})


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return opened(settings)


async def post(client: Client, url: str, status: int = 200, **fields: Any) -> Any:
    body = {"workflow_url": url, "workflow_type": "SMK", "workflow_params": {"script": []}}
    async with client.post(RUNS, json=body | fields) as answer:
        told = await answer.json()
        assert answer.status == status, told
        return told


def kept(settings: Settings, run_id: str) -> dict[str, str]:
    """The attachments of a run."""
    folder = settings.data / "runs" / run_id / "attachments"
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


async def test_a_workflow_by_url_is_kept_with_its_run(
    client: Client, host: Host, settings: Settings
) -> None:
    url = f"{host.url}/lab/Snakefile"
    run_id = (await post(client, url))["run_id"]
    assert kept(settings, run_id) == {"Snakefile": "rule all:\n"}
    log = await fetch(client, f"{RUNS}/{run_id}")
    DOCUMENT.check("GET", f"/runs/{run_id}", 200, log)
    assert log["request"]["workflow_url"] == url
    digest = hashlib.sha256(b"rule all:\n").hexdigest()
    source = {"file": "Snakefile", "url": url, "size": 10, "sha256": digest}
    assert log["wesemu"]["workflow"] == [source]
    record = json.loads((settings.data / "runs" / run_id / "request.json").read_text())
    marks = record["run"]["request"]["marks"]
    assert (marks["workflow_file"], json.loads(marks["workflow_sources"])) == (
        "Snakefile",
        [source],
    )


async def test_what_signs_its_url_is_the_owner_s_alone(
    client: Client, host: Host, runs: RunService, engine: ScriptedEngine
) -> None:
    pytest.importorskip("rocrate", reason="ro-crate-py is not installed: pip install wesemu[crate]")
    url = f"{host.url}/lab/Snakefile?X-Amz-Signature=s3cret"
    run_id = (await post(client, url, workflow_params={"script": [{"wait": "x"}]}))["run_id"]
    assert (await fetch(client, f"{RUNS}/{run_id}"))["wesemu"]["workflow"][0]["url"] == url
    struck = f"{host.url}/lab/Snakefile?X-Amz-Signature=REDACTED"
    async with client.get("/_wesemu/events") as stream:
        assert json.loads((await next_event(stream))[6:])["workflow"] == struck
        engine.release("x")
    async for _ in runs.follow(LOCAL_OWNER, run_id):
        pass
    async with client.get(f"{RUNS}/{run_id}/ro-crate") as answer:
        assert answer.status == 200
        crate = await answer.read()
    with zipfile.ZipFile(io.BytesIO(crate)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert [name for name, content in files.items() if b"s3cret" in content] == []
    assert struck.encode() in files["ro-crate-metadata.json"]


async def next_event(stream: ClientResponse) -> str:
    async with soon():
        while not (line := (await stream.content.readline()).decode()).startswith("data: "):
            pass
    return line


async def test_it_is_fetched_once_for_one_key(client: Client, host: Host) -> None:
    body = {"workflow_url": f"{host.url}/lab/Snakefile", "workflow_type": "SMK"}
    ids = set()
    for _ in range(2):
        async with client.post(RUNS, json=body, headers={"Idempotency-Key": "k"}) as answer:
            ids.add((await answer.json())["run_id"])
    assert (len(ids), len(host.asked)) == (1, 1)


async def test_what_it_includes_may_be_attached(
    client: Client, host: Host, settings: Settings
) -> None:
    fields = {"workflow_url": f"{host.url}/lab/Snakefile", "workflow_type": "SMK"}
    form = FormData(fields | {"workflow_params": '{"script": []}'})
    form.add_field("workflow_attachment", RULE.encode(), filename="rules/a.smk")
    async with client.post(RUNS, data=form) as answer:
        run_id = (await answer.json())["run_id"]
    assert kept(settings, run_id) == {"Snakefile": "rule all:\n", "rules/a.smk": RULE}
    form = FormData(fields)
    form.add_field("workflow_attachment", b"mine", filename="Snakefile")
    async with client.post(RUNS, data=form) as answer:
        assert (answer.status, "Snakefile" in await answer.text()) == (400, True)


async def test_a_registry_s_files_come_along(
    client: Client, host: Host, settings: Settings
) -> None:
    place = host.url.removeprefix("http://")
    tool = quote(TOOL, safe="")
    for url in (
        f"trs://{place}/tools/{tool}/versions/v1",
        f"trs://{place}/tools/{TOOL}/versions/v1/PLAIN_SMK/descriptor",
        f"trs://{place}/{tool}/v1",
        f"{host.url}{host.version}/SMK/descriptor",
        f"{host.url}{host.version}/PLAIN-SMK/descriptor/Snakefile",
    ):
        run_id = (await post(client, url))["run_id"]
        assert kept(settings, run_id) == {"Snakefile": SNAKEFILE, "rules/a.smk": RULE}, url
        sources = (await fetch(client, f"{RUNS}/{run_id}"))["wesemu"]["workflow"]
        assert [source["file"] for source in sources] == ["Snakefile", "rules/a.smk"]


async def test_another_descriptor_of_the_version_can_be_the_workflow(
    client: Client, host: Host, settings: Settings
) -> None:
    run_id = (await post(client, f"{host.url}{host.version}/SMK/descriptor/rules%2Fa.smk"))[
        "run_id"
    ]
    record = json.loads((settings.data / "runs" / run_id / "request.json").read_text())
    assert record["run"]["request"]["marks"]["workflow_file"] == "rules/a.smk"


async def test_files_above_the_descriptor_keep_their_place(
    client: Client, host: Host, settings: Settings
) -> None:
    host.tools = {
        "Snakefile": ("PRIMARY_DESCRIPTOR", "rule all:\n"),
        "../lib/b.smk": ("SECONDARY_DESCRIPTOR", RULE),
        "../../../etc/env.yaml": ("OTHER", "x"),
    }
    run_id = (await post(client, f"{host.url}{host.version}/SMK/descriptor"))["run_id"]
    assert set(kept(settings, run_id)) == {
        "trs/trs/trs/Snakefile", "trs/trs/lib/b.smk", "etc/env.yaml",
    }  # fmt: skip


async def test_a_registry_that_lists_no_files(
    client: Client, host: Host, settings: Settings
) -> None:
    host.listed = False
    run_id = (await post(client, f"{host.url}{host.version}/SMK/descriptor"))["run_id"]
    assert kept(settings, run_id) == {"Snakefile": SNAKEFILE}


async def test_a_dry_run_plans_what_a_registry_has(
    aiohttp_client: AiohttpClient, host: Host, settings: Settings
) -> None:
    """By the real Snakemake: the included rule is there."""
    client = await aiohttp_client(await create_app(settings, engines=[SnakemakeEngine()]))
    url = f"{host.url}{host.version}/SMK/descriptor"
    parameters = {"workflow_engine_parameters": {"dry_run": "true"}}
    told = await post(client, url, **parameters)
    assert told["wesemu"]["graph"]["counts"] == {"a": 1}
    assert list((settings.data / "runs").iterdir()) == []


REFUSED: Mapping[str, tuple[str, str]] = {
    "not there": ("/nowhere", "there is no"),
    "a web page": ("/page", "is a web page"),
    "a binary": ("/binary", "not text"),
    "empty": ("/empty", "not text"),
    "too large": ("/large", "larger than 32 MiB"),
    "a redirect to this machine's metadata": ("/metadata", "not a public address"),
    "a redirect to a file": ("/file", "not an http or https URL"),
    "a redirect to itself": ("/circle", "redirected more than 5 times"),
    "no such version": ("/ga4gh/trs/v2/tools/x/versions/y/SMK/descriptor", "there is no"),
    "another language": ("/ga4gh/trs/v2/tools/x/versions/y/CWL/descriptor", "CWL"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_no_workflow_is_400(
    client: Client, host: Host, settings: Settings, case: str
) -> None:
    host.pages |= {
        "/page": (b"<html>", "text/html"),
        "/binary": (b"\x7fELF\0", "text/plain"),
        "/empty": (b" \n", "text/plain"),
        "/large": (b"#" * ((32 << 20) + 1), "text/plain"),
    }
    host.leads = {
        "/metadata": "http://169.254.169.254/latest/user-data",
        "/file": "file:///etc/passwd",
        "/circle": "/circle",
    }
    path, told = REFUSED[case]
    answer = await post(client, f"{host.url}{path}?sig=s3cret", 400)
    assert "workflow_url" in answer["msg"]
    assert told in answer["msg"]
    assert "s3cret" not in answer["msg"]
    assert list((settings.data / "runs").iterdir()) == []


async def test_a_descriptor_that_is_not_what_its_checksum_says_is_400(
    client: Client, host: Host
) -> None:
    wrapper = {"content": "rule b:", "checksum": [{"checksum": "0" * 64, "type": "sha256"}]}
    path = f"{host.version}/SMK/descriptor/Snakefile"
    host.pages[path] = (json.dumps(wrapper).encode(), "application/json")
    told = await post(client, f"{host.url}{host.version}/SMK/descriptor", 400)
    assert "checksum" in told["msg"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (
            "https://github.com/lab/tool/blob/v1/workflow/Snakefile",
            "https://raw.githubusercontent.com/lab/tool/v1/workflow/Snakefile",
        ),
        ("https://gitlab.example/a/b/-/blob/v1/Snakefile", "gitlab.example/a/b/-/raw/v1/Snakefile"),
        ("trs://dockstore.example", "write trs://HOST/tools/ID/versions/VERSION"),
        ("trs://host:abc/x/y", "cannot be understood"),
        ("http://10.0.0.1/Snakefile", "workflows.networks"),
        ("http://[::1]/Snakefile", "workflows.networks"),
        ("http://user:password@127.0.0.1/x", "credentials"),
        ("ftp://example.org/Snakefile", "http, https, trs and file URLs only"),
        ("file:///etc/passwd", "workflows.folders names no folder"),
    ],
)
async def test_an_address_that_cannot_be_meant_says_what_to_do(
    client: Client, url: str, told: str
) -> None:
    assert told in (await post(client, url, 400))["msg"]


@pytest.mark.parametrize("wrapper", [{"content": "rule b:", "checksum": 5}, "[" * 100_000])
async def test_an_odd_answer_of_a_registry_is_400(client: Client, host: Host, wrapper: Any) -> None:
    body = wrapper if isinstance(wrapper, str) else json.dumps(wrapper)
    path = f"{host.version}/SMK/descriptor/Snakefile"
    host.pages[path] = (body.encode(), "application/json")
    told = await post(client, f"{host.url}{host.version}/SMK/descriptor?sig=s3cret", 400)
    assert "/descriptor?sig=REDACTED' cannot be understood" in told["msg"]


async def test_hosts_may_be_limited(
    aiohttp_client: AiohttpClient, host: Host, settings: Settings, engine: ScriptedEngine
) -> None:
    limited = await asyncio.to_thread(opened, settings, hosts=["*.example.org"])
    client = await aiohttp_client(await create_app(limited, engines=[engine]))
    told = await post(client, f"{host.url}/lab/Snakefile", 400)
    assert "workflows.hosts" in told["msg"]
    assert host.asked == []


async def test_files_of_this_machine_are_read_below_allowed_folders_only(
    aiohttp_client: AiohttpClient, settings: Settings, engine: ScriptedEngine, tmp_path: Path
) -> None:
    allowed, secret = tmp_path / "work flows", tmp_path / "secret"
    (allowed / "a").mkdir(parents=True)
    (allowed / "a" / "Snakefile").write_text("rule all:\n")
    secret.write_text("password\n")
    (allowed / "link").symlink_to(secret)
    (tmp_path / "work flows2").symlink_to(tmp_path)
    opener = await asyncio.to_thread(opened, settings, folders=[str(allowed)], fetch=False)
    client = await aiohttp_client(await create_app(opener, engines=[engine]))
    inside = f"file://{quote(str(allowed))}"
    run_id = (await post(client, f"{inside}/a/Snakefile"))["run_id"]
    assert kept(settings, run_id) == {"Snakefile": "rule all:\n"}
    messages = set()
    for path in ("link", "../secret", "%2E%2E/secret", "../none", "../work%20flows2/secret", "a"):
        told = await post(client, f"{inside}/{path}", 400)
        messages.add(told["msg"].replace(f"/{path}'", "…"))
        assert "password" not in told["msg"]
    assert len(messages) == 1  # whether there is such a file stays the server's secret
    await post(client, "http://127.0.0.1:9/Snakefile", 400)
    await post(client, "file://[x/Snakefile", 400)


async def test_a_host_that_is_slow_is_given_up(host: Host, tmp_path: Path) -> None:
    """The time is that of the whole workflow."""
    remote = RemoteWorkflows(WorkflowWeb(AddressGuard()), seconds=0.0)
    request = RunRequest("http://8.8.8.8/Snakefile?sig=s3cret")
    draft = RunDirectoryDraft(tmp_path / "run")
    with pytest.raises(InvalidRequest, match="sig=REDACTED' was not fetched within 0 s"):
        await remote.fetch_workflow(request, "SMK", draft)
    await remote.close()


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        (
            "trs://dockstore.org/tools/%23workflow%2Fgithub.com%2Fa%2Fb/versions/v1/CWL",
            "https://dockstore.org/ga4gh/trs/v2/tools/%23workflow%2Fgithub.com%2Fa%2Fb/versions/v1/CWL/files",
        ),
        (
            "https://dockstore.org/api/ga4gh/trs/v2/tools/x/versions/v1/PLAIN_WDL/descriptor//a.wdl",
            "https://dockstore.org/api/ga4gh/trs/v2/tools/x/versions/v1/WDL/files",
        ),
    ],
)
def test_addresses_of_registries(url: str, endpoint: str) -> None:
    address = read_address(url)
    assert address is not None
    assert address.endpoint(address.kind, "files") == endpoint


@pytest.mark.parametrize(
    "url", ["https://example.org/tools/x/versions/y/CWL/descriptor", "trs://x"]
)
def test_what_is_no_address_of_a_registry(url: str) -> None:
    assert read_address(url) is None
