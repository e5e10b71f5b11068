"""A disk that fills up: the run ends with the reason, the server goes on, nothing is lost."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wesemu.client import Client, connect
from wesemu.client.wes import RunDetail
from wesemu.runs.model import RunState

GREEDY = """
rule all:
    input: "big", "small"

rule small:
    output: "small"
    shell: "echo small > {output}"

rule big:
    input: "small"
    output: "big"
    shell: "head -c 100000000 /dev/zero > {output}"
"""
MODEST = """
rule modest:
    output: "modest"
    shell: "echo modest > {output}"
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The data directory on a file system of 32 MB."""
    folder = tmp_path / "data"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_run_that_fills_the_disk_ends_with_the_reason(
    small_disk: Path, serve, tmp_path: Path
) -> None:
    server = await asyncio.to_thread(serve)
    async with asyncio.timeout(60), connect(server.url) as client:
        greedy = await end_of(client, tmp_path, "greedy", GREEDY)
        assert greedy.state is RunState.EXECUTOR_ERROR, greedy.raw
        assert greedy.error is not None
        assert "No space left on device" in greedy.error
        # once somebody has made room, all is as before
        (small_disk / "runs" / greedy.id / "work" / "big").unlink(missing_ok=True)
        modest = await end_of(client, tmp_path, "modest", MODEST)
        assert modest.state is RunState.COMPLETE
        assert (small_disk / "wesemu.db.reserve").stat().st_size == 4 << 20


async def end_of(client: Client, folder: Path, name: str, text: str) -> RunDetail:
    path = folder / name
    path.write_text(text)
    run_id = await client.wes.submit(name, {}, attachments=[(name, path)])
    return [detail async for detail in client.wes.follow(run_id)][-1]
