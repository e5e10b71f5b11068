"""Publishing: results go from `work/` to the run's `outputs/` and to the places callers named.

`LocalPublisher` writes all files under temporary names and renames them at the end. A reader sees a
complete file or none, and a failed run publishes nothing into buckets. Also the locations that
active runs publish to (`ActiveTargets`).
"""

import asyncio
import errno
import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from wesemu.errors import EngineFault, WesemuError
from wesemu.runs.digests import DigestStore, check, copy, flush, flush_file_system
from wesemu.runs.model import JsonObject, JsonValue, OutputFile, Owner, Run, RunId, SharedOutput
from wesemu.runs.ports import Delivery, ObjectAdopter, Plan, ProgressCallback, Publication
from wesemu.runs.run_directory import (
    Workspace,
    read_regular,
    sync_folder,
    unpublishable_reason,
    write_json,
)
from wesemu.runs.serialization import read_plan
from wesemu.runs.store import RunStore

# Locations of active runs.

log = structlog.get_logger("wesemu.targets")


class ActiveTargets:
    """Output locations of the active runs in `store`.

    Those of runs of an earlier server are read from their directories at first use.
    """

    def __init__(self, store: RunStore, runs: Path) -> None:
        self._store = store
        self._runs = runs
        self._users: defaultdict[str, dict[RunId, Owner]] = defaultdict(dict)
        self._names: dict[RunId, frozenset[str]] = {}
        self._loading = asyncio.Lock()
        self._loaded = False
        self._ended: set[RunId] = set()
        """Runs that ended while the locations were loaded."""
        store.watch(self._moved)

    async def claim(self, run_id: RunId, owner: Owner, plan: Plan) -> SharedOutput | None:
        """Register the locations of a new run. Return the first one that another run has, too."""
        names = await asyncio.to_thread(_names_of, plan)
        if names:
            await self._load()
        shared = self._shared(names, owner)
        self._add(run_id, owner, names.values())
        return shared

    async def shared(self, owner: Owner, plan: Plan) -> SharedOutput | None:
        """As `claim`, without registering (for a dry run)."""
        names = await asyncio.to_thread(_names_of, plan)
        if names:
            await self._load()
        return self._shared(names, owner)

    def release(self, run_id: RunId) -> None:
        """Remove a run that has ended or was not accepted. Idempotent."""
        for name in self._names.pop(run_id, frozenset()):
            self._users[name].pop(run_id, None)
            if not self._users[name]:
                del self._users[name]

    def _shared(self, names: dict[str, str], owner: Owner) -> SharedOutput | None:
        for url, name in names.items():
            users = self._users.get(name, {})
            mine = [run_id for run_id, user in users.items() if user == owner]
            if users:
                return SharedOutput(url, mine[-1] if mine else None)
        return None

    def _add(self, run_id: RunId, owner: Owner, names: Iterable[str]) -> None:
        self._names[run_id] = frozenset(names)
        for name in self._names[run_id]:
            self._users[name][run_id] = owner

    def _moved(self, run: Run) -> None:
        if run.state.ended:
            self.release(run.id)
            if self._loading.locked():
                self._ended.add(run.id)

    async def _load(self) -> None:
        async with self._loading:
            if self._loaded:
                return
            owners = await self._store.active_owners()
            missing = [run_id for run_id in owners if run_id not in self._names]
            names = await asyncio.to_thread(
                lambda: [_names_on_disk(self._runs / run_id).values() for run_id in missing]
            )
            for run_id, locations in zip(missing, names, strict=True):
                if run_id not in self._ended:
                    self._add(run_id, owners[run_id], locations)
            self._ended.clear()
            self._loaded = True


def _names_on_disk(folder: Path) -> dict[str, str]:
    try:
        return _names_of(read_plan(Workspace(folder)))
    except (OSError, ValueError, KeyError) as error:
        log.warning("reading the plan of a run failed", run_id=folder.name, error=str(error))
        return {}


def _names_of(plan: Plan) -> dict[str, str]:
    """Map each location to a name for comparison: the file's path without links, or the URL."""
    return {
        each.url: str(each.destination.resolve()) if each.destination is not None else each.url
        for each in plan.publications or ()
        if each.url is not None
    }


# Publishing.

_FEW = 64
"""With more files or folders than this, one syncfs replaces the single fsyncs."""


@dataclass(frozen=True, slots=True)
class _Staged:
    """A result under its temporary name. `earlier` is the name of the file that it replaces, until
    all results have their final names."""

    source: Path
    target: Path
    temporary: Path
    earlier: Path

    @classmethod
    def of(cls, workspace: Workspace, source: Path, number: int, target: Path) -> "_Staged":
        """Build the temporary names. They are short: the result's own name may be 255 bytes long,
        so nothing can be appended to it."""
        mark = f".{workspace.root.name}-{number}"
        temporary, earlier = (target.with_name(f"{mark}{end}") for end in (".part", ".old.part"))
        return cls(source, target, temporary, earlier)


T = TypeVar("T")


async def in_thread(work: Callable[[threading.Event], T], *, final: bool) -> T:
    """Run `work` in a thread and return its result.

    Cancellation sets the event that `work` receives and waits for the thread to end, so the thread
    changes nothing afterwards. With `final`, a cancel that came too late to stop `work` has no
    effect: the result is returned.
    """
    stop = threading.Event()
    thread = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({thread})
        if final and not thread.cancelled() and thread.exception() is None:
            return thread.result()
        raise


