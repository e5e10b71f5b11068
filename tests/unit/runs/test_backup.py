"""Backups of a data directory, and their restoration."""

import asyncio
import gzip
import hashlib
import io
import os
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from unit.runs.test_recovery import runs_of, submit_scripted
from unit.runs.test_service import ended

from wesemu.app import create_app
from wesemu.errors import InvalidRequest, SystemFault
from wesemu.runs.backup import add_entry, restore_backup, save_backup
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import DataDirectory
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


def test_a_backup_in_a_bucket_does_not_contain_itself(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    data.create()
    sqlite3.connect(data.index).close()
    (data.buckets / "genes").mkdir()
    file = data.buckets / "genes" / "backup.tar.gz"
    save_backup(data, file, buckets=True)
    with tarfile.open(file) as written:
        assert [name for name in written.getnames() if name.startswith("buckets/genes/")] == []


async def test_objects_keep_their_digests_and_metadata(
    settings: Settings, clock: ManualClock, tmp_path: Path
) -> None:
    """Records of objects hold for the exact mtime of the file, in nanoseconds."""
    server = await served(settings, clock)
    sent = {"x-oss-meta-sample": "NA12878", "Content-Type": "application/x-bam"}
    async with aiohttp.ClientSession(server.make_url("/oss/genes/")) as client:
        (await client.put("a.bam", data=b"reads", headers=sent)).raise_for_status()
        before = await client.head("a.bam")
    data, restored = DataDirectory(settings.data), DataDirectory(tmp_path / "restored")
    await asyncio.to_thread(save_backup, data, tmp_path / "backup.tar.gz", buckets=True)
    await server.close()
    await asyncio.to_thread(restore_backup, tmp_path / "backup.tar.gz", restored)
    second = await served(settings.model_copy(update={"data": restored.root}), clock)
    async with aiohttp.ClientSession(second.make_url("/oss/genes/")) as client:
        after = await client.head("a.bam")
    assert before.headers["ETag"] == f'"{hashlib.md5(b"reads").hexdigest().upper()}"'
    for name in ("ETag", "x-oss-hash-crc64ecma", *sent):
        assert after.headers[name] == before.headers[name]
    await second.close()


def test_a_file_that_becomes_shorter_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.bam"
    path.write_bytes(bytes(100_000))
    with tarfile.open(tmp_path / "tar", "w") as archive, path.open("rb") as file:
        entry = archive.gettarinfo(arcname="a.bam", fileobj=file)
        os.truncate(path, 10)
        with pytest.raises(SystemFault, match=f"{path} became shorter while it was read"):
            add_entry(archive, entry, file, path)


def test_the_missing_folder_of_a_backup_is_named(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    data.create()
    sqlite3.connect(data.index).close()
    with pytest.raises(InvalidRequest, match=f"the folder {tmp_path}/no does not exist"):
        save_backup(data, tmp_path / "no" / "file")


def archive(names: list[str], kind: bytes = tarfile.REGTYPE, **headers: str) -> bytes:
    """Return a backup with an index, a run and further entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for folder in ("runs", "runs/a"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for file in ("wesemu.db", "runs/a/stderr.log"):
            entry = tarfile.TarInfo(file)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"text"))
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.pax_headers = kind, "wesemu.db", headers
            tar.addfile(entry)
    return buffer.getvalue()


def recompressed(change: Callable[[bytes], bytes]) -> bytes:
    """Return a backup whose tar file is changed, with a right checksum."""
    return gzip.compress(change(gzip.decompress(archive([]))))


WHOLE = archive([])
DAMAGED = {
    "text": b"no archive",
    "nothing": b"",
    "path that leaves": archive(["runs/x", "../outside"]),
    "absolute path": archive(["/etc/passwd"]),
    "other file": archive(["holiday.jpg"]),
    "symbolic link": archive(["runs/x"], tarfile.SYMTYPE),
    "hard link": archive(["runs/x"], tarfile.LNKTYPE),
    "device": archive(["runs/x"], tarfile.CHRTYPE),
    "fifo": archive(["runs/x"], tarfile.FIFOTYPE),
    "file twice": archive(["wesemu.db"]),
    "file in a file": archive(["wesemu.db/x"]),
    "long name": archive(["runs/" + "x" * 300]),
    "name with a zero byte": archive(["runs/x"], path="runs/\0"),
    "file with holes": archive(["runs/x"], **{"GNU.sparse.map": "0,0", "GNU.sparse.size": "9"}),
    "wrong size": archive(["runs/x"], **{"GNU.sparse.map": "a", "GNU.sparse.size": "b"}),
    "time that is not a number": archive(["runs/x"], mtime="nan"),
    "time without end": archive(["runs/x"], mtime="inf"),
    "cut off": WHOLE[: len(WHOLE) // 2],
    "wrong checksum": WHOLE[:-8] + b"\1\2\3\4" + WHOLE[-4:],
    "no tar file": gzip.compress(b"x" * 2000),
    "empty tar file": gzip.compress(b"\0" * 10240),
    "no index": recompressed(lambda tar: tar.replace(b"wesemu.db", b"secret\0\0\0")),
    "damaged entry": recompressed(lambda tar: tar.replace(b"runs/a/stderr", b"runs/a/stdout")),
    "cut off between entries": recompressed(lambda tar: tar[:2048]),
    "more after its end": recompressed(lambda tar: tar + tar),
}


def test_a_backup_without_runs_is_restored(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(WHOLE)
    assert restore_backup(tmp_path / "file", DataDirectory(tmp_path / "data")) == 0
    assert (tmp_path / "data" / "runs" / "a" / "stderr.log").read_text() == "text"


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_backup_is_refused_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    data = DataDirectory(tmp_path / "data")
    with pytest.raises(InvalidRequest, match="backup"):
        restore_backup(file, data)
    assert not data.root.exists() or list(data.root.iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_a_backup_that_cannot_be_opened_makes_no_directory(tmp_path: Path) -> None:
    for file in (tmp_path / "none", tmp_path):
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            restore_backup(file, DataDirectory(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    data.create()
    sqlite3.connect(data.index).close()
    before = sorted(path.name for path in data.root.iterdir())
    with pytest.raises(SystemFault, match="not empty"):
        restore_backup(tmp_path / "file", data)
    assert sorted(path.name for path in data.root.iterdir()) == before


def test_a_backup_does_not_replace_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "wesemu.db").touch()
    with pytest.raises(InvalidRequest, match="a device, a pipe or a socket"):
        save_backup(DataDirectory(tmp_path), tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["wesemu.db", "runs/x", "new.tar.gz"])
def test_a_backup_does_not_replace_files_of_the_server(tmp_path: Path, name: str) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "wesemu.db").write_text("index")
    with pytest.raises(InvalidRequest, match="is in the data directory"):
        save_backup(DataDirectory(tmp_path), tmp_path / name)
    assert (tmp_path / "wesemu.db").read_text() == "index"
