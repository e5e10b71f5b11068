"""Submits the request of an ended run again; the new run reuses the finished files of the old one.

By its own records, Snakemake repeats jobs with changed parameters, code or inputs. Files that it
has recorded as outputs become hard links in the new run. All other files stay behind: a tool may
change them in place, and that must not change the earlier run.
"""

import asyncio
import base64
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from wesemu.errors import RunActive
from wesemu.runs.model import JsonObject, Owner, RunRequest
from wesemu.runs.run_directory import Workspace, copy_tree
from wesemu.runs.service import RunDraft, RunService

RESUMES = "wesemu.resumes"
"""Tag of a resumed run: the id of the earlier one."""

_RECORDS = (Path(".snakemake/metadata"), Path(".snakemake/incomplete"))


async def resume_draft(
    runs: RunService, owner: Owner, run_id: str, params: JsonObject, *, from_scratch: bool
) -> tuple[RunRequest, RunDraft]:
    """Return the request of a run that has ended, and a draft with its attachments and files.

    `params` are added or replaced. With `from_scratch` no file of the earlier run is reused. Raises
    RunNotFound, Forbidden, and RunActive for a run that has not ended.
    """
    run = await runs.get(owner, run_id)
    if run.state.active:
        raise RunActive(f"run {run.id} is {run.state}; resume it once it has ended")
    draft = await runs.draft()
    try:
        old, new = runs.workspace(run), draft.files.workspace
        await asyncio.to_thread(_reuse, old, new, from_scratch=from_scratch)
    except BaseException:
        await runs.discard(draft)
        raise
    request = replace(
        run.request,
        key=None,
        params={**run.request.params, **params},
        tags={**run.request.tags, RESUMES: run.id},
    )
    return request, draft


def _reuse(old: Workspace, new: Workspace, *, from_scratch: bool) -> None:
    if old.attachments.is_dir():
        copy_tree(old.attachments, new.attachments, copy_function=_link, dirs_exist_ok=True)
    if from_scratch or old.work.is_symlink() or not old.work.is_dir():
        return
    for name in sorted(_finished(old)):
        target = new.work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            _link(old.work / name, target)
    for records in _RECORDS:
        if (old.work / records).is_dir() and not _is_below_link(old.work, records / "x"):
            copy_tree(old.work / records, new.work / records, symlinks=True)


def _finished(old: Workspace) -> Iterator[Path]:
    """Yield the recorded outputs that exist: files, links, and the files of output folders."""
    for name in _recorded(old.work / _RECORDS[0]):
        path = old.work / name
        # prepare() replaces files of the same name by the attachments
        if _is_below_link(old.work, name) or (old.attachments / name).exists():
            continue
        if path.is_file() or path.is_symlink():
            yield name
        elif path.is_dir():
            for folder, _, files in os.walk(path):
                yield from (Path(folder, file).relative_to(old.work) for file in files)


def _recorded(metadata: Path) -> Iterator[Path]:
    """Yield the outputs that Snakemake has recorded: the names of its records are base64."""
    for folder, _, files in os.walk(metadata):
        parents = Path(folder).relative_to(metadata).parts
        for file in files:
            text = "".join([*(part.removeprefix("@") for part in parents), file])
            try:
                name = PurePosixPath(base64.urlsafe_b64decode(text).decode())
            except ValueError:
                continue
            if not name.is_absolute() and ".." not in name.parts:
                yield Path(name)


def _is_below_link(top: Path, name: Path) -> bool:
    """Return whether a parent folder of `name` below `top` is a link, which could lead anywhere."""
    return any((top / folder).is_symlink() for folder in name.parents)


def _link(source: str | Path, target: str | Path) -> None:
    os.link(source, target, follow_symlinks=False)
