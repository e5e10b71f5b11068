"""Results leave the working directory: into the run's `outputs/`, and to where they were asked.

Everything is made under temporary names first and renamed at the end, so that a reader sees a
whole file or none, and a failed run publishes nothing.
"""

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wesemu.errors import EngineFault, WesemuError
from wesemu.runs.model import OutputFile
from wesemu.runs.ports import ObjectAdopter, Publication
from wesemu.runs.publishable import obstacle
from wesemu.runs.workspace import Workspace, sync_folder


@dataclass(frozen=True, slots=True)
class _Staged:
    """A result under its temporary name; `commit` gives it the final one."""

    temporary: Path
    target: Path
    commit: Callable[[], object]


class Publisher:
    """Publishes results; into buckets by `adopter`, which records their digests.

    One run at a time renames its files, so that a BAM and its index are always of one run.
    """

    def __init__(self, adopter: ObjectAdopter | None = None) -> None:
        self._adopter = adopter
        self._renaming = threading.Lock()

    def publish(
        self, workspace: Workspace, publications: Sequence[Publication]
    ) -> tuple[OutputFile, ...]:
        """Publish all or nothing; returns what there is now.

        Raises EngineFault when a result that is not optional is missing, OSError when the disk
        is full or a folder cannot be written.
        """
        return _publish(workspace, publications, self._adopter, self._renaming)


def _publish(
    workspace: Workspace,
    publications: Sequence[Publication],
    adopter: ObjectAdopter | None,
    renaming: threading.Lock,
) -> tuple[OutputFile, ...]:
    if workspace.outputs.is_symlink():  # a workflow's doing
        workspace.outputs.unlink()
    present = [p for p in dict.fromkeys(publications) if _present(workspace, p)]
    staged: list[_Staged] = []
    temporaries: list[Path] = []
    try:
        for publication in present:
            source = workspace.work / publication.result
            for target in _targets(workspace, publication):
                temporary = target.with_name(f".{target.name}.{workspace.root.name}.part")
                temporaries.append(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.unlink(missing_ok=True)
                _link_or_copy(source, temporary)
                staged.append(_staged(publication, temporary, target, adopter))
        outputs = tuple(_describe(workspace, publication) for publication in present)
        with renaming:
            _commit_all(staged, f".{workspace.root.name}.old.part")
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
    for folder in {each.target.parent for each in staged}:
        sync_folder(folder)
    return outputs


def _staged(
    publication: Publication, temporary: Path, target: Path, adopter: ObjectAdopter | None
) -> _Staged:
    if adopter is not None and publication.url is not None and target == publication.destination:
        return _Staged(temporary, target, adopter.prepare(publication.url, temporary))
    return _Staged(temporary, target, partial(temporary.replace, target))


def _commit_all(staged: Sequence[_Staged], suffix: str) -> None:
    """Give every file its final name; if one fails, undo those before it."""
    replaced: list[tuple[Path, Path | None]] = []
    try:
        for each in staged:
            replaced.append((each.target, _set_aside(each.target, suffix)))
            each.commit()
    except (OSError, WesemuError):
        for target, earlier in replaced:
            if earlier is not None:
                earlier.replace(target)
            else:
                target.unlink(missing_ok=True)
        raise
    for _, earlier in replaced:
        if earlier is not None:
            earlier.unlink(missing_ok=True)


def _set_aside(target: Path, suffix: str) -> Path | None:
    """A second name of the file at `target`, if there is one."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder has the name of a result", str(target))
    if not os.path.lexists(target):
        return None
    earlier = target.with_name(f".{target.name}{suffix}")
    earlier.unlink(missing_ok=True)
    try:
        os.link(target, earlier, follow_symlinks=False)
    except OSError:  # a file system without hard links
        target.rename(earlier)
    return earlier


def _present(workspace: Workspace, publication: Publication) -> bool:
    source = workspace.work / publication.result
    reason = obstacle(workspace, source)
    if reason is None:
        return True
    if publication.optional and not os.path.lexists(source):
        return False
    if reason == "it is gone":
        reason = f"the workflow ended well but left no file {publication.result}; see its log"
        raise EngineFault(reason)
    raise EngineFault(f"the output {publication.result} cannot be published: {reason}")


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
