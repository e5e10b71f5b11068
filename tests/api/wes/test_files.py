"""Logs and outputs by URL: whole or by Range, for the run's owner only, never other files."""

import asyncio
import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError
from api.wes.fixtures import Client, Ended, Submit, ask, fetch, fetch_text

from wesemu.runs.run_directory import open_below
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

RUNS = "/ga4gh/wes/v1/runs"
WRITES = [
    {"task": "a", "stdout": "to stdout\n", "stderr": "to stderr\n"},
    {"write": "results/calls.vcf", "text": "0123456789"},
    {"write": "results/calls.vcf.gz", "text": "not the same"},
    {"write": "report.html", "text": "<script>alert(1)</script>"},
]


async def run(submit: Submit, ended: Ended) -> str:
    run_id = await submit(WRITES)
    await ended(run_id)
    return run_id


async def test_every_address_in_a_run_log_answers(
    wes: Client, submit: Submit, ended: Ended
) -> None:
    log = await fetch(wes, f"{RUNS}/{await run(submit, ended)}")
    [task] = log["task_logs"]
    assert await fetch_text(wes, task["stdout"]) == "to stdout\n"
    assert await fetch_text(wes, task["stderr"]) == "to stderr\n"
    assert await fetch(wes, log["task_logs_url"]) == {
        "task_logs": [task],
        "next_page_token": "",
    }
    assert await fetch_text(wes, log["outputs"]["results/calls.vcf"]["url"]) == "0123456789"
    for stream in ("stdout", "stderr"):
        await fetch_text(wes, log["run_log"][stream])


async def test_a_log_that_has_not_begun_is_empty(
    wes: Client, submit: Submit, engine: ScriptedEngine
) -> None:
    await submit([{"wait": "gate"}], workflow_engine_parameters={"cores": "2"})
    queued = await submit([])
    assert await fetch_text(wes, f"{RUNS}/{queued}/stderr") == ""
    engine.release("gate")


async def test_a_log_that_grows_is_sent_as_far_as_it_is_written(
    wes: Client, submit: Submit, settings: Settings
) -> None:
    run_id = await submit([{"wait": "gate"}])
    (settings.data / "runs" / run_id / "stdout.log").write_bytes(b"half a li")
    async with wes.get(f"{RUNS}/{run_id}/stdout") as answer:
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert await answer.read() == b"half a li"


async def test_a_file_that_is_truncated_while_it_is_sent_ends_the_connection(
    wes: Client, submit: Submit, settings: Settings
) -> None:
    """The rest cannot come: without the end, the client would wait for it."""
    run_id = await submit([{"wait": "gate"}])
    log = settings.data / "runs" / run_id / "stdout.log"
    with log.open("wb") as file:
        file.truncate(64 << 20)  # more than the sockets hold
    async with wes.get(f"{RUNS}/{run_id}/stdout") as answer:
        os.truncate(log, 10)
        async with asyncio.timeout(30):
            with pytest.raises(ClientPayloadError):
                await answer.read()


@pytest.mark.parametrize(
    ("asked", "status", "content", "content_range"),
    [
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=8-", 206, "89", "bytes 8-9/10"),
    ],
)
async def test_outputs_by_range(
    wes: Client,
    submit: Submit,
    ended: Ended,
    asked: str,
    status: int,
    content: str,
    content_range: str,
) -> None:
    url = f"{RUNS}/{await run(submit, ended)}/outputs/results/calls.vcf"
    async with wes.get(url, headers={"Range": asked}) as answer:
        assert answer.status == status
        assert answer.headers["Content-Range"] == content_range
        assert await answer.text() == content


LONG_AGO = "Wed, 01 Jan 2020 00:00:00 GMT"
OTHERS = ['"another"', 'W/"another"', "another", LONG_AGO, "Fri, 01 Jan 2100 00:00:00 GMT", ""]


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0"])
@pytest.mark.parametrize(
    "condition", [{}, {"If-None-Match": '"another"'}, {"If-Modified-Since": LONG_AGO}]
)
async def test_a_range_beyond_the_end_is_an_error_like_any_other(
    wes: Client, submit: Submit, ended: Ended, asked: str, condition: dict[str, str]
) -> None:
    run_id = await run(submit, ended)
    for path in ("outputs/results/calls.vcf", "tasks/1-1/stdout"):
        headers = {"Range": asked, **condition}
        async with wes.get(f"{RUNS}/{run_id}/{path}", headers=headers) as answer:
            told = await answer.json()
            assert (answer.status, told["status_code"]) == (416, 416)
            assert answer.headers["Content-Range"] == "bytes */10"
            assert asked in told["msg"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "lines=0-1"},
        {"Range": "bytes=0-1,4-5"},
        {"Range": "bytes=5-2"},
        {"Range": "bytes=-"},
        {"Range": "bytes=٣-"},
        *({"Range": "bytes=2-4", "If-Range": other} for other in OTHERS),
        *({"Range": "bytes=99-", "If-Range": other} for other in OTHERS),
        {"Range": "bytes=99-", "If-Range": '"another"', "If-None-Match": '"another"'},
    ],
)
async def test_a_range_that_does_not_count_is_no_range(
    wes: Client, submit: Submit, ended: Ended, headers: dict[str, str]
) -> None:
    url = f"{RUNS}/{await run(submit, ended)}/outputs/results/calls.vcf"
    async with wes.get(url, headers=headers) as answer:
        assert (answer.status, await answer.text()) == (200, "0123456789")
        assert "Content-Range" not in answer.headers


