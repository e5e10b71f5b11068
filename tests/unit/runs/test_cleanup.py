"""Clean-up deletes only files that a server has certainly made."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from support.nested_folders import nested_folders
from support.rights import only_permitted_files
from unit.runs.test_store import a_run

from wesemu.runs.maintenance import DirectoryCheck, delete, delete_all, trash
from wesemu.runs.model import RunId
from wesemu.runs.run_directory import RunDirectoryDraft, Workspace
from wesemu.runs.store import RunStore

FILLED = str(UUID(int=1, version=4))
ENDED = str(UUID(int=2, version=4))
LOST_REQUEST = str(UUID(int=3, version=4))
INDEXED = str(UUID(int=4, version=4))
FOREIGN = {
    "240101_NB501/Data/a.bcl",
    f"{LOST_REQUEST}/work/result.bam",
    f"{LOST_REQUEST}/attachments/Snakefile",
    f"{INDEXED}/attachments/Snakefile",
    ".removed-by-me/thesis.tex",
    ".git/config",
    f"x{UUID(int=5, version=4)}/attachments/Snakefile",
    "notes.txt",
}
OURS = {f"{FILLED}/request.json", f"{ENDED}/request.json", f"{ENDED}/state.json"}
GONE = {
    f"{ENDED}/inputs/reads.fq",
    f".removed-{UUID(int=6, version=4)}/work/old",
    f"{UUID(int=7, version=4)}/attachments/Snakefile",
    f"{UUID(int=8, version=4)}/attachments/.keep",
}


def files(root: Path) -> set[str]:
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return found | {path.name for path in root.iterdir() if path.is_symlink()}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    for name in FOREIGN | OURS | GONE:
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_text("")
    draft = RunDirectoryDraft(runs / str(UUID(int=9, version=4)))
    draft.create()
    (draft.workspace.root / "work").mkdir()
    (draft.workspace.root / "work" / "planned").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "attachments").mkdir()
    (tmp_path / "elsewhere" / "attachments" / "a").touch()
    (runs / str(UUID(int=10, version=4))).symlink_to(tmp_path / "elsewhere")
    return runs


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    store = await RunStore.open(tmp_path / "wesemu.db")
    await store.insert(replace(a_run("indexed"), id=RunId(INDEXED)))
    yield store
    await store.close()


async def test_at_the_start_only_leftovers_go(runs: Path, store: RunStore) -> None:
    link = str(UUID(int=10, version=4))
    with capture_logs() as logs:
        await DirectoryCheck(store, runs).run()
    assert await asyncio.to_thread(files, runs) == FOREIGN | OURS | {link}
    # The two runs outside the index have empty requests.
    assert [entry["event"] for entry in logs] == [
        "run directory is unreadable",
        "run directory is unreadable",
        "unknown entries in the folder of the runs; leaving them alone",
    ]
    assert (runs / link / "attachments" / "a").is_file()


async def test_a_submission_in_progress_is_left_alone(runs: Path, store: RunStore) -> None:
    draft = str(UUID(int=9, version=4))
    check = DirectoryCheck(store, runs, is_open=lambda run_id: run_id == draft)
    await check.run()
    assert (runs / draft / ".draft").is_file()
    await DirectoryCheck(store, runs).run()
    assert not (runs / draft).exists()


async def test_names_that_are_not_utf8_are_foreign(tmp_path: Path, store: RunStore) -> None:
    (tmp_path / "runs").mkdir()
    os.mkdir(os.fsencode(tmp_path / "runs") + b"/\xff")  # noqa: PTH102
    with capture_logs() as logs:
        await DirectoryCheck(store, tmp_path / "runs").run()
    assert [entry.get("count") for entry in logs] == [1, None]
    assert logs[1]["example"] == INDEXED


async def test_forgetting_all_runs_leaves_what_is_no_run(runs: Path) -> None:
    await asyncio.to_thread(delete_all, runs, [INDEXED])
    left = await asyncio.to_thread(files, runs)
    kept = {name for name in FOREIGN if not name.startswith(INDEXED)}
    assert left == kept | {str(UUID(int=10, version=4))}


def test_a_draft_never_takes_a_directory_that_is_there(tmp_path: Path) -> None:
    (tmp_path / FILLED).mkdir()
    with pytest.raises(FileExistsError):
        RunDirectoryDraft(tmp_path / FILLED).create()


def test_folders_without_permissions_are_deleted_and_targets_of_links_left(tmp_path: Path) -> None:
    """Snakemake's `protected(directory())` takes the permission to write."""
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o555)
    inner = tmp_path / "run" / "work" / "protected" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    (inner.parent / "link").symlink_to(outside)
    for folder, mode in ((inner, 0o000), (inner.parent, 0o555), (tmp_path / "run", 0o111)):
        folder.chmod(mode)
    with only_permitted_files():
        delete(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert outside.stat().st_mode & 0o777 == 0o555


def test_a_folder_of_any_depth_is_deleted(tmp_path: Path) -> None:
    with nested_folders(tmp_path / "run"):
        delete(tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_run_that_two_requests_remove_goes_to_one_place(tmp_path: Path) -> None:
    (tmp_path / FILLED).mkdir()
    assert trash(Workspace(tmp_path / FILLED)) == trash(Workspace(tmp_path / FILLED))
