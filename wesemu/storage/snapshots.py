"""Snapshots: buckets, references, ended runs and emulated time of a server as one tar file.

A snapshot loads on another machine: absolute paths in the files of runs are replaced by marks, and
the marks by the paths of the other machine. The archive is not compressed, so it cannot unpack to
more than its size. Entries that `save` does not write are refused: other paths, links, and runs
that have not ended.
"""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from wesemu.errors import Conflict, InvalidRequest
from wesemu.runs.backup import MTIME, add_entry, modified_ns
from wesemu.runs.clock import END_OF_TIME, FASTEST
from wesemu.runs.data_directory import DataDirectory, is_run_directory, run_directories
from wesemu.runs.disk_full import room_for_files, too_little_room
from wesemu.runs.model import JsonObject
from wesemu.runs.run_directory import Workspace, read_json
from wesemu.runs.serialization import read_run
from wesemu.storage.buckets import FOLDER, RECORDS, Buckets

MEDIA_TYPE = "application/x-tar"

_MANIFEST, _END = "snapshot.json", "snapshot.end"
"""The first entry, and the last one: the SHA-256 of all bytes before it.
Earlier versions left it empty."""

_FORMAT = 1
_REFERENCE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RUN_FILES = frozenset(
    {
        *("request.json", "state.json", "error.json", "config.yaml", "engine.json"),
        *("events.jsonl", "stdout.log", "stderr.log", "exit_code"),
        *("attachments", "outputs", "tasks"),
    }
)
"""Files of an ended run that its APIs read. The working directory is left out."""

_UNCHANGED = frozenset({"attachments", "outputs"})
"""Folders of a run with files of the caller; paths in them stay."""

_MOST_ENTRIES = 1_000_000
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_MANIFEST = 64 << 20
_CHUNK = 1 << 20
_IN_MEMORY = 16 << 20
_UNUSABLE_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR)


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """The contents of a snapshot other than files.

    These are emulated time, the state of a seeded IdSource, and the ids of runs in the order of
    submission.
    """

    emulated: datetime
    speed: float
    ids: Any = None
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotCounts:
    """Numbers of the entries of a snapshot."""

    runs: int
    buckets: int
    references: int


