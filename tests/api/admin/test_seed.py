"""The settings `seed` and `init`: what a new server starts with, and what a reset restores."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api.admin.conftest import Client
from support.scripted import REFERENCE, scripted_engine

from wesemu.app import create_app
from wesemu.cli.init_scripts import find_scripts, run_scripts
from wesemu.cli.output import CommandRefused
from wesemu.errors import InvalidRequest
from wesemu.runs.clock import ManualClock
from wesemu.settings import Settings
from wesemu.storage.seed import read_seed

RUNS = "/ga4gh/wes/v1/runs"
OF_ONE_ANSWER = re.compile(
    r'<RequestId>[^<]+|"request_?[iI]d": ?"[^"]+"|"wall":"[^"]+"|"task_logs": \[.*?\}\]'
)
"""Random ids of requests, and times that the machine's own clock measured."""
Start = Callable[[str, datetime], Awaitable[Client]]


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    folder = tmp_path / "seed"
    (folder / "genes" / "fastq").mkdir(parents=True)
    for mate in ("1", "2"):
        (folder / "genes" / "fastq" / f"a_{mate}.fq.gz").write_bytes(mate.encode())
    (folder / "empty-bucket").mkdir()
    (folder / "Tiny.fa").write_text(REFERENCE)
    (folder / "README.md").write_text("a note")
    return folder


@pytest.fixture
def start(settings: Settings, seed: Path, tmp_path: Path, aiohttp_client: Any) -> Start:
    """Return a function that starts a server with a data directory of this name, at a time."""

    async def start(name: str, now: datetime) -> Client:
        clock = ManualClock(now)
        own = settings.model_copy(update={"data": tmp_path / name, "seed": seed})
        own.clock.speed = 0
        app = await create_app(own, clock=clock, engines=[scripted_engine(clock)])
        client: Client = await aiohttp_client(app)
        return client

    return start


async def answers(client: Client) -> list[str]:
    """Use all APIs and return what they answer, without what is random in each answer."""
    told: list[str] = []

    async def ask(method: str, path: str, **arguments: Any) -> str:
        response = await client.request(method, path, **arguments)
        text = (await response.text()).replace(f":{client.port}", "")
        headers = [response.headers.get(name) for name in ("ETag", "Last-Modified", "Content-Type")]
        told.append(f"{response.status} {headers} {OF_ONE_ANSWER.sub('', text)}")
        return text

    for path in ("/oss/", "/oss/genes", "/oss/genes/fastq/a_1.fq.gz", "/_wesemu/references"):
        await ask("GET", path)
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in (("workflow_type", "SMK"), ("workflow_type_version", "9.27.1")):
        form.add_field(name, value)
    form.add_field("workflow_attachment", b"# x\n", filename="Snakefile")
    await ask("POST", RUNS, data=form)
    job = {
        "workflow_type": "mapping",
        "mapping_bucket_name": "genes",
        "mapping_fastq_first_name": "fastq/a_1.fq.gz",
        "mapping_fastq_second_name": "fastq/a_2.fq.gz",
        "mapping_reference_file": "tiny",
        "mapping_bam_file_name": "out/a.bam",
    }
    await ask("POST", "/gs/workflow", json=job)
    while True:
        listed = await (await client.get(RUNS)).json()
        if all(run["state"] == "COMPLETE" for run in listed["runs"]):
            break
        await asyncio.sleep(0.02)
    for run in listed["runs"]:
        await ask("GET", f"{RUNS}/{run['run_id']}")
    for path in (RUNS, "/gs/workflows", "/_wesemu/clock", "/ga4gh/wes/v1/service-info"):
        await ask("GET", path)
    return told


async def test_two_servers_with_one_seed_answer_the_same_byte_for_byte(start: Start) -> None:
    first = await start("one", datetime(2020, 1, 1, tzinfo=UTC))
    second = await start("two", datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC))
    answered = await answers(first)
    assert len(answered) == 12
    assert "2026-01-01T00:00:00Z" in "".join(answered)
    assert await answers(second) == answered
    # and again after a reset
    report = await (await first.post("/_wesemu/reset", json={})).json()
    assert report == {"runs": 2, "buckets": True}
    assert await answers(first) == answered


