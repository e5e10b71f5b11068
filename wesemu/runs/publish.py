"""Results leave the working directory: into the run's `outputs/`, and to where they were asked.

Everything is made under temporary names first and renamed at the end, so that a reader sees a
whole file or none, and a failed run publishes nothing.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from wesemu.errors import EngineFault
from wesemu.runs.model import OutputFile
from wesemu.runs.ports import Publication
from wesemu.runs.workspace import Workspace, sync_folder


def publish(workspace: Workspace, publications: Sequence[Publication]) -> tuple[OutputFile, ...]:
    """Publish all or nothing; returns what there is now.

    Raises EngineFault when a result that is not optional is missing, OSError when the disk is
    full or a folder cannot be written.
    """
    if workspace.outputs.is_symlink():  # a workflow's doing
        workspace.outputs.unlink()
    present = [p for p in publications if _present(workspace, p)]
    staged: list[tuple[Path, Path]] = []
    try:
        for publication in present:
            source = workspace.work / publication.result
            for target in _targets(workspace, publication):
                temporary = target.with_name(f".{target.name}.{workspace.root.name}.part")
                staged.append((temporary, target))
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.unlink(missing_ok=True)
                _link_or_copy(source, temporary)
        outputs = tuple(_describe(workspace, publication) for publication in present)
        for temporary, target in staged:
            temporary.replace(target)
    except OSError:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
        raise
    for folder in {target.parent for _, target in staged}:
        sync_folder(folder)
    return outputs


def _present(workspace: Workspace, publication: Publication) -> bool:
    source = workspace.work / publication.result
    if source.is_file() and source.resolve().is_relative_to(workspace.work.resolve()):
        return True
    if publication.optional:
        return False
    raise EngineFault(f"the workflow ended well but left no file {publication.result}; see its log")


def _targets(workspace: Workspace, publication: Publication) -> list[Path]:
    own = workspace.outputs / publication.result
    return [own] if publication.destination is None else [own, publication.destination]


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system allows one (no second copy of a genome), else a copy."""
    resolved = source.resolve()
    try:
        os.link(resolved, target)
    except OSError:
        shutil.copyfile(resolved, target)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _describe(workspace: Workspace, publication: Publication) -> OutputFile:
    """Reads the whole file: 1 to 2 GB a second, little beside what it took to write it."""
    with (workspace.work / publication.result).open("rb") as file:
        return OutputFile(
            name=publication.name,
            path=publication.result,
            size=os.fstat(file.fileno()).st_size,
            published=publication.url,
            sha256=hashlib.file_digest(file, "sha256").hexdigest(),
        )
