"""`/_wesemu/references`: adding, listing and removing references."""

import asyncio
import fcntl
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from api.admin.conftest import Client, Control
from api.test_verbs import wesemu
from pytest_aiohttp import AiohttpClient

from wesemu.app import create_app
from wesemu.client import AsyncClient, ClientError
from wesemu.genomics.reference import ReferenceStore
from wesemu.runs.clock import ManualClock
from wesemu.settings import Settings

__all__ = ["wesemu"]

FASTA = ">chr1\n" + "ACGTTGCATGCAAC" * 50 + "\n"


async def ready(control: Control, name: str) -> dict[str, Any]:
    """Wait until the reference is there, or has failed."""
    while True:
        [found] = [
            each for each in (await control("references"))["references"] if each["name"] == name
        ]
        if found["state"] in ("ready", "failed"):
            return dict(found)
        await asyncio.sleep(0.02)


async def test_an_upload_becomes_a_reference(
    client: Client, control: Control, settings: Settings
) -> None:
    assert await control("references") == {"references": []}
    content = io.BytesIO(gzip.compress(FASTA.encode()))
    response = await client.post("/_wesemu/references?name=Tiny", data=content)
    assert response.status == 202, await response.text()
    begun = await response.json()
    assert (begun["name"], begun["state"]) == ("tiny", "indexing")
    assert begun["bytes"] == len(content.getvalue())
    found = await ready(control, "tiny")
    assert (found["state"], found["sequences"], "bwa" in found["indexes"]) == ("ready", 1, True)
    assert (settings.data / "references" / "tiny" / "genome.fa").read_text() == FASTA
    assert not list((settings.data / "cache").glob("incoming-*"))


async def test_a_key_becomes_a_reference(control: Control) -> None:
    body = {"name": "from-bucket", "location": "oss://genes/reference/tiny/genome.fa"}
    await control("references", body, status=202)
    assert (await ready(control, "from-bucket"))["state"] == "ready"


async def test_a_wrong_fasta_is_reported_and_may_be_replaced(
    client: Client, control: Control, settings: Settings
) -> None:
    await client.post("/_wesemu/references?name=bad", data=b"no FASTA")
    failed = await ready(control, "bad")
    assert failed["state"] == "failed"
    assert str(settings.data) not in failed["error"]
    await client.post("/_wesemu/references?name=bad", data=FASTA.encode())
    assert (await ready(control, "bad"))["state"] == "ready"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"name": "../x", "location": "oss://genes/reference/tiny/genome.fa"}, 400, "cannot name"),
        ({"name": "x", "location": "oss://genes/nothing"}, 404, "nothing"),
        ({"name": "x", "location": "oss://genes/fastq"}, 404, "folder"),
        ({"name": "x", "location": "/etc/passwd"}, 400, "oss://"),
        ({"name": "x", "location": "oss://genes/a", "mapper": "minimap2"}, 400, "mapper"),
        ({"location": "oss://genes/a"}, 400, "name"),
    ],
)
async def test_wrong_requests_are_refused(
    control: Control, body: dict[str, str], status: int, said: str
) -> None:
    answer = await control("references", body, status=status)
    assert said in answer["error"]
    assert await control("references") == {"references": []}


@pytest.mark.parametrize(
    "query", ["mapper=bwa", "name=x&mapper=star", "name=x&other=1", "name=", "name=x&name=y"]
)
async def test_wrong_queries_are_refused(client: Client, control: Control, query: str) -> None:
    response = await client.post(f"/_wesemu/references?{query}", data=FASTA.encode())
    assert response.status == 400
    assert await control("references") == {"references": []}


async def test_a_name_is_free_again_if_the_upload_cannot_begin(
    client: Client, control: Control, settings: Settings
) -> None:
    cache = settings.data / "cache"
    moved = cache.rename(settings.data / "moved")
    cache.touch()
    assert (await client.post("/_wesemu/references?name=a", data=FASTA)).status == 500
    cache.unlink()
    moved.rename(cache)
    assert await control("references") == {"references": []}
    assert (await client.post("/_wesemu/references?name=a", data=FASTA)).status == 202
    assert (await ready(control, "a"))["state"] == "ready"


async def test_an_unforeseen_error_of_the_index_is_a_failure(
    client: Client, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ReferenceStore, name: str, fasta: Path, mapper: str) -> Path:
        raise RuntimeError("a bug")

    monkeypatch.setattr(ReferenceStore, "add", fail)
    await client.post("/_wesemu/references?name=a", data=FASTA)
    failed = await ready(control, "a")
    assert (failed["state"], "the server's log" in failed["error"]) == ("failed", True)


async def test_the_client_waits_for_the_index(client: Client, tmp_path: Path) -> None:
    fasta = tmp_path / "a.fa"
    fasta.write_text(FASTA)
    async with AsyncClient(str(client.make_url("/"))) as there:
        added = await there.control.add_reference("a", fasta)
        assert (added["name"], added["state"]) == ("a", "ready")
        fasta.write_text("nothing")
        with pytest.raises(ClientError, match="the reference b was not added"):
            await there.control.add_reference("b", fasta)


async def test_the_command_line_adds_to_a_server(wesemu, client: Client, tmp_path: Path) -> None:
    fasta = tmp_path / "a.fa"
    fasta.write_text(FASTA)
    url = str(client.make_url("/"))
    status, out, err = await wesemu("reference", "add", "tiny", str(fasta), "--server", url)
    assert (status, out) == (0, "tiny\n"), err
    location = "oss://genes/reference/tiny/genome.fa"
    assert (await wesemu("reference", "add", "other", location, "--server", url))[0] == 0
    response = await client.get("/_wesemu/references")
    assert [each["name"] for each in json.loads(await response.text())["references"]] == [
        "other",
        "tiny",
    ]
    status, _, err = await wesemu("reference", "add", "no", str(tmp_path / "no"), "--server", url)
    assert (status, "there is no file" in err) == (2, True)


async def test_a_reference_is_removed_and_its_name_is_free(
    client: Client, control: Control, settings: Settings
) -> None:
    await client.post("/_wesemu/references?name=tiny", data=FASTA)
    await ready(control, "tiny")
    response = await client.delete("/_wesemu/references/Tiny")
    assert (response.status, await response.json()) == (200, {"references": []})
    assert not (settings.data / "references" / "tiny").exists()
    await client.post("/_wesemu/references?name=tiny", data=FASTA.replace("chr1", "chr2"))
    assert (await ready(control, "tiny"))["state"] == "ready"


async def test_the_entry_of_a_failed_reference_is_removed(client: Client, control: Control) -> None:
    await client.post("/_wesemu/references?name=bad", data="no FASTA")
    assert (await ready(control, "bad"))["state"] == "failed"
    response = await client.delete("/_wesemu/references/bad")
    assert (await response.json())["references"] == []
    assert (await client.delete("/_wesemu/references/bad")).status == 404


async def test_a_server_removes_what_an_earlier_one_left_when_it_was_killed(
    aiohttp_client: AiohttpClient, settings: Settings, clock: ManualClock
) -> None:
    incoming = settings.data / "cache" / "incoming-abc"
    builds = [settings.data / "references" / f".build-{name}" for name in ("dead", "live")]
    for folder in (incoming, *builds):
        folder.mkdir(parents=True)
        (folder / "genome.fa").write_text(">a\nACGT\n")
    handle = os.open(builds[1], os.O_RDONLY)  # as `wesemu reference add` in another process
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        await aiohttp_client(await create_app(settings, clock=clock, engines=[]))
        assert not incoming.exists()
        assert [build.exists() for build in builds] == [False, True]
    finally:
        os.close(handle)
