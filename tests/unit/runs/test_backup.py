"""A data directory in one file, and back."""

import asyncio
import io
import os
import sqlite3
import stat
import tarfile
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from unit.runs.test_recovery import runs_of, submit_scripted
from unit.runs.test_service import ended

from wesemu.app import create_app
from wesemu.errors import InvalidRequest, SystemFault
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import DataDirectory
from wesemu.runs.maintenance import restore_backup, save_backup
from wesemu.runs.model import LOCAL_OWNER, RunState
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine


async def served(settings: Settings, clock: ManualClock) -> TestServer:
    server = TestServer(await create_app(settings, engines=[ScriptedEngine(clock)]))
    await server.start_server()
    return server


async def test_runs_are_there_again_after_a_backup_while_serving(
    settings: Settings, clock: ManualClock, tmp_path: Path
) -> None:
    server = await served(settings, clock)
    runs = runs_of(server)
    done = await submit_scripted(runs, {"task": "a"}, {"write": "b.txt", "text": "b"})
    done = await ended(runs, done)
    waiting = await submit_scripted(runs, {"wait": "gate"}, {"write": "c.txt", "text": "c"})
    output = settings.data / "runs" / done.id / "outputs" / "b.txt"
    await asyncio.to_thread(os.link, output, settings.data / "buckets" / "genes" / "b.txt")
    file = tmp_path / "backup.tar.gz"
    assert (
        await asyncio.to_thread(save_backup, DataDirectory(settings.data), file, buckets=True) == 2
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await server.close()

    restored = DataDirectory(tmp_path / "restored")
    assert await asyncio.to_thread(restore_backup, file, restored) == 2
    assert (restored.buckets / "genes").is_dir()
    second = await served(settings.model_copy(update={"data": restored.root}), clock)
    again = await runs_of(second).get(LOCAL_OWNER, done.id)
    assert (again.state, again.outputs) == (RunState.COMPLETE, done.outputs)
    assert (restored.runs / done.id / "outputs" / "b.txt").read_text() == "b"
    assert (restored.buckets / "genes" / "b.txt").read_text() == "b"
    assert (await runs_of(second).get(LOCAL_OWNER, waiting.id)).state.active
    await second.close()


def test_without_an_index_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(SystemFault, match="no index"):
        save_backup(DataDirectory(tmp_path), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def archive(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        b"",
        archive(["runs/x", "../outside"]),
        archive(["/etc/passwd"]),
        archive(["holiday.jpg"]),
        archive(["runs", "wesemu.db"] * 500)[:200],
    ],
)
def test_what_is_no_backup_is_refused_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    data = DataDirectory(tmp_path / "data")
    with pytest.raises(InvalidRequest, match="backup"):
        restore_backup(file, data)
    assert not data.root.exists() or list(data.root.iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    data.create()
    sqlite3.connect(data.index).close()
    before = sorted(path.name for path in data.root.iterdir())
    with pytest.raises(SystemFault, match="not empty"):
        restore_backup(tmp_path / "file", data)
    assert sorted(path.name for path in data.root.iterdir()) == before