class PathMarks:
    """Replaces absolute paths of this machine by marks, and back.

    `places` maps names to paths: {"data": "/srv/wesemu"} replaces `/srv/wesemu` by `@data@`.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        pairs = [(path, f"@wesemu-{name}@") for name, path in places.items()]
        # longer paths first: one may lie below another
        self._pairs = sorted(pairs, key=lambda pair: -len(pair[0]))

    def copy(self, source: IO[bytes], target: IO[bytes], *, in_json: bool, back: bool) -> None:
        """Copy a file with its paths replaced by marks, or with `back` the other way."""
        table = {}
        for path, mark in self._pairs:
            written = json.dumps(path, ensure_ascii=False)[1:-1] if in_json else path
            old, new = (mark, written) if back else (written, mark)
            table[old.encode()] = new.encode()
        # a path ends where no letter of a longer name follows
        end = b"" if back else rb"(?![\w-]|\.\w)"
        pattern = re.compile(b"(?:" + b"|".join(map(re.escape, table)) + b")" + end)
        longest = max(map(len, table)) + _AHEAD
        pending, chunk = b"", source.read(_CHUNK)
        while chunk:
            following = source.read(_CHUNK)
            pending += chunk
            position = 0
            for found in pattern.finditer(pending):
                if following and found.start() + longest > len(pending):
                    break  # the next chunk may continue it to a longer path
                target.write(pending[position : found.start()] + table[found[0]])
                position = found.end()
            # the rest may be the beginning of a path
            cut = max(position, len(pending) - longest) if following else len(pending)
            target.write(pending[position:cut])
            pending, chunk = pending[cut:], following


_AHEAD = 2
"""Bytes after a path that decide whether it ends there."""


# Saving.


def save(data: DataDirectory, marks: PathMarks, file: Path, state: SnapshotState) -> SnapshotCounts:
    """Write a snapshot of all but active runs. A server may run meanwhile. Raises OSError."""
    counts = {"runs": 0, "buckets": 0, "references": 0}
    with (
        file.open("w+b") as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        manifest = {
            "format": _FORMAT,
            "emulated": state.emulated.isoformat(timespec="microseconds"),
            "speed": state.speed,
            "ids": state.ids,
            "runs": state.runs,
        }
        _add_content(archive, _MANIFEST, json.dumps(manifest).encode(), mtime_ns=0)
        for folder in run_directories(data.runs):
            if Workspace(folder).state.is_file():
                counts["runs"] += 1
                try:
                    _add_run(archive, folder, marks)
                except FileNotFoundError as error:
                    raise Conflict(
                        f"the run {folder.name} was removed while the snapshot was written; "
                        "save it again"
                    ) from error
        for name in Buckets(data.buckets).names():
            counts["buckets"] += 1
            _add_bucket(archive, data.buckets / name)
        for folder in sorted(data.references.iterdir()):
            if _REFERENCE.fullmatch(folder.name) and folder.is_dir():
                counts["references"] += 1
                for path in _files(folder):
                    _add_file(archive, path, f"references/{folder.name}/{_below(path, folder)}")
        end = tarfile.TarInfo(_END)
        end.size = len(digest := _sha256(stream, stream.tell()).encode())
        archive.addfile(end, io.BytesIO(digest))
    return SnapshotCounts(**counts)


def _sha256(stream: BinaryIO, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes, and stay behind them."""
    digest = hashlib.sha256()
    stream.seek(0)
    while size and (chunk := stream.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _add_run(archive: tarfile.TarFile, folder: Path, marks: PathMarks) -> None:
    for path in _files(folder, kept=_RUN_FILES):
        inside = path.relative_to(folder)
        name = f"runs/{folder.name}/{inside.as_posix()}"
        if inside.parts[0] in _UNCHANGED:
            _add_file(archive, path, name)
        elif inside.name == "engine.json":
            _add_content(archive, name, _engine(path), path.stat().st_mtime_ns)
        else:
            _add_marked(archive, path, name, marks)


def _engine(path: Path) -> bytes:
    """Return what RO-Crates need of a launch specification; the rest describes this machine."""
    try:
        values = read_json(path)
        return json.dumps({key: values[key] for key in ("engine", "version")}).encode()
    except (OSError, ValueError, KeyError, TypeError):
        return b"{}"


def _add_marked(archive: tarfile.TarFile, path: Path, name: str, marks: PathMarks) -> None:
    with path.open("rb") as source, tempfile.SpooledTemporaryFile(_IN_MEMORY) as marked:
        marks.copy(source, marked, in_json=_is_json(name), back=False)
        entry = _entry(name, os.fstat(source.fileno()).st_mtime_ns, marked.tell())
        marked.seek(0)
        archive.addfile(entry, marked)


def _add_bucket(archive: tarfile.TarFile, folder: Path) -> None:
    for root, folders, _ in os.walk(folder.resolve(), onerror=_unless_removed):
        folders.sort()
        path = Path(root)  # an OSS client can create empty folders
        below = PurePosixPath("buckets", folder.name, _below(path, folder.resolve()))
        if below.parts[2:3] != (FOLDER,):
            with suppress(FileNotFoundError):  # removed meanwhile
                entry = _entry(str(below), path.stat().st_mtime_ns)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
    for path in _files(folder.resolve(), links=True):
        inside = _below(path, folder.resolve())
        name = f"buckets/{folder.name}/{inside}"
        with suppress(FileNotFoundError):  # removed meanwhile
            if inside.startswith(f"{RECORDS}/"):
                _add_content(archive, name, _portable_record(path), path.stat().st_mtime_ns)
            elif not inside.startswith(f"{FOLDER}/"):
                _add_file(archive, path, name)


def _portable_record(path: Path) -> bytes:
    """Return a record of an object (`objects.MetadataStore`) without the inodes of this disk."""
    content = path.read_bytes()
    try:
        values = json.loads(content)
        values["file"][3:] = [0, 0]  # earlier versions saved no inodes
    except (ValueError, KeyError, TypeError):
        return content
    return json.dumps(values).encode()


def _add_file(archive: tarfile.TarFile, path: Path, name: str) -> None:
    with path.open("rb") as content:
        status = os.fstat(content.fileno())
        entry = _entry(name, status.st_mtime_ns, status.st_size)
        entry.mode = status.st_mode & 0o777
        add_entry(archive, entry, content, path)


def _add_content(archive: tarfile.TarFile, name: str, content: bytes, mtime_ns: int) -> None:
    archive.addfile(_entry(name, mtime_ns, len(content)), io.BytesIO(content))


def _entry(name: str, mtime_ns: int, size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mtime, entry.pax_headers = mtime_ns // 10**9, {MTIME: str(mtime_ns)}
    return entry


def _files(folder: Path, *, links: bool = False, kept: Collection[str] = ()) -> Iterator[Path]:
    """Yield regular files below `folder`, or its entries `kept`, sorted. Follow no linked ones."""
    for root, folders, names in os.walk(folder, onerror=_unless_removed):
        if kept and root == str(folder):
            folders[:], names = [sorted({*each} & {*kept}) for each in (folders, names)]
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file() and (links or not path.is_symlink()):
                yield path


def _unless_removed(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _is_json(name: str) -> bool:
    return name.endswith((".json", ".jsonl"))


# Loading.


def unpack(file: Path, folder: Path, marks: PathMarks) -> SnapshotState:
    """Unpack a snapshot into the new folder `folder`, and check all of it.

    Raises InvalidRequest for a file that is not a snapshot of this version, or that has
    entries which `save` does not write; DiskFull if the disk has too little space; OSError.
    """
    room, size = room_for_files(file.parent), file.stat().st_size
    if size > room:
        raise too_little_room(room, size)
    staged = DataDirectory(folder)
    for part in (staged.runs, staged.buckets, staged.references):
        part.mkdir(parents=True)
    try:
        with (
            file.open("rb") as stream,
            tarfile.open(fileobj=_Bounded(stream), mode="r:") as archive,
        ):
            state = _read_manifest(archive, archive.next())
            _check_content(stream, _unpack_all(archive, folder, marks))
    except _DAMAGED as error:
        raise _refused(str(error)) from error
    except OSError as error:
        if isinstance(error, FileExistsError) or error.errno in _UNUSABLE_NAME:
            raise _refused(f"a name in it cannot be used: {error.strerror}") from error
        raise
    runs = _check(staged)
    order = tuple(run_id for run_id in state.runs if run_id in runs)
    if set(order) != runs:
        raise _refused(f"its {_MANIFEST} lacks runs")
    return replace(state, runs=order)


def install(folder: Path, data: DataDirectory) -> SnapshotCounts:
    """Move the unpacked snapshot in `folder` into a data directory without runs and buckets.

    References replace those of the same name; others stay. Raises OSError.
    """
    staged = DataDirectory(folder)
    references = sorted(staged.references.iterdir())
    for reference in references:
        _install_reference(reference, data.references / reference.name)
    buckets = _move_all(staged.buckets, data.buckets)
    runs = _move_all(staged.runs, data.runs)
    return SnapshotCounts(runs, buckets, len(references))


def _install_reference(source: Path, target: Path) -> None:
    stamps = [folder / "genome.json" for folder in (source, target)]
    there = all(stamp.is_file() for stamp in stamps)
    if there and stamps[0].read_bytes() == stamps[1].read_bytes():
        return  # the same sequences: keep the indexes that are there
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    source.rename(target)


def _move_all(source: Path, target: Path) -> int:
    entries = sorted(source.iterdir())
    for entry in entries:
        entry.rename(target / entry.name)
    return len(entries)


_DAMAGED = (
    *(tarfile.TarError, EOFError, ValueError, TypeError, KeyError),
    *(OverflowError, RecursionError),
)


class _Bounded(io.RawIOBase):
    """A file that refuses a huge extended header, which tarfile would keep in memory.

    tarfile reads a header, however long, without a seek, and seeks before each piece of content.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _CHUNK + tarfile.RECORDSIZE

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise _refused("it has an entry with a huge header")
        self._left -= size
        return self._file.read(size)

    def readable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        self._left = _CHUNK + tarfile.RECORDSIZE
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()


def _read_manifest(archive: tarfile.TarFile, entry: tarfile.TarInfo | None) -> SnapshotState:
    if entry is None or entry.name != _MANIFEST or not _is_plain_file(entry):
        raise _refused(f"it does not begin with {_MANIFEST}")
    content = archive.extractfile(entry)
    assert content is not None  # a regular file has one
    if entry.size > _LONGEST_MANIFEST:
        raise _refused(f"its {_MANIFEST} is longer than {_LONGEST_MANIFEST} bytes")
    text = io.BytesIO()
    shutil.copyfileobj(content, text)
    values: JsonObject = json.loads(text.getvalue())
    if values["format"] != _FORMAT:
        raise _refused(f"its format is {values['format']}; this server reads {_FORMAT}")
    runs = values["runs"]
    emulated, speed = datetime.fromisoformat(str(values["emulated"])), float(str(values["speed"]))
    # checked here, because the clock is set when everything else is already replaced
    if emulated.tzinfo is None or not _EARLIEST <= emulated <= END_OF_TIME:
        raise _refused(f"its emulated time is {emulated}; it needs a zone, and a year after 1969")
    if not 0 <= speed <= FASTEST:
        raise _refused(f"its speed of emulated time is {speed}, not 0 to {FASTEST:.0f}")
    order = tuple(map(str, runs)) if isinstance(runs, list) else ()
    return SnapshotState(emulated, speed, values["ids"], order)


def _unpack_all(archive: tarfile.TarFile, folder: Path, marks: PathMarks) -> tarfile.TarInfo:
    """Unpack the entries before the last one, which is returned."""
    folders = []
    for number, entry in enumerate(iter(archive.next, None)):
        if number >= _MOST_ENTRIES:
            raise _refused(f"it has more than {_MOST_ENTRIES} entries")
        if entry.name == _END:
            break
        target = _unpack(archive, entry, folder, marks)
        if entry.isdir():
            folders.append((target, modified_ns(entry)))
        archive.members = []  # type: ignore[attr-defined] # else it keeps all entries
    else:
        raise _refused("its end is missing")
    for target, mtime in reversed(folders):  # files inside have changed the mtime
        os.utime(target, ns=(mtime, mtime))
    return entry


def _check_content(stream: BinaryIO, end: tarfile.TarInfo) -> None:
    """Compare the bytes before the last entry with the SHA-256 in it. Zeros follow."""
    stream.seek(end.offset_data)
    if not _is_plain_file(end) or end.size > _CHUNK:
        raise _refused("its end is damaged")
    expected = stream.read(end.size).decode()
    if any(chunk.strip(b"\0") for chunk in iter(partial(stream.read, _CHUNK), b"")):
        raise _refused("it has content after its end")
    if expected and _sha256(stream, end.offset) != expected:
        raise _refused("it is damaged: its content does not match the SHA-256 in it")


def _unpack(
    archive: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path, marks: PathMarks
) -> Path:
    name = PurePosixPath(entry.name)
    if name.is_absolute() or ".." in name.parts or "\0" in entry.name:
        raise _refused(f"the path {entry.name[:200]!r} leads out of it")
    if not _is_expected(name.parts, entry):
        raise _refused(f"it has the entry {entry.name[:200]!r}")
    target = folder / name
    if entry.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return target
    content = archive.extractfile(entry)
    assert content is not None  # a regular file has one
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("xb") as file:
        if name.parts[0] == "runs" and name.parts[2] not in _UNCHANGED:
            marks.copy(content, file, in_json=_is_json(entry.name), back=True)
        else:
            shutil.copyfileobj(content, file)
    target.chmod(entry.mode & 0o777 | 0o600)
    os.utime(target, ns=(modified_ns(entry), modified_ns(entry)))
    return target


def _is_expected(parts: tuple[str, ...], entry: tarfile.TarInfo) -> bool:
    """Whether `save` writes entries of this path and type."""
    match parts:
        case ("buckets", _, *key) if key[:1] != [FOLDER]:
            return entry.isdir() or (bool(key) and _is_plain_file(entry))
        case ("buckets", _, *folders, _):
            return _is_plain_file(entry) and "/".join(folders).startswith(f"{RECORDS}/")
        case ("references", name, _, *_):
            return _is_plain_file(entry) and bool(_REFERENCE.fullmatch(name))
        case ("runs", _, name, *_):
            return _is_plain_file(entry) and name in _RUN_FILES
    return False


def _is_plain_file(entry: tarfile.TarInfo) -> bool:
    return entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse()


def _check(staged: DataDirectory) -> set[str]:
    """Check names and runs. Return the ids of the runs."""
    names = {folder.name for folder in staged.buckets.iterdir()}
    if wrong := names - set(Buckets(staged.buckets).names()):
        raise _refused(f"{min(wrong)[:80]!r} is not a bucket name")
    for folder in staged.runs.iterdir():
        try:
            run, _ = read_run(Workspace(folder))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _refused(f"the run {folder.name[:80]!r} cannot be read: {error}") from error
        # a run that has not ended would be executed
        if run.id != folder.name or not run.state.ended or not is_run_directory(folder):
            raise _refused(f"the run {folder.name[:80]!r} has not ended, or has another id")
    return {folder.name for folder in staged.runs.iterdir()}


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"this is not a snapshot that can be loaded: {reason}")
