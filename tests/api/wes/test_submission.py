"""Submissions: requests of real clients are accepted; dangerous ones are a 400 with the field."""

import asyncio
import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from api.wes.fixtures import LIMITS, Client, Ended, Submit, fetch
from pytest_aiohttp import AiohttpClient
from support.waiting import eventually, soon

from wesemu.app import create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import RunState
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

RUNS = "/ga4gh/wes/v1/runs"
SNAKEFILE = b"rule all:\n"
FORM = {"Content-Type": "multipart/form-data; boundary=B"}
BUNDLED = {
    "reads": [{"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}],
    "reference": "oss://genes/reference/tiny",
}


def part(disposition: str, content: bytes = SNAKEFILE, *more: str) -> bytes:
    head = "\r\n".join([f"Content-Disposition: form-data; {disposition}", *more])
    return b"--B\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def body(*parts: bytes, url: str | None = "Snakefile") -> bytes:
    named = [] if url is None else [part('name="workflow_url"', url.encode())]
    kind = part('name="workflow_type"', b"SMK")
    return b"".join([kind, *named, *parts]) + b"--B--\r\n"


ATTACHED = part('name="workflow_attachment"; filename="Snakefile"')


async def post(wes: Client, data: Any, status: int = 200, **headers: str) -> dict[str, Any]:
    async with wes.post(RUNS, data=data, headers=headers) as answer:
        told: dict[str, Any] = await answer.json()
        assert answer.status == status, told
        assert status == 200 or told["status_code"] == status
        return told


async def post_form(wes: Client, data: bytes, status: int = 200) -> dict[str, Any]:
    return await post(wes, data, status, **FORM)


def run_folders(settings: Settings) -> list[Path]:
    return list((settings.data / "runs").iterdir())


async def request_of(wes: Client, run_id: str) -> Mapping[str, Any]:
    log = await fetch(wes, f"{RUNS}/{run_id}")
    request: Mapping[str, Any] = log["request"]
    return request


@pytest.mark.parametrize("key", [".wesemu/a.bam", ".wesemu/records/a.bam", ".WESEMU/a.bam"])
async def test_no_result_goes_where_the_server_keeps_its_own_files(wes: Client, key: str) -> None:
    params = BUNDLED | {"bam": f"oss://genes/{key}"}
    sent = json.dumps({"workflow_url": "mapping", "workflow_params": params})
    told = await post(wes, sent, 400, **{"Content-Type": "application/json"})
    assert "kept for the server's own files" in told["msg"]


async def test_text_fields_may_come_as_files(wes: Client) -> None:
    """curl -F workflow_params=@params.json"""
    told = await post_form(
        wes,
        part('name="workflow_type"; filename="t"', b"smk\n")
        + part('name="workflow_params"; filename="p.json"', b'{"script": []}', "Content-Type: a/b")
        + part('name="workflow_url"; filename="u"', b"Snakefile\n")
        + ATTACHED
        + b"--B--",
    )
    request = await request_of(wes, told["run_id"])
    assert request["workflow_params"] == {"script": []}
    assert (request["workflow_type"], request["workflow_url"]) == ("smk", "Snakefile")


async def test_disposition_parameters_come_in_any_order(wes: Client) -> None:
    """Dockstore's CLI writes the name last."""
    attached = part('filename="Snakefile"; size=10; name="workflow_attachment"')
    await post_form(wes, body(attached))


async def test_a_single_attachment_is_the_workflow(wes: Client) -> None:
    """gxy-wes sends no workflow_url."""
    told = await post_form(wes, body(ATTACHED, url=None))
    assert (await request_of(wes, told["run_id"]))["workflow_url"] == "Snakefile"


async def test_which_of_two_attachments_is_not_guessed(wes: Client) -> None:
    other = part('name="workflow_attachment"; filename="b.smk"')
    told = await post_form(wes, body(ATTACHED, other, url=None), 400)
    assert "workflow_url" in told["msg"]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ('filename="rules/a.smk"', "rules/a.smk"),
        ('filename="rules%2Fa.smk"', "rules/a.smk"),
        ('filename="./rules//a.smk"', "rules/a.smk"),
        ("filename=plain.smk", "plain.smk"),
        ('filename="a;b.smk"', "a;b.smk"),
        ('filename="a\\"b.smk"', 'a"b.smk'),
        ('filename="ä b.smk"', "ä b.smk"),
        ("filename*=UTF-8''%e4%bd%a0.smk", "你.smk"),
        ("filename=\"no.smk\"; filename*=utf-8'en'yes.smk", "yes.smk"),
        ('filename="100%.smk"', "100%.smk"),
    ],
)
async def test_attachments_keep_their_names(
    wes: Client, settings: Settings, written: str, kept: str
) -> None:
    attached = part(f'name="workflow_attachment"; {written}', b"kept")
    told = await post_form(wes, body(ATTACHED, attached))
    root = settings.data / "runs" / told["run_id"] / "attachments"
    assert (root / kept).read_bytes() == b"kept"


