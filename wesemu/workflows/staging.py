"""Staging: fetches the remote inputs of a run into its directory before its tasks start.

`inputs/<hash of the location>/` holds `file/<name>`, or `folder/…` with the reads of a remote
folder. A resumed run does not fetch them again.
"""

import asyncio
import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from yarl import URL

from wesemu.errors import InputError, ObjectNotFound, RemoteFault, WesemuError
from wesemu.genomics.fasta import is_fasta_name
from wesemu.genomics.reference_records import ALTERNATE_SUFFIXES, stems
from wesemu.runs.ports import ProgressCallback
from wesemu.storage.buckets import check_key, is_reads
from wesemu.storage.cache import CachedInput, InputCache
from wesemu.storage.remote import RemoteKey, Source, WebFile
from wesemu.storage.remote_upload import run_all
from wesemu.workflows.locations import InputLocation

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def staged_path(folder: Path, location: str) -> Path | None:
    """Return the staged file or folder of a location, or None; `folder` is the run's."""
    target = _input_folder(folder, location)
    if (target / "folder").is_dir():
        return target / "folder"
    if not (target / "file").is_dir():
        return None
    names = (each for each in (target / "file").iterdir() if each.name[0] != ".")
    return next((each for each in names if not each.name.endswith(ALTERNATE_SUFFIXES)), None)


class InputStager:
    """Fetches the remote inputs of runs through the cache."""

    def __init__(self, cache: InputCache | None) -> None:
        self._cache = cache

    async def stage(
        self, remote: Sequence[InputLocation], folder: Path, report: ProgressCallback
    ) -> None:
        """Stage the remote inputs of a bundled pipeline in `folder`.

        `report` receives `wesemu.staging.bytes` (so far), `.total` (once all sizes are known) and
        `.cached` (bytes that needed no download). Raise InputError, naming parameter and location,
        for inputs that cannot be fetched; RemoteFault, SystemFault, OSError.
        """
        if not remote:
            return
        assert self._cache is not None, "nothing is remote without a cache"
        inputs: dict[str, InputLocation] = {}
        for each in remote:
            inputs.setdefault(each.text, each)
        progress = _Progress(report, len(inputs))
        coroutines = [self._stage(each, folder, progress) for each in inputs.values()]
        await run_all(coroutines, f"stage {folder.parent.name}")
        progress.finish()

    async def cleanup(self, folder: Path) -> None:
        """Remove the links of a run that has ended, so the cache may trim the files."""
        if self._cache is not None and await asyncio.to_thread(folder.is_dir):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await self._cache.trim()

    async def _stage(self, each: InputLocation, folder: Path, progress: "_Progress") -> None:
        target = _input_folder(folder, each.text)
        if (staged := await asyncio.to_thread(staged_path, folder, each.text)) is not None:
            size = await asyncio.to_thread(_size, staged)
            progress.add(each.text, CachedInput(size, "", cached=True))
            return
        try:
            match each.location:
                case WebFile() as file:
                    await self._fetch(file, target / "file" / _file_name(file), progress)
                case RemoteKey() as remote if each.field == "reference":
                    await self._stage_reference(remote, target, progress)
                case RemoteKey() as remote if each.for_both_mates:
                    await self._stage_folder(remote, target, progress)
                case RemoteKey() as remote:
                    await self._stage_key(remote, target, progress)
        except WesemuError as error:
            raise _with_field(error, each.field) from error

    async def _stage_key(self, remote: RemoteKey, target: Path, progress: "_Progress") -> None:
        await self._fetch(remote, target / "file" / remote.key.rpartition("/")[2], progress)

    async def _stage_reference(
        self, remote: RemoteKey, target: Path, progress: "_Progress"
    ) -> None:
        """Stage the FASTA file at the key, or the only one in the folder at the key.

        If there is neither, stage nothing: the key may end with the name of a registered reference.
        A list of ALT contigs beside the FASTA is staged too.
        """
        if await self._is_object(remote):
            return await self._stage_fasta(remote, target, progress)
        names = [
            name
            for name in await remote.bucket.list_folder(remote.key)
            if "/" not in name and is_fasta_name(name)
        ]
        if len(names) > 1:
            shown = remote.display_name
            raise InputError(
                f"the folder {shown} holds {len(names)} FASTA files ({', '.join(names[:5])}); "
                "name the file",
                file=shown,
            )
        if names:
            key = f"{remote.key.rstrip('/')}/{names[0]}"
            await self._stage_fasta(replace(remote, key=key), target, progress)
        return None

    async def _stage_fasta(self, remote: RemoteKey, target: Path, progress: "_Progress") -> None:
        """Stage a FASTA and its list of ALT contigs.

        The list comes first: once the FASTA is staged, a resumed run fetches nothing more.
        """
        lists = [stem + suffix for stem in stems(remote.key) for suffix in ALTERNATE_SUFFIXES]
        for name in lists:
            if await remote.bucket.find(name) is not None:
                progress.more(1)
                await self._stage_key(RemoteKey(remote.bucket, name), target, progress)
                break
        await self._stage_key(remote, target, progress)

    async def _stage_folder(self, remote: RemoteKey, target: Path, progress: "_Progress") -> None:
        """Stage all FASTQ files of the folder; their names give the lanes later."""
        folder = remote.key.rstrip("/")
        names = [name for name in await remote.bucket.list_folder(folder) if is_reads(name)]
        shown = remote.display_name
        if not names:
            raise ObjectNotFound(
                f"{shown} is named for both mates and is not a folder with FASTQ files; name a "
                "folder that has some, or one file for each mate"
            )
        for name in names:
            check_key(name)
        progress.more(len(names) - 1)
        coroutines = [
            self._fetch(
                RemoteKey(remote.bucket, f"{folder}/{name}"), target / "coming" / name, progress
            )
            for name in names
        ]
        await run_all(coroutines, f"stage {shown}")
        # The rename marks the folder as complete.
        await asyncio.to_thread((target / "coming").rename, target / "folder")

    async def _is_object(self, remote: RemoteKey) -> bool:
        return not remote.key.endswith("/") and await remote.bucket.find(remote.key) is not None

    async def _fetch(self, source: Source, target: Path, progress: "_Progress") -> None:
        assert self._cache is not None
        fetched = await self._cache.fetch(source, target, progress.of(source.identity))
        progress.add(source.identity, fetched)


