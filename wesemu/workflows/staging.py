"""Remote inputs are brought into the run directory before its tasks begin.

`inputs/<hash of the location>/` holds `file/<name>`, or `folder/…` with the reads below a remote
folder. What lies there is not fetched again when the run is resumed.
"""

import asyncio
import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote

from yarl import URL

from wesemu.errors import InputError, ObjectNotFound, RemoteFault, WesemuError
from wesemu.genomics.reference_records import ALTERNATE_SUFFIXES, stems
from wesemu.runs.ports import ProgressCallback
from wesemu.storage.buckets import check_key, is_reads
from wesemu.storage.cache import CachedInput, InputCache
from wesemu.storage.remote import RemoteFile, Source, WebFile
from wesemu.storage.upload import run_all
from wesemu.workflows.locations import RemoteKey, RemoteLocations
from wesemu.workflows.params import FASTA_SUFFIXES, MappingParams

_ODD = re.compile(r"[^A-Za-z0-9._-]")


def staged_path(folder: Path, location: str) -> Path | None:
    """The file or folder that `stage` has brought for a location; `folder` is the run's."""
    place = _place(folder, location)
    if (place / "folder").is_dir():
        return place / "folder"
    if not (place / "file").is_dir():
        return None
    names = (each for each in (place / "file").iterdir() if each.name[0] != ".")
    return next((each for each in names if not each.name.endswith(ALTERNATE_SUFFIXES)), None)


class InputStager:
    """Brings the remote inputs of runs, by `cache`."""

    def __init__(self, elsewhere: RemoteLocations, cache: InputCache | None) -> None:
        self._elsewhere = elsewhere
        self._cache = cache

    async def stage(self, params: MappingParams, folder: Path, tell: ProgressCallback) -> None:
        """Have all remote inputs of a bundled pipeline below `folder`.

        `tell` is told `wesemu.staging.bytes` (so far), `.total` (once all sizes are known) and
        `.cached` (of those, what needed no fetching). Raises InputError, naming parameter and
        location, for what cannot be fetched; RemoteFault, SystemFault, OSError.
        """
        wanted = self._wanted(params)
        if not wanted:
            return
        assert self._cache is not None, "nothing is remote without a cache"
        progress = _Progress(tell, len(wanted))
        works = [
            self._bring(location, field, is_folder, folder, progress)
            for location, (field, is_folder) in wanted.items()
        ]
        await run_all(works, f"stage {folder.parent.name}")
        progress.finish()

    async def cleanup(self, folder: Path) -> None:
        """The run has ended: its links go, so that the cache may let go of the files."""
        if self._cache is not None and await asyncio.to_thread(folder.is_dir):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await self._cache.trim()

    def _wanted(self, params: MappingParams) -> Mapping[str, tuple[str, bool]]:
        """By location: the parameter, and whether it may be a folder of reads."""
        found: dict[str, tuple[str, bool]] = {}
        for number, lane in enumerate(params.reads):
            same = lane.first == lane.second
            for mate, location in (("first", lane.first), ("second", lane.second)):
                if location is not None and self._elsewhere.is_remote(location):
                    found.setdefault(location, (f"reads.{number}.{mate}", same))
        if self._elsewhere.is_remote(params.reference):
            found.setdefault(params.reference, ("reference", False))
        for name, location in params.more_files.items():
            if self._elsewhere.is_remote(location):
                found.setdefault(location, (name, False))
        return found

    async def _bring(
        self, location: str, field: str, is_folder: bool, folder: Path, progress: "_Progress"
    ) -> None:
        place = _place(folder, location)
        if (there := await asyncio.to_thread(staged_path, folder, location)) is not None:
            size = await asyncio.to_thread(_size, there)
            progress.add(location, CachedInput(size, "", cached=True))
            return
        try:
            match self._elsewhere.remote(location, field=field):
                case WebFile() as file:
                    await self._fetch(file, place / "file" / _web_name(file), progress)
                case RemoteKey() as remote if field == "reference":
                    await self._bring_reference(remote, place, progress)
                case RemoteKey() as remote if is_folder:
                    await self._bring_folder(remote, place, progress)
                case RemoteKey() as remote:
                    await self._bring_key(remote, remote.key, place, progress)
        except WesemuError as error:
            raise _named(error, field) from error

    async def _bring_key(
        self, remote: RemoteKey, key: str, place: Path, progress: "_Progress"
    ) -> None:
        source = RemoteFile(remote.bucket, key, remote.sha256)
        await self._fetch(source, place / "file" / key.rpartition("/")[2], progress)

    async def _bring_reference(self, remote: RemoteKey, place: Path, progress: "_Progress") -> None:
        """A FASTA at the key, else the only one in the folder, else nothing: it may be the name
        of a registered reference. With a list of ALT contigs, if there is one beside it."""
        if await self._is_object(remote):
            return await self._bring_fasta(remote, remote.key, place, progress)
        names = [
            name
            for name in await remote.bucket.below(remote.key)
            if "/" not in name and name.lower().endswith(FASTA_SUFFIXES)
        ]
        if len(names) > 1:
            shown = remote.bucket.shown(remote.key)
            raise InputError(
                f"the folder {shown} holds {len(names)} FASTA files ({', '.join(names[:5])}); "
                "name the file",
                file=shown,
            )
        if names:
            key = f"{remote.key.rstrip('/')}/{names[0]}"
            await self._bring_fasta(remote, key, place, progress)
        return None

    async def _bring_fasta(
        self, remote: RemoteKey, key: str, place: Path, progress: "_Progress"
    ) -> None:
        """The list comes first: where the FASTA is, a resumed run fetches nothing more."""
        lists = [stem + suffix for stem in stems(key) for suffix in ALTERNATE_SUFFIXES]
        for name in lists:
            if await remote.bucket.find(name) is not None:
                progress.more(1)
                source = RemoteFile(remote.bucket, name)
                await self._fetch(source, place / "file" / name.rpartition("/")[2], progress)
                break
        await self._bring_key(remote, key, place, progress)

    async def _bring_folder(self, remote: RemoteKey, place: Path, progress: "_Progress") -> None:
        """Every FASTQ file below the folder; the lanes are told by their names afterwards."""
        folder = remote.key.rstrip("/")
        names = [name for name in await remote.bucket.below(folder) if is_reads(name)]
        shown = remote.bucket.shown(remote.key)
        if not names:
            raise ObjectNotFound(
                f"{shown} is named for both mates and is no folder with FASTQ files; name a "
                "folder that has some, or one file for each mate"
            )
        for name in names:
            check_key(name)
        progress.more(len(names) - 1)
        works = [
            self._fetch(
                RemoteFile(remote.bucket, f"{folder}/{name}"),
                place / "coming" / name,
                progress,
            )
            for name in names
        ]
        await run_all(works, f"stage {shown}")
        await asyncio.to_thread((place / "coming").rename, place / "folder")

    async def _is_object(self, remote: RemoteKey) -> bool:
        return not remote.key.endswith("/") and await remote.bucket.find(remote.key) is not None

    async def _fetch(self, source: Source, target: Path, progress: "_Progress") -> None:
        assert self._cache is not None
        fetched = await self._cache.fetch(source, target, progress.of(source.asked))
        progress.add(source.asked, fetched)