@pytest.mark.parametrize(
    "name",
    [
        "../x", "/etc/x", "/tmp/", "a/../../x", "a/..", "..", "..%2Fx", "%2Fetc%2Fx", "a\\\\b",
        "..\\\\x", "", "/", "a/", "a%00b", "a%0Ab", "x" * 256, "d/" * 600 + "x", "%e2%80%aex",
    ],
)  # fmt: skip
async def test_a_harmful_name_is_400_and_leaves_nothing(
    wes: Client, settings: Settings, name: str
) -> None:
    attached = part(f'name="workflow_attachment"; filename="{name}"')
    told = await post_form(wes, body(ATTACHED, attached), 400)
    assert re.search("file name|of '|no name", told["msg"])
    assert run_folders(settings) == []
    assert not (settings.data.parent / "x").exists()


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "./a")])
async def test_attachments_that_collide_are_400(
    wes: Client, settings: Settings, names: tuple[str, str]
) -> None:
    parts = [part(f'name="workflow_attachment"; filename="{name}"') for name in names]
    await post_form(wes, body(*parts, url="a"), 400)
    assert run_folders(settings) == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "file:/etc/passwd", "/etc/passwd", "../../../etc/passwd",
        "http://127.0.0.1/Snakefile", "https://example.org/Snakefile", "trs://x/y", "data:,rule",
        "Other", "mapping2", "Snakefile/", "a\x00b", "x" * 3000,
    ],
)  # fmt: skip
async def test_a_workflow_url_elsewhere_is_400(wes: Client, settings: Settings, url: str) -> None:
    told = await post_form(wes, body(ATTACHED, url=url), 400)
    assert "workflow_url" in told["msg"]
    assert "root:" not in told["msg"]
    assert run_folders(settings) == []


async def test_urlencoded(wes: Client, ended: Ended) -> None:
    """weskit-client, gxy-wes."""
    fields = {"workflow_url": "wgs", "workflow_type": "Snakemake"}
    told = await post(wes, fields | {"workflow_params": json.dumps(BUNDLED), "tags": '{"a": "b"}'})
    assert (await ended(told["run_id"])).state is RunState.COMPLETE
    assert (await request_of(wes, told["run_id"]))["tags"]["a"] == "b"


@pytest.mark.parametrize("as_text", [False, True])
async def test_json(wes: Client, ended: Ended, as_text: bool) -> None:
    """HelixTest, sapporo's demo."""
    params = json.dumps(BUNDLED) if as_text else BUNDLED
    content = json.dumps({"workflow_url": "mapping", "workflow_params": params, "unknown": [1]})
    told = await post(wes, content, **{"Content-Type": "application/json; charset=utf-8"})
    assert (await ended(told["run_id"])).state is RunState.COMPLETE


async def test_engine_parameters_become_text(wes: Client, submit: Submit) -> None:
    """toil sends {"--flag": null}."""
    sent = {"a": None, "b": True, "cores": 2, "d": 1.5, "e": "text"}
    run_id = await submit(workflow_engine_parameters=sent)
    kept = (await request_of(wes, run_id))["workflow_engine_parameters"]
    assert kept == {"a": "", "b": "true", "cores": "2", "d": "1.5", "e": "text"}


async def test_an_engine_may_be_named(wes: Client, submit: Submit) -> None:
    run_id = await submit(workflow_engine="Snakemake", workflow_engine_version="9.27.1")
    request = await request_of(wes, run_id)
    assert request["workflow_engine"] == "Snakemake"
    assert request["workflow_engine_version"] == "9.27.1"


