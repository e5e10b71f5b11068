"""Results leave the working directory: into the run's `outputs/`, and to where they were asked.

Everything is made under temporary names first and renamed at the end, so that a reader sees a
whole file or none, and a failed run publishes nothing into buckets.
"""

import errno
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wesemu.errors import EngineFault, WesemuError
from wesemu.runs.digests import DigestStore, check, copy, flush, flush_file_system
from wesemu.runs.model import JsonValue, OutputFile
from wesemu.runs.ports import ObjectAdopter, Publication
from wesemu.runs.publishable import obstacle
from wesemu.runs.workspace import Workspace, read_regular, sync_folder, write_json

_FEW = 64
"""Beyond so many files or folders, the whole file system is made durable at once."""


@dataclass(frozen=True, slots=True)
class _Staged:
    """A result under its temporary name; `commit` gives it the final one. `earlier` is the name of
    what it replaces, until all results have theirs."""

    source: Path
    target: Path
    temporary: Path
    earlier: Path

    @classmethod
    def of(cls, workspace: Workspace, source: Path, number: int, target: Path) -> "_Staged":
        """Its names are short, so that results may have the longest that there are."""
        mark = f".{workspace.root.name}-{number}"
        return cls(
            source,
            target,
            target.with_name(f"{mark}.part"),
            target.with_name(f"{mark}.old.part"),
        )


class Publisher:
    """Publishes results; into buckets by `adopter`, which records their digests.

    One run at a time renames its files, so that a BAM and its index are always of one run.
    """

    def __init__(self, adopter: ObjectAdopter | None = None) -> None:
        self._adopter = adopter
        self._renaming = threading.Lock()

    def publish(
        self,
        workspace: Workspace,
        publications: Sequence[Publication],
        stop: threading.Event | None = None,
    ) -> tuple[OutputFile, ...]:
        """Publish all or nothing; returns what there is now. Blocks, until `stop` is set.

        Raises EngineFault when a result that is not optional is missing, OSError when the disk
        is full or a folder cannot be written, Stopped.
        """
        self.clean_up(workspace)
        if workspace.outputs.is_symlink():  # a workflow's doing
            workspace.outputs.unlink()
        return _Publishing(workspace, self._adopter, stop or threading.Event()).carry_out(
            publications, self._renaming
        )

    def clean_up(self, workspace: Workspace) -> None:
        """After a server that was killed while it published: remove the temporary files, and undo
        what was not all renamed. Blocks."""
        record = _read_record(workspace)
        if record is None:
            return
        with self._renaming:
            for number, target in enumerate(record.targets):
                staged = _Staged.of(workspace, target, number, target)
                if not record.committed and os.path.lexists(staged.earlier):
                    _restore(staged)
                for leftover in (staged.temporary, staged.earlier):
                    leftover.unlink(missing_ok=True)
        workspace.publishing.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Record:
    """The file `publishing` of a run directory: what is being published, in order, and whether
    all of it has its final name."""

    targets: tuple[Path, ...]
    committed: bool


