"""Results leave the working directory: into the run's `outputs/`, and to where they were asked.

Everything is made under temporary names first and renamed at the end, so that a reader sees a
whole file or none, and a failed run publishes nothing into buckets.
"""

import asyncio
import errno
import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from wesemu.errors import EngineFault, WesemuError
from wesemu.runs.digests import DigestStore, check, copy, flush, flush_file_system
from wesemu.runs.model import JsonValue, OutputFile, Owner, Run, RunId, RunState
from wesemu.runs.ports import ObjectAdopter, Plan, Publication
from wesemu.runs.run_directory import Workspace, read_regular, sync_folder, write_json
from wesemu.runs.serialization import read_plan
from wesemu.runs.store import RunStore

# Which files below a run directory can be published, and why another one cannot.


def unpublishable_reason(workspace: Workspace, path: Path) -> str | None:
    """Why the file at `path` cannot be published; None if it can. Blocks on the disk.

    A link is published as the file it leads to, if that file is one of the run: it lies in
    `work/` or among the inputs that were fetched for the run.
    """
    if not is_utf8(path):
        return "its name is not UTF-8"
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError:
        return "it is a link to a file that does not exist" if path.is_symlink() else "it is gone"
    except (OSError, RuntimeError):  # RuntimeError: a circle of links, before Python 3.13
        return "it is a link that leads to itself"
    if not is_own(workspace, real):
        return "it is a link that leads out of the run's directory"
    if real.is_dir():
        return "it is a link to a folder that contains it"
    if not real.is_file():
        return "it is not a regular file"
    if not os.access(real, os.R_OK):
        return "it may not be read"
    return None


def is_own(workspace: Workspace, real: Path) -> bool:
    """Whether a path without links lies in `work/` or among the run's inputs."""
    return any(
        real.is_relative_to(folder.resolve()) for folder in (workspace.work, workspace.inputs)
    )


def is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def printable_path(path: str) -> str:
    r"""A path as text; a byte that is not UTF-8 becomes `\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


# Names that results of active runs are published under, so that two runs of one name are told.


SHARED = "wesemu.outputs.shared"
"""The tag of a run that says which other active run publishes under a name of its own."""

log = structlog.get_logger("wesemu.targets")

_ACTIVE = tuple(state for state in RunState if state.active)


class ActiveTargets:
    """The names of the runs in `store` that have not ended; those of runs of an earlier server
    are read from the run directories below `runs` when they are first needed."""

    def __init__(self, store: RunStore, runs: Path) -> None:
        self._store = store
        self._runs = runs
        self._users: defaultdict[str, dict[RunId, Owner]] = defaultdict(dict)
        self._names: dict[RunId, frozenset[str]] = {}
        self._loading = asyncio.Lock()
        self._loaded = False
        store.watch(self._moved)

    async def claim(self, run_id: RunId, owner: Owner, plan: Plan) -> dict[str, str]:
        """Register the names of a new run; the tag that says who else has one of them.

        Of several names the first is told, of runs of other owners only that they exist.
        """
        await self._load()
        names = await asyncio.to_thread(_names_of, plan)
        shared = self._shared(names, owner)
        self._add(run_id, owner, names.values())
        return {} if shared is None else {SHARED: shared}

    async def shared(self, owner: Owner, plan: Plan) -> dict[str, str]:
        """As `claim`, for a dry run: nothing is registered."""
        await self._load()
        told = self._shared(await asyncio.to_thread(_names_of, plan), owner)
        return {} if told is None else {SHARED: told}

    def release(self, run_id: RunId) -> None:
        """The run has ended, or was not accepted. Idempotent."""
        for name in self._names.pop(run_id, frozenset()):
            self._users[name].pop(run_id, None)
            if not self._users[name]:
                del self._users[name]

    def _shared(self, names: dict[str, str], owner: Owner) -> str | None:
        for url, name in names.items():
            users = self._users.get(name, {})
            mine = [run_id for run_id, user in users.items() if user == owner]
            if mine:
                return f"{url} is an output of the run {mine[-1]}, too; the last one to end wins"
            if users:
                return f"{url} is an output of somebody else's run, too; the last one to end wins"
        return None

    def _add(self, run_id: RunId, owner: Owner, names: Iterable[str]) -> None:
        self._names[run_id] = frozenset(names)
        for name in self._names[run_id]:
            self._users[name][run_id] = owner

    def _moved(self, run: Run) -> None:
        if run.state.ended:
            self.release(run.id)

    async def _load(self) -> None:
        async with self._loading:
            if self._loaded:
                return
            for run in await self._store.in_states(*_ACTIVE):
                if run.id not in self._names:
                    names = await asyncio.to_thread(_names_on_disk, self._runs / run.id)
                    self._add(run.id, run.owner, names.values())
            self._loaded = True


def _names_on_disk(folder: Path) -> dict[str, str]:
    try:
        return _names_of(read_plan(Workspace(folder)))
    except (OSError, ValueError, KeyError) as error:
        log.warning("the outputs of a run are not known", run_id=folder.name, error=str(error))
        return {}


def _names_of(plan: Plan) -> dict[str, str]:
    """Each location with the name by which it is compared: a file's path without links."""
    return {
        each.url: str(each.destination.resolve()) if each.destination is not None else each.url
        for each in plan.publications or ()
        if each.url is not None
    }


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
    reason = unpublishable_reason(workspace, source)
    if reason is None:
        return True
    if publication.optional and not os.path.lexists(source):
        return False
    if reason == "it is gone":
        reason = f"the workflow ended well but left no file {publication.result}; see its log"
        raise EngineFault(reason)
    raise EngineFault(f"the output {publication.result} cannot be published: {reason}")