async def test_the_servers_own_tags_cannot_be_spoofed(wes: Client, submit: Submit) -> None:
    run_id = await submit(tags={"wesemu.sla.met": "true", "wesemu.service": "g"})
    tags = (await request_of(wes, run_id))["tags"]
    assert "wesemu.sla.met" not in tags
    assert tags["wesemu.sla.level"] == "g"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workflow_params", "{"), ("workflow_params", "[]"), ("workflow_params", '"x"'),
        ("workflow_params", '{"a": NaN}'), ("workflow_params", '{"a": 1e999}'),
        ("workflow_params", '{"a": "\\ud800"}'), ("workflow_params", '{"a": ' + "[" * 5000),
        ("workflow_params", '{"a": ' + "[" * 80 + "]" * 80 + "}"),
        ("workflow_params", '{"a": ' + "9" * 5000 + "}"),
        ("tags", '{"a": 1}'), ("tags", '{"a": null}'), ("tags", "x"), ("tags", "[]"),
        ("workflow_engine_parameters", '{"a": []}'), ("workflow_engine_parameters", '{"a": {}}'),
        ("workflow_engine", "cromwell"), ("workflow_type", "WDL"), ("workflow_type", "x" * 3000),
    ],
)  # fmt: skip
async def test_a_malformed_field_is_400_and_named(
    wes: Client, settings: Settings, field: str, value: str
) -> None:
    fields = {"workflow_url": "Snakefile", "workflow_type": "SMK"} | {field: value}
    form = FormData()
    form.add_field("workflow_attachment", SNAKEFILE, filename="Snakefile")
    for name, text in fields.items():
        form.add_field(name, text)
    told = await post(wes, form, 400)
    assert field in told["msg"]
    assert "Traceback" not in told["msg"]
    assert run_folders(settings) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workflow_url", 1), ("workflow_type", {}), ("tags", {"a": 1}), ("tags", []),
        ("workflow_params", 1), ("workflow_attachment", ["x"]), ("workflow_engine_parameters", 1),
    ],
)  # fmt: skip
async def test_a_json_field_of_another_type_is_400_and_named(
    wes: Client, field: str, value: object
) -> None:
    content = json.dumps({"workflow_url": "wgs", "workflow_params": BUNDLED} | {field: value})
    told = await post(wes, content, 400, **{"Content-Type": "application/json"})
    assert field in told["msg"]


@pytest.mark.parametrize("kind", ["", "smk", "snakemake", "Snakefile"])
async def test_an_engine_that_runs_other_workflows_is_400(
    settings: Settings,
    aiohttp_client: AiohttpClient,
    engine: ScriptedEngine,
    clock: ManualClock,
    kind: str,
) -> None:
    other = ScriptedEngine(clock, name="cwltool", workflow_types={"CWL": ("v1.2",)})
    wes = await aiohttp_client(await create_app(settings, clock=clock, engines=[engine, other]))
    sent = {"workflow_url": "mapping", "workflow_type": kind}
    sent["workflow_params"] = json.dumps(BUNDLED)
    told = await post(wes, sent | {"workflow_engine": "cwltool"}, 400)
    named = f"{kind or 'SMK'} runs with snakemake"
    assert told["msg"] == f"workflow_engine: it is 'cwltool'; {named}"
    sent["workflow_params"] = json.dumps(BUNDLED | {"bam": "oss://genes/o/a.bam"})
    await post(wes, sent | {"workflow_engine": "Snakemake"})


async def test_an_engine_version_needs_an_engine(wes: Client) -> None:
    sent = {"workflow_url": "wgs", "workflow_engine_version": "1"}
    assert "workflow_engine: " in (await post(wes, sent, 400))["msg"]


@pytest.mark.parametrize("version", ["9.27.1", "9.27", "9"])
async def test_an_engine_version_may_be_shortened(submit: Submit, version: str) -> None:
    await submit(workflow_engine="snakemake", workflow_engine_version=version)


@pytest.mark.parametrize("version", ["8.0.0", "9.2", "9.27.10", "latest"])
async def test_an_engine_version_that_is_not_installed_is_400(wes: Client, version: str) -> None:
    sent = {"workflow_url": "wgs", "workflow_engine": "Snakemake"}
    told = await post(wes, sent | {"workflow_engine_version": version}, 400)
    expected = f"it is {version!r}; this server has Snakemake 9.27.1"
    assert told["msg"] == f"workflow_engine_version: {expected}"


async def test_a_missing_type_is_400_for_an_attached_workflow(wes: Client) -> None:
    told = await post_form(wes, ATTACHED + b"--B--", 400)
    assert "workflow_type" in told["msg"]


async def test_inputs_that_do_not_exist_are_400(wes: Client) -> None:
    """RunWorkflow documents no 404."""
    for reads in ("oss://none/a.fq.gz", "oss://genes/none.fq.gz"):
        params = BUNDLED | {"reads": [{"first": reads, "second": reads}]}
        told = await post(wes, {"workflow_url": "wgs", "workflow_params": json.dumps(params)}, 400)
        assert "none" in told["msg"]