def _read_record(workspace: Workspace) -> _Record | None:
    if not workspace.publishing.exists():
        return None
    try:
        content = json.loads(read_regular(workspace.publishing))
        targets = tuple(Path(str(target)) for target in content["targets"])
        return _Record(targets, bool(content["committed"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return _Record((), committed=True)


class _Publishing:
    """One publication of one run's results."""

    def __init__(
        self, workspace: Workspace, adopter: ObjectAdopter | None, stop: threading.Event
    ) -> None:
        self._workspace = workspace
        self._adopter = adopter
        self._stop = stop
        crc64 = None if adopter is None else adopter.crc64
        self._digests = DigestStore(workspace, stop, crc64)

    def carry_out(
        self, publications: Sequence[Publication], renaming: threading.Lock
    ) -> tuple[OutputFile, ...]:
        present = []
        for publication in dict.fromkeys(publications):
            check(self._stop)
            if _present(self._workspace, publication):
                present.append(publication)
        work = self._workspace.work
        pairs = [(each, target) for each in present for target in self._targets(each)]
        staged = [
            _Staged.of(self._workspace, work / publication.result, number, target)
            for number, (publication, target) in enumerate(pairs)
        ]
        outputs = tuple(self._describe(publication) for publication in present)
        self._record(staged, committed=False)
        try:
            for each in staged:
                check(self._stop)
                each.target.parent.mkdir(parents=True, exist_ok=True)
                each.temporary.unlink(missing_ok=True)
                self._link_or_copy(each)
            _make_durable(staged, self._stop)
            commits = [
                self._commit_of(publication, each)
                for (publication, _), each in zip(pairs, staged, strict=True)
            ]
            with renaming:
                check(self._stop)
                _commit_all(staged, commits)
                self._record(staged, committed=True)
                for each in staged:
                    each.earlier.unlink(missing_ok=True)
        finally:
            for each in staged:
                each.temporary.unlink(missing_ok=True)
        _sync_folders({each.target.parent for each in staged})
        self._workspace.publishing.unlink(missing_ok=True)
        return outputs

    def _targets(self, publication: Publication) -> list[Path]:
        own = self._workspace.outputs / publication.result
        return [own] if publication.destination is None else [own, publication.destination]

    def _record(self, staged: Sequence[_Staged], *, committed: bool) -> None:
        targets: list[JsonValue] = [str(each.target) for each in staged]
        write_json(self._workspace.publishing, {"targets": targets, "committed": committed})

    def _link_or_copy(self, staged: _Staged) -> None:
        """A hard link where the file system allows one (no second copy of a genome), else a
        copy."""
        resolved = staged.source.resolve()
        try:
            os.link(resolved, staged.temporary)
        except OSError:
            copy(resolved, staged.temporary, self._stop)

    def _commit_of(self, publication: Publication, staged: _Staged) -> Callable[[], object]:
        if (
            self._adopter is not None
            and publication.url is not None
            and staged.target == publication.destination
        ):
            digests = self._digests.of(publication.result, staged.source)
            return self._adopter.prepare(publication.url, staged.temporary, digests)
        return partial(staged.temporary.replace, staged.target)

    def _describe(self, publication: Publication) -> OutputFile:
        """Reads the whole file: about 0.5 GB a second, little beside what it took to write it."""
        file = self._workspace.work / publication.result
        digests = self._digests.of(publication.result, file)
        return OutputFile(
            name=publication.name,
            path=publication.result,
            size=digests.size,
            published=publication.url,
            sha256=digests.sha256,
        )


def _make_durable(staged: Sequence[_Staged], stop: threading.Event) -> None:
    """Two names of one file are one file."""
    files = {}
    for each in staged:
        status = each.temporary.stat()
        files[status.st_dev, status.st_ino] = each.temporary
    if len(files) > _FEW:
        folders = {device: path.parent for (device, _), path in files.items()}
        if all(map(flush_file_system, folders.values())):
            return
    for path in files.values():
        flush(path, stop)


def _sync_folders(folders: set[Path]) -> None:
    devices = {folder.stat().st_dev: folder for folder in folders} if len(folders) > _FEW else {}
    if devices and all(map(flush_file_system, devices.values())):
        return
    for folder in folders:
        sync_folder(folder)


def _commit_all(staged: Sequence[_Staged], commits: Sequence[Callable[[], object]]) -> None:
    """Give every file its final name; if one fails, undo those before it."""
    replaced: list[tuple[_Staged, bool]] = []
    try:
        for each, commit in zip(staged, commits, strict=True):
            replaced.append((each, _set_aside(each)))
            commit()
    except (OSError, WesemuError):
        for each, had_earlier in replaced:
            if had_earlier:
                _restore(each)
            else:
                each.target.unlink(missing_ok=True)
        raise


def _set_aside(staged: _Staged) -> bool:
    """Give the file at the target, if there is one, a second name; whether there is one."""
    if staged.target.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "a folder has the name of a result", str(staged.target)
        )
    if not os.path.lexists(staged.target):
        return False
    staged.earlier.unlink(missing_ok=True)
    try:
        os.link(staged.target, staged.earlier, follow_symlinks=False)
    except OSError:  # a file system without hard links
        staged.target.rename(staged.earlier)
    return True


def _restore(staged: _Staged) -> None:
    staged.earlier.replace(staged.target)
    staged.earlier.unlink(missing_ok=True)  # two names of one file: rename(2) does nothing


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