async def test_a_range_of_the_file_that_is_meant_counts(
    wes: Client, submit: Submit, ended: Ended
) -> None:
    url = f"{RUNS}/{await run(submit, ended)}/outputs/results/calls.vcf"
    async with wes.head(url, headers={"Range": "bytes=2-4"}) as answer:
        assert answer.status == 200
        etag, date = answer.headers["ETag"], answer.headers["Last-Modified"]
    for headers in (
        {"If-Range": etag}, {"If-Range": date}, {"If-Match": etag}, {"If-Unmodified-Since": date},
        {"If-None-Match": '"another"', "If-Modified-Since": date},
    ):  # fmt: skip
        async with wes.get(url, headers={"Range": "bytes=2-4", **headers}) as answer:
            assert (answer.status, await answer.text()) == (206, "234")
    for headers in ({"If-None-Match": f"W/{etag}"}, {"If-Modified-Since": date}):
        for asked in ("bytes=2-4", "bytes=99-"):
            async with wes.get(url, headers={"Range": asked, **headers}) as answer:
                assert answer.status == 304
    for headers in ({"If-Match": '"another"'}, {"If-Match": f"W/{etag}"},
                    {"If-Unmodified-Since": LONG_AGO}):  # fmt: skip
        for asked in ({}, {"Range": "bytes=99-"}):
            async with wes.get(url, headers=headers | asked) as answer:
                told = await answer.json()
                assert (answer.status, told["status_code"]) == (412, 412)
                assert etag in told["msg"]


async def test_a_weak_etag_means_no_part(wes: Client, submit: Submit, ended: Ended) -> None:
    url = f"{RUNS}/{await run(submit, ended)}/outputs/results/calls.vcf"
    async with wes.head(url) as answer:
        weak = f"W/{answer.headers['ETag']}"
    async with wes.get(url, headers={"Range": "bytes=2-4", "If-Range": weak}) as answer:
        assert (answer.status, await answer.text()) == (200, "0123456789")


async def test_head_and_conditions(wes: Client, submit: Submit, ended: Ended) -> None:
    url = f"{RUNS}/{await run(submit, ended)}/outputs/results/calls.vcf"
    async with wes.head(url) as answer:
        assert (answer.status, answer.content_length) == (200, 10)
        digest = base64.b64encode(hashlib.sha256(b"0123456789").digest()).decode()
        assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"
        etag = answer.headers["ETag"]
    async with wes.get(url, headers={"If-None-Match": etag}) as answer:
        assert answer.status == 304


async def test_no_compressed_neighbour_is_sent_instead(
    wes: Client, submit: Submit, ended: Ended
) -> None:
    url = f"{RUNS}/{await run(submit, ended)}/outputs/results/calls.vcf"
    async with wes.get(url, headers={"Accept-Encoding": "gzip, br"}) as answer:
        assert "Content-Encoding" not in answer.headers
        assert await answer.text() == "0123456789"


async def test_a_page_from_a_workflow_acts_in_nobodys_name(
    wes: Client, submit: Submit, ended: Ended
) -> None:
    async with wes.get(f"{RUNS}/{await run(submit, ended)}/outputs/report.html") as answer:
        assert answer.content_type == "text/html"
        assert answer.headers["Content-Security-Policy"] == "sandbox allow-scripts"


@pytest.mark.parametrize(
    "path",
    [
        "none", "results", "results/", "../request.json", "..%2frequest.json", "%2fetc%2fpasswd",
        "results/../../request.json", "results%2f..%2f..%2frequest.json", "%00", "x" * 5000,
        "results/calls.vcf%00", ".", "..",
    ],
)  # fmt: skip
async def test_what_is_no_output_is_404(
    wes: Client, submit: Submit, ended: Ended, path: str
) -> None:
    run_id = await run(submit, ended)
    answer = await ask(wes, "GET", f"{RUNS}/{run_id}/outputs/{path}")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"status_code": 404' in answer


def to_elsewhere(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def to_request(path: Path) -> None:
    path.symlink_to("../../request.json")


@pytest.mark.parametrize("plant", [to_elsewhere, to_request, Path.mkdir, os.mkfifo])
async def test_an_output_that_was_replaced_is_404(
    wes: Client, submit: Submit, ended: Ended, settings: Settings, plant: Callable[[Path], None]
) -> None:
    run_id = await run(submit, ended)
    output = settings.data / "runs" / run_id / "outputs" / "results" / "calls.vcf"
    output.unlink()
    plant(output)
    async with wes.get(f"{RUNS}/{run_id}/outputs/results/calls.vcf") as answer:
        assert answer.status == 404
        assert "root:" not in await answer.text()


async def test_a_log_that_is_a_link_is_not_followed(
    wes: Client, submit: Submit, settings: Settings
) -> None:
    run_id = await submit([{"wait": "gate"}])
    (settings.data / "runs" / run_id / "stderr.log").symlink_to("/etc/passwd")
    assert await fetch_text(wes, f"{RUNS}/{run_id}/stderr") == ""


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert open_below(tmp_path, "link/file") is None
    assert open_below(tmp_path, "real/none") is None
    assert open_below(tmp_path, "real/file/deeper") is None
    file = open_below(tmp_path, "real/file")
    assert file is not None
    with file:
        assert file.read() == b"x"