class _Progress:
    """Adds up what several fetches tell."""

    def __init__(self, tell: ProgressCallback, files: int) -> None:
        self._tell = tell
        self._files = files
        self._done: dict[str, int] = {}
        self._totals: dict[str, int | None] = {}
        self._cached = 0

    def more(self, files: int) -> None:
        self._files += files

    def of(self, key: str) -> Callable[[int, int | None], None]:
        def tell(done: int, total: int | None) -> None:
            self._done[key], self._totals[key] = done, total
            self._report()

        return tell

    def add(self, key: str, fetched: CachedInput) -> None:
        self._done[key] = self._totals[key] = fetched.size
        self._cached += fetched.size if fetched.cached else 0
        self._report()

    def finish(self) -> None:
        """All is there, whatever was thought to come."""
        self._files = len(self._totals)
        self._report()

    def _report(self) -> None:
        told = {
            "wesemu.staging.bytes": str(sum(self._done.values())),
            "wesemu.staging.cached": str(self._cached),
        }
        totals = [total for total in self._totals.values() if total is not None]
        if totals and len(totals) == self._files:
            told["wesemu.staging.total"] = str(sum(totals))
        self._tell(told)


def _place(folder: Path, location: str) -> Path:
    return folder / hashlib.sha256(location.encode()).hexdigest()[:16]


def _web_name(file: WebFile) -> str:
    """The last part of the path, of letters that need no quoting; its ending tells the format."""
    name = unquote(URL(file.url, encoded=True).raw_path.rpartition("/")[2])
    return _ODD.sub("_", name).lstrip(".")[-100:] or "input"


def _size(path: Path) -> int:
    """Of a file, or of all below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _named(error: WesemuError, field: str) -> WesemuError:
    """The same error with the parameter's name; the one that was raised may be others', too."""
    message = f"{field}: {error.message}"
    match error:
        case RemoteFault():
            return RemoteFault(message, file=error.file)
        case InputError():
            return InputError(message, file=error.file)
        case _:
            return type(error)(message)
