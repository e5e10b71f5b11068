"""Disks that are full when a server starts, or when a backup is written or restored."""

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from support.small_disk import fill, small_disk

from wesemu.app import create_app
from wesemu.errors import DiskFull, StoreError, SystemFault
from wesemu.runs.backup import restore_backup, save_backup
from wesemu.runs.data_directory import DataDirectory
from wesemu.runs.outcome import fault
from wesemu.runs.run_directory import copy_tree
from wesemu.runs.store import RunStore
from wesemu.settings import Settings


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "2m") as folder:
        yield folder


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    """A data directory with a bucket of 1.5 MB, and an index."""
    directory = DataDirectory(tmp_path / "data")
    directory.create()
    sqlite3.connect(directory.index).close()
    (directory.buckets / "genes").mkdir()
    (directory.buckets / "genes" / "reads").write_bytes(os.urandom(1_500_000))
    return directory


@pytest.mark.parametrize("blocks", [0, 2, 4, 16])
async def test_a_server_does_not_start_on_a_full_disk_and_starts_with_room(
    disk: Path, blocks: int
) -> None:
    """Whatever was written until the disk was full, the next start is a first start."""
    await asyncio.to_thread(fill, disk / "others", leave=blocks)
    settings = await asyncio.to_thread(Settings, data=disk / "data")
    with pytest.raises(DiskFull, match=f"cannot write .*{disk}/data.*: the disk is full; make"):
        await create_app(settings, engines=[])
    await asyncio.to_thread((disk / "others").unlink)
    server = TestServer(await create_app(settings, engines=[]))
    await server.start_server()
    await server.close()


def test_a_secret_that_was_cut_by_a_full_disk_is_replaced(data: DataDirectory) -> None:
    path = data.root / "secret"
    path.touch(mode=0o600)
    secret = data.secret()
    assert (len(secret), path.read_bytes(), data.secret()) == (32, secret, secret)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_an_index_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "wesemu.db-wal").mkdir()
    with pytest.raises(StoreError, match=r"cannot open the index .*Check that") as refusal:
        await RunStore.open(tmp_path / "wesemu.db")
    assert "rebuild" not in str(refusal.value)


def test_a_backup_on_a_full_disk_names_it_and_leaves_nothing(
    disk: Path, data: DataDirectory
) -> None:
    fill(disk / "others", leave=4)
    with pytest.raises(DiskFull, match=f"cannot write to {disk}: the disk is full"):
        save_backup(data, disk / "backup.tar.gz", buckets=True)
    assert [path.name for path in disk.iterdir()] == ["others"]


def test_an_index_that_does_not_fit_on_the_disk_of_the_backup(
    disk: Path, data: DataDirectory
) -> None:
    with sqlite3.connect(data.index) as connection:
        connection.execute("CREATE TABLE large AS SELECT zeroblob(3000000)")
    connection.close()
    with pytest.raises(SystemFault, match=f"cannot copy the index .* to {disk}: .*is full"):
        save_backup(data, disk / "backup.tar.gz")
    assert list(disk.iterdir()) == []


def test_a_full_data_directory_is_backed_up_to_another_disk(disk: Path, tmp_path: Path) -> None:
    data = DataDirectory(disk / "data")
    data.create()
    sqlite3.connect(data.index).close()
    fill(data.buckets / "others")
    assert save_backup(data, tmp_path / "backup.tar.gz") == 0


def test_a_backup_that_does_not_fit_leaves_an_empty_directory(
    disk: Path, data: DataDirectory, tmp_path: Path
) -> None:
    save_backup(data, tmp_path / "backup.tar.gz", buckets=True)
    fill(disk / "others", leave=200)
    target = DataDirectory(disk / "restored")
    with pytest.raises(DiskFull, match=f"cannot write to {disk}/restored: the disk is full"):
        restore_backup(tmp_path / "backup.tar.gz", target)
    assert list(target.root.iterdir()) == []
    (disk / "others").unlink()
    assert restore_backup(tmp_path / "backup.tar.gz", target) == 0


def test_a_copied_folder_that_does_not_fit_has_an_ordinary_error(
    disk: Path, data: DataDirectory
) -> None:
    """`shutil.Error` would show the paths of the server to the owner of the run."""
    fill(disk / "others", leave=8)
    with pytest.raises(OSError, match="No space left on device") as error:
        copy_tree(data.buckets, disk / "work")
    assert fault(error.value)[1].message == "reads: the disk is full"
