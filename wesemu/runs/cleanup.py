"""Deletes run directories, and nothing that this server did not certainly make.

The folder of the runs may hold what others have put there. A run directory is recognised by its
name and by what lies in it; everything else stays.
"""

import asyncio
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import structlog

from wesemu.runs.model import RunId
from wesemu.runs.store import RunStore
from wesemu.runs.workspace import Workspace

log = structlog.get_logger("wesemu.cleanup")

_REMOVED = ".removed-"
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OF_A_DRAFT = frozenset({"attachments", ".request.json.tmp"})
"""What submissions of earlier versions, which had no mark, leave when they are broken off."""

_NAMES_SHOWN = 3


def put_away(workspace: Workspace) -> Path:
    """Rename a run directory, the first half of removing it. Returns where it is now."""
    away = workspace.root.with_name(_REMOVED + workspace.root.name)
    return workspace.root.rename(away) if workspace.root.exists() else away


def delete(folder: Path) -> None:
    """Delete a run directory that was put away. A link is not followed."""
    shutil.rmtree(folder, ignore_errors=True)


async def clean_up(runs: Path, store: RunStore) -> None:
    """At start-up: delete what was put away, submissions that were never accepted, and what runs
    that have ended hold of fetched inputs. Call it once the index is known to be whole."""
    drafts = await asyncio.to_thread(_clean_up_ended, runs)
    known = await store.many([RunId(folder.name) for folder in drafts])
    for folder in drafts:
        if folder.name not in known:
            await asyncio.to_thread(delete, folder)
        else:
            await asyncio.to_thread(Workspace(folder).draft.unlink, missing_ok=True)


def delete_all(runs: Path, run_ids: Collection[str]) -> None:
    """Delete the directories of these runs, of runs that the index does not know, and drafts."""
    indexed = set(run_ids)
    strange = []
    for folder in _entries(runs):
        if folder.name in indexed or is_ours(folder):
            delete(folder)
        else:
            strange.append(folder.name)
    _warn(strange)


def is_run_directory(folder: Path) -> bool:
    """Whether a submission has filled this folder."""
    return _has_run_id(folder) and Workspace(folder).request.is_file()


def _clean_up_ended(runs: Path) -> list[Path]:
    """Returns the drafts, which are for the index to confirm."""
    drafts, strange = [], []
    for folder in _entries(runs):
        workspace = Workspace(folder)
        if _is_put_away(folder):
            delete(folder)
        elif _is_draft(folder):
            drafts.append(folder)
        elif not is_run_directory(folder):
            strange.append(folder.name)
        elif workspace.state.is_file():
            delete(workspace.inputs)
    _warn(strange)
    return drafts


def _entries(runs: Path) -> Iterator[Path]:
    yield from sorted(runs.iterdir())


def is_ours(folder: Path) -> bool:
    """Whether an entry of the folder of the runs was certainly made by a server."""
    return _is_put_away(folder) or _is_draft(folder) or is_run_directory(folder)


def _is_put_away(folder: Path) -> bool:
    name = folder.name
    return name.startswith(_REMOVED) and bool(_RUN_ID.fullmatch(name.removeprefix(_REMOVED)))


def _is_draft(folder: Path) -> bool:
    workspace = Workspace(folder)
    if not _has_run_id(folder):
        return False
    if workspace.draft.is_file():
        return True
    if workspace.request.exists():
        return False
    return {path.name for path in folder.iterdir()} <= _OF_A_DRAFT


def _has_run_id(folder: Path) -> bool:
    return bool(_RUN_ID.fullmatch(folder.name)) and folder.is_dir() and not folder.is_symlink()


def _warn(strange: list[str]) -> None:
    if strange:
        log.warning(
            "entries of the folder of the runs are no run directories; they are left alone",
            count=len(strange),
            names=strange[:_NAMES_SHOWN],
        )