class _Progress:
    """Sums the progress of several downloads."""

    def __init__(self, report: ProgressCallback, files: int) -> None:
        self._callback = report
        self._files = files
        self._done: dict[str, int] = {}
        self._totals: dict[str, int | None] = {}
        self._cached = 0

    def more(self, files: int) -> None:
        self._files += files

    def of(self, key: str) -> Callable[[int, int | None], None]:
        def report(done: int, total: int | None) -> None:
            self._done[key], self._totals[key] = done, total
            self._report()

        return report

    def add(self, key: str, fetched: CachedInput) -> None:
        self._done[key] = self._totals[key] = fetched.size
        self._cached += fetched.size if fetched.cached else 0
        self._report()

    def finish(self) -> None:
        """Report the final figures, whatever number of files was expected."""
        self._files = len(self._totals)
        self._report()

    def _report(self) -> None:
        tags = {
            "wesemu.staging.bytes": str(sum(self._done.values())),
            "wesemu.staging.cached": str(self._cached),
        }
        totals = [total for total in self._totals.values() if total is not None]
        if totals and len(totals) == self._files:
            tags["wesemu.staging.total"] = str(sum(totals))
        self._callback(tags)


def _input_folder(folder: Path, location: str) -> Path:
    return folder / hashlib.sha256(location.encode()).hexdigest()[:16]


def _file_name(file: WebFile) -> str:
    """Return the last part of the URL's path in safe letters.

    The suffix stays, because the format is read from it.
    """
    name = unquote(URL(file.url, encoded=True).raw_path.rpartition("/")[2])
    return _UNSAFE.sub("_", name).lstrip(".")[-100:] or "input"


def _size(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _with_field(error: WesemuError, field: str) -> WesemuError:
    """Return a copy of the error with the parameter's name.

    Other runs may share the original error.
    """
    match error:
        case RemoteFault() | InputError():
            named: WesemuError = type(error)(error.message, file=error.file)
        case _:
            named = type(error)(error.message)
    named.field = field
    return named