async def test_a_field_sent_twice_is_400(wes: Client) -> None:
    twice = part('name="workflow_url"', b"mapping")
    assert "workflow_url" in (await post_form(wes, body(ATTACHED, twice), 400))["msg"]
    told = await post(wes, FormData([("workflow_url", "a"), ("workflow_url", "b")]), 400)
    assert "workflow_url" in told["msg"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"workflow_url": "mapping", "workflow_url": "wgs"}', "workflow_url"),
        ('{"workflow_url": "mapping", "workflow_params": {"ploidy": 1, "ploidy": 2}}', "ploidy"),
        (json.dumps({"workflow_url": "mapping", "tags": '{"a": "1", "a": "2"}'}), "a"),
    ],
)
async def test_a_name_twice_in_json_is_400(wes: Client, text: str, field: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = await wes.post("/ga4gh/wes/v1/runs", data=text, headers=headers)
    assert response.status == 400
    assert (await response.json())["msg"] == f"{field}: it is given twice; name it once"


async def test_a_file_under_an_unknown_name_is_400(wes: Client) -> None:
    lost = part('name="attachment"; filename="a.smk"')
    assert "attachment" in (await post_form(wes, body(ATTACHED, lost), 400))["msg"]


async def test_unknown_text_fields_are_ignored(wes: Client) -> None:
    await post_form(wes, body(ATTACHED, part('name="workflow_name"', b"x")))


async def test_two_mebibytes_of_parameters_are_400(wes: Client, settings: Settings) -> None:
    large = part('name="workflow_params"', b" " * (LIMITS.field + 1))
    assert "workflow_params" in (await post_form(wes, body(ATTACHED, large), 400))["msg"]
    assert run_folders(settings) == []


async def test_too_many_parts_are_400(wes: Client, settings: Settings) -> None:
    parts = [part(f'name="workflow_attachment"; filename="{n}"') for n in range(LIMITS.parts)]
    assert "parts" in (await post_form(wes, body(*parts, url="0"), 400))["msg"]
    assert run_folders(settings) == []


async def test_too_large_an_upload_is_413(wes: Client, settings: Settings) -> None:
    huge = part('name="workflow_attachment"; filename="a"', b"x" * LIMITS.upload)
    await post_form(wes, body(huge, url="a"), 413)
    assert run_folders(settings) == []
    kind = {"Content-Type": "application/json"}
    await post(wes, b'"' + b"x" * LIMITS.body + b'"', 413, **kind)


async def test_a_body_that_says_that_it_is_too_large_is_not_waited_for(wes: Client) -> None:
    for kind, limit in (("application/json", LIMITS.body), (FORM["Content-Type"], LIMITS.upload)):
        reader, writer = await asyncio.open_connection(wes.host, wes.port)
        head = f"POST {RUNS} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n"
        writer.write(f"{head}Content-Length: {limit + 1}\r\n\r\n".encode())
        async with soon():
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
        await writer.wait_closed()


async def test_a_compressed_body_is_400_and_says_so(wes: Client, settings: Settings) -> None:
    for kind in ("application/json", "application/x-www-form-urlencoded", FORM["Content-Type"]):
        headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
        told = await post(wes, gzip.compress(b"{}"), 400, **headers)
        assert "Content-Encoding" in told["msg"]
    assert run_folders(settings) == []
    plain = {"Content-Type": "application/json", "Content-Encoding": "identity"}
    await post(wes, json.dumps({"workflow_url": "mapping", "workflow_params": BUNDLED
                                | {"bam": "oss://genes/o/a.bam"}}), **plain)  # fmt: skip


async def test_a_bundled_pipeline_is_of_its_own_type_only(wes: Client) -> None:
    params = BUNDLED | {"bam": "oss://genes/o/a.bam"}
    for kind, status in (("smk", 200), ("Snakemake", 200), ("", 200), ("CWL", 400)):
        sent = {"workflow_url": "mapping", "workflow_type": kind, "workflow_params": params}
        told = await post(wes, json.dumps(sent), status, **{"Content-Type": "application/json"})
        assert status == 200 or "workflow_type" in told["msg"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"--B--", b"no boundary", b"x" * 20_000 + b"\r\n--B--", b"\r\n" * 20_000 + b"--B--",
        b"--B\r\n", b"--Bx\r\n\r\n--B--", b"--B\r\n\r\nno header\r\n--B--",
        b"--B\r\nContent-Disposition: attachment; name=a\r\n\r\n\r\n--B--",
        b"--B\r\nContent-Disposition: form-data; filename=a\r\n\r\n\r\n--B--",
        b"--B\r\nContent-Disposition: form-data; name=\"a\r\n\r\n\r\n--B--",
        b"--B\r\nContent-Disposition: form-data; name=a; name=b\r\n\r\n\r\n--B--",
        b"--B\r\nContent-Disposition: form-data; name=a; filename*=x'y\r\n\r\n\r\n--B--",
        b"--B\r\nContent-Disposition: form-data; name=a; filename*=utf-8''%ff\r\n\r\n\r\n--B--",
        b"--B\r\nContent-Disposition\r\n\r\n\r\n--B--",
        b"--B\r\nX: \xff\r\n\r\n\r\n--B--",
        b"--B\r\nX: " + b"x" * 20_000 + b"\r\n\r\n\r\n--B--",
        b"--B\r\nContent-Disposition: form-data; name=\"workflow_attachment\"\r\n\r\nx\r\n--B--",
        b"--B\r\nContent-Disposition: form-data; name=workflow_url\r\n\r\nmapping",
        b"--B\r\nContent-Disposition: form-data; name=workflow_url\r\n\r\n\xff\r\n--B--",
        b"--B\r\nContent-Disposition: form-data; name=a\r\nContent-Encoding: gzip\r\n\r\n\r\n--B--",
    ],
)  # fmt: skip
async def test_a_malformed_form_is_400(wes: Client, settings: Settings, data: bytes) -> None:
    assert (await post_form(wes, data, 400))["msg"]
    assert run_folders(settings) == []


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data", 'multipart/form-data; boundary=""', "multipart/mixed; boundary=B",
        "multipart/form-data; boundary=" + "x" * 71, "multipart/form-data; boundary*=utf-8''B",
        "text/yaml", "application/octet-stream",
    ],
)  # fmt: skip
async def test_another_kind_of_body_is_400(wes: Client, kind: str) -> None:
    status = 200 if "boundary*" in kind else 400
    await post(wes, body(ATTACHED), status, **{"Content-Type": kind})