class LocalPublisher:
    """Publishes results on this machine; implements `runs.ports.Publisher`.

    `adopter` adds objects to buckets and records their digests.

    Only one run at a time renames its files, so a BAM and its index are from the same run.
    """

    def __init__(self, adopter: ObjectAdopter | None = None) -> None:
        self._adopter = adopter
        self._renaming = threading.Lock()

    async def publish(
        self, workspace: Workspace, publications: Sequence[Publication], report: ProgressCallback
    ) -> Delivery:
        work = partial(self.publish_blocking, workspace, publications)
        return Delivery(await in_thread(work, final=True))

    async def collect(
        self, workspace: Workspace, publications: Sequence[Publication]
    ) -> tuple[OutputFile, ...]:
        inside = [replace(each, destination=None) for each in publications]
        return await in_thread(partial(self.publish_blocking, workspace, inside), final=False)

    async def clean_up(self, workspace: Workspace) -> None:
        await asyncio.to_thread(self.clean_up_blocking, workspace)

    def publish_blocking(
        self,
        workspace: Workspace,
        publications: Sequence[Publication],
        stop: threading.Event | None = None,
    ) -> tuple[OutputFile, ...]:
        """Publish all results or none. Return the published ones. Blocks; `stop` interrupts it.

        Raises EngineFault if a required result is missing, OSError on a full disk or an unwritable
        folder, HashingStopped.
        """
        self.clean_up_blocking(workspace)
        if workspace.outputs.is_symlink():  # made by the workflow; could lead anywhere
            workspace.outputs.unlink()
        return _Publishing(workspace, self._adopter, stop or threading.Event()).publish(
            publications, self._renaming
        )

    def clean_up_blocking(self, workspace: Workspace) -> None:
        """Clean up after a server that was killed while it published. Blocks.

        Delete temporary files, and restore the earlier files unless all were renamed.
        """
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
    """The file `publishing` of a run directory: the targets in order, and whether all of them have
    their final names."""

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
    """The publishing of one run's results."""

    def __init__(
        self, workspace: Workspace, adopter: ObjectAdopter | None, stop: threading.Event
    ) -> None:
        self._workspace = workspace
        self._adopter = adopter
        self._stop = stop
        crc64 = None if adopter is None else adopter.crc64
        self._digests = DigestStore(workspace, stop, crc64)

    def publish(
        self, publications: Sequence[Publication], renaming: threading.Lock
    ) -> tuple[OutputFile, ...]:
        # 1. Compute digests of the results that exist.
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
        # 2. Record the targets: a later `clean_up` finds the temporary files by this record.
        self._record(staged, committed=False)
        try:
            # 3. Link or copy under temporary names beside the targets.
            for each in staged:
                check(self._stop)
                each.target.parent.mkdir(parents=True, exist_ok=True)
                each.temporary.unlink(missing_ok=True)
                self._link_or_copy(each)
            # 4. Make the content durable before any rename. Otherwise a power cut could leave an
            #    empty file under a final name.
            _make_durable(staged, self._stop)
            commits = [
                self._commit_of(publication, each)
                for (publication, _), each in zip(pairs, staged, strict=True)
            ]
            # 5. Rename all. From here on the work cannot be interrupted.
            with renaming:
                check(self._stop)
                _commit_all(staged, commits)
                self._record(staged, committed=True)
                for each in staged:
                    each.earlier.unlink(missing_ok=True)
        finally:
            for each in staged:
                each.temporary.unlink(missing_ok=True)
        # 6. Make the renames durable, then delete the record.
        _sync_folders({each.target.parent for each in staged})
        self._workspace.publishing.unlink(missing_ok=True)
        return outputs

    def _targets(self, publication: Publication) -> list[Path]:
        own = self._workspace.outputs / publication.result
        return [own] if publication.destination is None else [own, publication.destination]

    def _record(self, staged: Sequence[_Staged], *, committed: bool) -> None:
        targets: list[JsonValue] = [str(each.target) for each in staged]
        # If all targets are in the run's own directory, the record need not survive a power cut:
        # the run then publishes again and replaces the files.
        durable = any(self._workspace.root not in each.target.parents for each in staged)
        content: JsonObject = {"targets": targets, "committed": committed}
        write_json(self._workspace.publishing, content, durable=durable)

    def _link_or_copy(self, staged: _Staged) -> None:
        """Create a hard link, or a copy if the file system does not allow one."""
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
        """Return size and digests of a result. May read the whole file (about 0.5 GB/s)."""
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
    """Flush each file once, also if it has several names."""
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
    """Give every file its final name; if one fails, restore all earlier files."""
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
    """Give an existing file at the target a second name. Return whether there was one."""
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
    # If both names are the same file, rename(2) does nothing and `earlier` stays.
    staged.earlier.unlink(missing_ok=True)


def _present(workspace: Workspace, publication: Publication) -> bool:
    source = workspace.work / publication.result
    reason = unpublishable_reason(workspace, source)
    if reason is None:
        return True
    if publication.optional and not os.path.lexists(source):
        return False
    if reason == "it is gone":
        reason = f"the workflow succeeded but left no file {publication.result}; see its log"
        raise EngineFault(reason)
    raise EngineFault(f"the output {publication.result} cannot be published: {reason}")