async def test_a_reset_restores_the_buckets_of_the_seed(start: Start, tmp_path: Path) -> None:
    client = await start("data", datetime(2020, 1, 1, tzinfo=UTC))
    buckets = tmp_path / "data" / "buckets"
    await client.put("/oss/genes/fastq/a_1.fq.gz", data=b"changed")
    await client.delete("/oss/genes/fastq/a_2.fq.gz")
    await client.put("/oss/genes/more", data=b"more")
    await client.put("/oss/another")
    await client.post("/_wesemu/clock/advance", json={"days": 1})
    await client.post("/_wesemu/reset", json={})
    assert {each.name for each in buckets.iterdir()} == {"genes", "empty-bucket"}
    files = {path.name: path.read_bytes() for path in buckets.rglob("*") if path.is_file()}
    assert files == {"a_1.fq.gz": b"1", "a_2.fq.gz": b"2"}


async def test_another_start_keeps_what_has_changed(start: Start, tmp_path: Path) -> None:
    client = await start("data", datetime(2020, 1, 1, tzinfo=UTC))
    await client.put("/oss/genes/fastq/a_1.fq.gz", data=b"changed")
    await client.delete("/oss/empty-bucket")
    await client.post("/_wesemu/clock/advance", json={"days": 1})
    await client.close()
    client = await start("data", datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=1))
    assert await (await client.get("/oss/genes/fastq/a_1.fq.gz")).read() == b"changed"
    assert (await client.get("/oss/empty-bucket")).status == 200
    assert (await (await client.get("/_wesemu/clock")).json())["now"] > "2026-01-02"


def test_what_no_seed_can_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is not a folder"):
        read_seed(tmp_path / "nowhere")
    (tmp_path / "UP").mkdir()
    with pytest.raises(InvalidRequest, match="'UP' of the seed"):
        read_seed(tmp_path)


def script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


async def test_init_scripts_run_in_order_and_know_the_server(tmp_path: Path) -> None:
    folder = tmp_path / "init"
    folder.mkdir()
    script(folder, "2.sh", f'echo "second $WESEMU_SERVER" >> {tmp_path}/log')
    script(folder, "1.sh", f"echo first >> {tmp_path}/log")
    (folder / ".hidden").write_text("")
    scripts = await asyncio.to_thread(find_scripts, folder)
    await run_scripts(scripts, {"WESEMU_SERVER": "http://here"}, asyncio.Event())
    assert (tmp_path / "log").read_text() == "first\nsecond http://here\n"


async def test_an_init_script_that_fails_ends_the_server(tmp_path: Path) -> None:
    script(tmp_path, "bad.sh", "exit 3")
    with pytest.raises(CommandRefused, match=r"bad\.sh ended with status 3"):
        await run_scripts(await asyncio.to_thread(find_scripts, tmp_path), {}, asyncio.Event())


async def test_a_stop_ends_an_init_script(tmp_path: Path) -> None:
    script(tmp_path, "long.sh", "sleep 1000 & wait")
    script(tmp_path, "next.sh", f"touch {tmp_path}/never")
    stopped = asyncio.Event()
    stopped.set()
    await run_scripts(await asyncio.to_thread(find_scripts, tmp_path), {}, stopped)
    assert not (tmp_path / "never").exists()


def test_init_takes_a_folder_of_programs(tmp_path: Path) -> None:
    with pytest.raises(CommandRefused, match="there is no folder"):
        find_scripts(tmp_path / "nowhere")
    (tmp_path / "text").write_text("")
    with pytest.raises(CommandRefused, match=r"chmod \+x"):
        find_scripts(tmp_path)
    assert find_scripts(None) == []


def test_files_that_cannot_be_copied_are_named(seed: Path, tmp_path: Path) -> None:
    buckets = tmp_path / "buckets"
    buckets.mkdir()
    os.mkfifo(seed / "genes" / "pipe")
    with pytest.raises(InvalidRequest, match=r"genes/pipe.* is a named pipe"):
        read_seed(seed).fill_buckets(buckets)
    (seed / "genes" / "pipe").unlink()
    (seed / "genes" / "link").symlink_to("nothing")
    with pytest.raises(InvalidRequest, match=r"genes/link: .*No such file"):
        read_seed(seed).fill_buckets(buckets)
    assert not (buckets / "genes").exists()


def test_two_files_for_one_reference_are_refused(seed: Path) -> None:
    (seed / "tiny.fna").write_text(REFERENCE)
    with pytest.raises(InvalidRequest, match=r"Tiny\.fa and tiny\.fna of the seed"):
        read_seed(seed)
