"""A disk that becomes read-only, as Linux does after errors: every error names the reason."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs
from support.rights import only_permitted_files
from support.small_disk import make_read_only, small_disk

from wesemu.app import create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import DataDirectory
from wesemu.settings import Settings
from wesemu.storage.snapshots import PathMarks, SnapshotState, save
from wesemu.testing.fake_engine import ScriptedEngine


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "8m") as folder:
        yield folder


async def test_a_bucket_that_cannot_be_written_is_read_and_refuses_changes(
    disk: Path, settings: Settings, clock: ManualClock
) -> None:
    """Also with a file of an upload that an earlier server did not end."""
    (disk / ".wesemu" / "incoming").mkdir(parents=True)
    (disk / ".wesemu" / "incoming" / "tmpabcdefgh").touch()
    (disk / "reads.fq").write_bytes(b"reads")
    make_read_only(disk)
    await asyncio.to_thread((settings.data / "buckets" / "shared").symlink_to, disk)
    with capture_logs() as logs:
        app = await create_app(settings, clock=clock, engines=[ScriptedEngine(clock)])
    assert [log["bucket"] for log in logs if log["event"] == "bucket is not accessible"] == [
        "shared"
    ]
    async with TestClient(TestServer(app)) as client:
        assert await (await client.get("/oss/shared/reads.fq")).read() == b"reads"
        with capture_logs() as logs:
            for change in (
                client.put("/oss/shared/a", data=b""),
                client.delete("/oss/shared/reads.fq"),
            ):
                response = await change
                text = await response.text()
                assert (response.status, "the file system is read-only" in text) == (403, True)
        assert not any("exc_info" in log for log in logs)


async def test_runs_that_cannot_be_written_are_refused_with_the_reason(
    settings: Settings, clock: ManualClock
) -> None:
    runs = settings.data / "runs"
    with ExitStack() as mounts:
        await asyncio.to_thread(mounts.enter_context, small_disk(runs))
        await asyncio.to_thread(make_read_only, runs)
        app = await create_app(settings, clock=clock, engines=[ScriptedEngine(clock)])
        async with TestClient(TestServer(app)) as client:
            with capture_logs() as logs:
                response = await client.post("/ga4gh/wes/v1/runs", json={"workflow_url": "mapping"})
                message = (await response.json())["msg"]
            assert (response.status, "the file system is read-only" in message) == (500, True)
            assert not any("exc_info" in log for log in logs)
            response = await client.get("/_wesemu/ready")
            assert (response.status, "may not be read and written" in await response.text()) == (
                503,
                True,
            )
        await asyncio.to_thread(mounts.close)


def test_a_snapshot_does_not_leave_out_what_it_may_not_read(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    data.create()
    hidden = data.buckets / "genes" / "hidden"
    hidden.mkdir(parents=True, mode=0o000)
    state = SnapshotState(datetime(2020, 1, 1, tzinfo=UTC), 1.0)
    try:
        with only_permitted_files(), pytest.raises(PermissionError, match="hidden"):
            save(data, PathMarks({"data": str(data.root)}), tmp_path / "snapshot", state)
    finally:
        hidden.chmod(0o700)