NAMELESS = 'name="workflow_attachment"'


@pytest.mark.parametrize("name", ["workflow_attachment", "workflow_attachment[]"])
async def test_an_empty_list_of_attachments_may_be_text(wes: Client, name: str) -> None:
    """As yevis and sapporo-web send it: "[]" beside the files."""
    for text in (b"", b"[]", b" []\n"):
        await post_form(wes, body(part(f'name="{name}"', text), ATTACHED))
        json_body = {"workflow_url": "mapping", "workflow_params": BUNDLED, name: text.decode()}
        await post(wes, json.dumps(json_body), 200, **{"Content-Type": "application/json"})
    sent = {"workflow_url": "mapping", "workflow_params": json.dumps(BUNDLED), name: "[]"}
    await post(wes, sent, 200, **{"Content-Type": "application/x-www-form-urlencoded"})


async def test_a_list_of_urls_is_not_taken_for_attachments(wes: Client, settings: Settings) -> None:
    """As yevis and sapporo-web send files by URL: they would be lost."""
    listed = b'[{"file_name": "a.fq", "file_url": "https://example.org/a.fq"}]'
    for text in (listed, b"x" * LIMITS.field * 2):
        told = await post_form(wes, body(part(NAMELESS, text), ATTACHED), 400)
        assert "workflow_attachment" in told["msg"]
        assert "a list of URLs is not fetched" in told["msg"]
    assert run_folders(settings) == []


async def test_other_malformed_bodies_are_400(wes: Client) -> None:
    for data in (b"{", b"[]", b"\xff", b"null", b"[" * 10_000):
        await post(wes, data, 400, **{"Content-Type": "application/json"})
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for data in (b"a=%ff", b"&".join([b"a=1"] * 60), b"workflow_attachment=x", b""):
        await post(wes, data, 400, **form)
    await post(wes, b"", 400)


async def test_a_client_that_hangs_up_leaves_nothing(wes: Client, settings: Settings) -> None:
    _, writer = await asyncio.open_connection(wes.host, wes.port)
    writer.write(
        b"POST /ga4gh/wes/v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n"
        b"Content-Type: multipart/form-data; boundary=B\r\n\r\n" + ATTACHED
    )
    await writer.drain()
    await eventually(lambda: bool(run_folders(settings)))
    writer.close()
    await writer.wait_closed()
    await eventually(lambda: not run_folders(settings))
