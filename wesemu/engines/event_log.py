"""events.jsonl, the event log of a run: the run process appends, the server follows.

docs/run-directory.md lists the records. Each line is one JSON object with `time` and `event`.
Readers skip unknown records and lines that a crash has cut off. Parts: preallocation of disk
blocks, output files, `EventLog` (writer), `Tail` (reader), conversion of records.
"""

import contextlib
import ctypes
import errno
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from wesemu.runs.model import JsonObject, RunFailure, TaskLog, TaskState, details_to_json
from wesemu.runs.ports import (
    EngineError,
    Event,
    Launched,
    Progress,
    RunStarted,
    TaskChanged,
    Unpublished,
)
from wesemu.runs.run_directory import (
    Workspace,
    is_own,
    printable_path,
    read_regular,
    unpublishable_reason,
)

# Preallocation of disk blocks, so that appends succeed on a full disk.

_KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE of fallocate(2): allocate behind the end of the file."""


def preallocate(descriptor: int, size: int) -> bool:
    """Allocate `size` bytes behind the end of the file with fallocate(2).

    Returns False if the disk is full, or the file system or operating system does not support it.
    """
    call = _fallocate()
    return (
        call is not None and call(descriptor, _KEEP_SIZE, os.fstat(descriptor).st_size, size) == 0
    )


def release_preallocated(descriptor: int) -> None:
    """Free the blocks that `preallocate` allocated behind the end of the file."""
    os.ftruncate(descriptor, os.fstat(descriptor).st_size)


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    call = getattr(ctypes.CDLL(None), "fallocate64", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return call


# Output files of a run.

_PRIVATE = frozenset({".snakemake_timestamp"})
"""Internal files of an engine in output folders."""


class OutputFiles:
    """Collects outputs below `work/`: each file once, in the order of the first `add`.

    An existing file that cannot be published becomes a problem.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._files = dict[str, None]()
        self._problems = dict[str, Unpublished]()

    @property
    def files(self) -> list[str]:
        return list(self._files)

    @property
    def problems(self) -> list[Unpublished]:
        return list(self._problems.values())

    def add(self, name: str) -> None:
        """Add a path relative to `work/`. A folder adds its files; missing paths are ignored."""
        path = self._workspace.work / name
        if not os.path.lexists(path):
            return
        if path.is_dir() and is_own(self._workspace, path.resolve()):
            for inner in walk(path, lambda real: is_own(self._workspace, real)):
                if inner.is_symlink() or not inner.is_dir():
                    self._add(inner, declared=False)
        else:
            self._add(path, declared=True)

    def _add(self, path: Path, *, declared: bool) -> None:
        name = os.path.relpath(path, self._workspace.work)
        if name.startswith("../"):  # an absolute path, chosen by the workflow
            self._problems[name] = Unpublished(
                printable_path(str(path)), "it is outside the run directory", declared=False
            )
            return
        reason = unpublishable_reason(self._workspace, path)
        if reason is None:
            self._files[name] = None
        elif declared or name not in self._problems:
            self._problems[name] = Unpublished(printable_path(name), reason, declared)


def walk(folder: Path, is_followed: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield all files and empty folders below a folder, sorted.

    Follows a link to a folder if `is_followed` accepts its target. Yields other links, and links
    to a parent folder, like files.
    """
    return _walk(folder, (folder.resolve(),), is_followed)


def _walk(
    folder: Path, above: tuple[Path, ...], is_followed: Callable[[Path], bool]
) -> Iterator[Path]:
    inside = sorted(folder.iterdir())
    if not inside and not folder.is_symlink():
        yield folder
    for path in inside:
        if path.name in _PRIVATE:
            continue
        if not path.is_dir():
            yield path
            continue
        inner = path.resolve()
        returns = any(one.is_relative_to(inner) for one in above)
        if path.is_symlink() and (returns or not is_followed(inner)):
            yield path
        else:
            yield from _walk(path, (*above, inner), is_followed)


OPEN_STATES = frozenset({TaskState.QUEUED, TaskState.RUNNING})

_READ_SIZE = 1 << 20
_LONGEST_LINE = 64 << 20
"""In bytes; a record with a million outputs fits."""

_MESSAGE_LIMIT = 100_000
_SURROGATE = b"\\ud"
_PREALLOCATED_BYTES = 64 << 10
_LOW_BYTES = _PREALLOCATED_BYTES // 2


def notification_fifo(workspace: Workspace) -> Path:
    """Return the FIFO that exists while the run process lives; a byte announces records."""
    return workspace.root / "events.fifo"


def _steady_seconds() -> float:
    """Return the seconds since an unknown moment, with those in which the machine slept."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class EventLog:
    """Writer of events.jsonl. Several processes of a run may write: a record is one write(2).

    The file has preallocated blocks, so a run that fills the disk can still record its end. Times
    are not affected by changes of the wall clock after the log was opened.
    """

    def __init__(self, workspace: Workspace) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        self._events = os.open(workspace.events, flags, 0o644)
        self._fifo = open_fifo(notification_fifo(workspace))
        self._allocated = 0
        self._cut = False
        self._opened = datetime.now(UTC), _steady_seconds()

    def now(self) -> datetime:
        """Return the time of the wall clock, without its changes since the log was opened."""
        wall, seconds = self._opened
        return wall + timedelta(seconds=_steady_seconds() - seconds)

    def write(self, event: str, **members: Any) -> None:
        """Append one record. `members` are JSON values. Never raises OSError."""
        record = {"time": self.now().isoformat(timespec="microseconds"), "event": event, **members}
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str)
        line = text.encode(errors="replace") + b"\n"
        try:
            self._append(line)
        except OSError as error:  # a full disk must not end the run process
            log_warning(f"writing an event failed: {error}")
        self.notify()

    def _append(self, line: bytes) -> None:
        """Write a line. If a full disk cuts it off, the next line starts with a line break."""
        # allocate early: the disk may be full when the allocated blocks are used up
        if self._allocated < len(line) + _LOW_BYTES and preallocate(
            self._events, len(line) + _PREALLOCATED_BYTES
        ):
            self._allocated = len(line) + _PREALLOCATED_BYTES
        line = b"\n" + line if self._cut else line
        written = os.write(self._events, line)
        self._allocated -= written
        self._cut = written < len(line)
        if self._cut:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def task(self, task: TaskLog, **members: Any) -> None:
        """Record a change. A task never ends before its start: the wall clock may be set back."""
        if task.started is not None and task.ended is not None:
            task = replace(task, ended=max(task.ended, task.started))
        self.write("task", task=task_to_json(task), **members)

    def error(self, failure: RunFailure) -> None:
        known = {key: value for key, value in asdict(failure).items() if value is not None}
        self.write("error", failure=known)

    def outputs(self, files: Iterable[str], unpublished: Iterable[Unpublished] = ()) -> None:
        problems = [asdict(problem) for problem in unpublished]
        members = {"unpublished": problems} if problems else {}
        self.write("outputs", files=list(files), **members)

    def notify(self) -> None:
        if self._fifo is not None:
            try:
                os.write(self._fifo, b"\0")
            except BlockingIOError:
                return  # full: the follower has notifications to read already

    def close(self) -> None:
        with contextlib.suppress(OSError):
            release_preallocated(self._events)
        os.close(self._events)
        if self._fifo is not None:
            os.close(self._fifo)
            self._fifo = None


def log_warning(message: str) -> None:
    """Write a line to stderr.log of the run. Ignores a full disk."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"wesemu: {message}\n")
        sys.stderr.flush()


def create_notification_fifo(workspace: Workspace) -> None:
    """Create the FIFO. On file systems without FIFOs, followers poll."""
    try:
        os.mkfifo(notification_fifo(workspace), 0o600)
    except OSError:
        return


def open_fifo(path: Path) -> int | None:
    """Open a FIFO for reading and writing; return None for a missing one and for other files."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


class Tail:
    """Reader of events.jsonl: each `read` returns the new complete records."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest: list[bytes] = []
        self._rest_size = 0

    def read(self) -> list[JsonObject]:
        """Return new records; none if the file does not exist. Blocks on the disk.

        Takes time proportional to the new content, and memory for 1 MiB or the longest line.
        Skips lines above 64 MiB.
        """
        while content := self._read():
            records = [record for line in self._lines(content) if (record := _parse(line))]
            if records:
                return records
        return []

    def _read(self) -> bytes:
        try:
            content = read_regular(self._path, self._offset, _READ_SIZE)
        except FileNotFoundError:
            return b""
        self._offset += len(content)
        return content

    def _lines(self, content: bytes) -> Iterator[bytes]:
        """Yield the lines that `content` completes."""
        *ends, rest = content.split(b"\n")
        for end in ends:
            if self._rest_size + len(end) <= _LONGEST_LINE:
                yield b"".join((*self._rest, end))
            self._rest, self._rest_size = [], 0
        self._rest_size += len(rest)
        if self._rest_size <= _LONGEST_LINE:
            self._rest.append(rest)
        else:
            self._rest = []


def _parse(line: bytes) -> JsonObject | None:
    try:
        record = json.loads(line)
        if _SURROGATE in line.lower():  # a database cannot store lone surrogates
            text = json.dumps(record, ensure_ascii=False)
            record = json.loads(text.encode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and "event" in record else None


def records(workspace: Workspace) -> Iterator[JsonObject]:
    """Yield all records so far; holds only a part of them in memory."""
    tail = Tail(workspace.events)
    while batch := tail.read():
        yield from batch


def history(workspace: Workspace) -> list[JsonObject]:
    """Return all records so far."""
    return list(records(workspace))


def logged_exit_code(workspace: Workspace) -> int | None:
    """Return the exit status from the last record; None unless it is an `ended` record."""
    last: JsonObject | None = None
    for record in records(workspace):
        last = record
    match last:
        case {"event": "ended", "exit_code": int(code)}:
            return code
    return None


def remove_irregular_files(workspace: Workspace) -> None:
    """Remove links and special files in place of the files that the run process writes.

    The workflow of an earlier launch may have created them. Opening a FIFO would block.
    """
    for path in (workspace.events, workspace.stdout, workspace.stderr, workspace.exit_code):
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            with contextlib.suppress(OSError):
                path.unlink()


def repair_tail(workspace: Workspace) -> None:
    """Complete a line that a crash has cut off, so the next record starts on a new line."""
    try:
        with workspace.events.open("rb+") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
    except FileNotFoundError:
        return


def to_event(record: JsonObject) -> Event | None:
    """Return the event of `runs.ports` for a record, if there is one."""
    members: dict[str, Any] = record
    try:
        match record["event"]:
            case "launched":
                return Launched() if int(members["launch"]) > 1 else None
            case "planned":
                return RunStarted(total=int(members["total"]))
            case "task":
                return TaskChanged(task=task_from_json(members["task"]))
            case "progress":
                return Progress(done=int(members["done"]), total=int(members["total"]))
            case "error":
                return EngineError(failure=_failure(members["failure"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return None


def _failure(values: object) -> RunFailure:
    """Return the failure of a record. Raise ValueError if a member has the wrong type."""
    failure = msgspec.convert(values, RunFailure)
    return replace(failure, message=failure.message[:_MESSAGE_LIMIT])


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """An `outputs` record: files below `work/`, and outputs that cannot be published."""

    files: tuple[str, ...] = ()
    unpublished: tuple[Unpublished, ...] = ()


def last_outputs(records: Iterable[JsonObject]) -> OutputRecord | None:
    """Return the last `outputs` record of the newest launch; an empty one if there is none yet.

    None if `records` contain neither a launch nor outputs.
    """
    result: OutputRecord | None = None
    for record in records:
        match record:
            case {"event": "launched"}:
                result = OutputRecord()
            case {"event": "outputs", "files": list(files)}:
                problems = record.get("unpublished")
                result = OutputRecord(
                    tuple(str(file) for file in files),
                    tuple(_unpublished(problems if isinstance(problems, list) else [])),
                )
    return result


def _unpublished(problems: Iterable[Any]) -> Iterator[Unpublished]:
    for problem in problems:
        match problem:
            case {"path": str(path), "reason": str(reason)}:
                yield Unpublished(path, reason, declared=bool(problem.get("declared", True)))


def last_tasks(records: Iterable[JsonObject]) -> dict[tuple[str, int], TaskLog]:
    """Return the newest state of each attempt, by task id and attempt number."""
    tasks = dict[tuple[str, int], TaskLog]()
    for record in records:
        match to_event(record):
            case TaskChanged(task=task):
                tasks[task.id, task.attempt] = task
    return tasks


def close_tasks(
    event_log: EventLog, records: Iterable[JsonObject], states: frozenset[TaskState] = OPEN_STATES
) -> None:
    """Record CANCELED for every attempt in `states`, because its process is gone."""
    for task in last_tasks(records).values():
        if task.state in states:
            ended = event_log.now() if task.started else None
            event_log.task(replace(task, state=TaskState.CANCELED, ended=ended))


def task_to_json(task: TaskLog) -> dict[str, Any]:
    """Return the known members; times in ISO 8601, UTC."""
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    values |= {
        "state": task.state.value,
        "wildcards": dict(task.wildcards) or None,
        "details": details_to_json(task.details) or None,
        "started": task.started and task.started.isoformat(timespec="microseconds"),
        "ended": task.ended and task.ended.isoformat(timespec="microseconds"),
    }
    return {key: value for key, value in values.items() if value is not None}


_LARGEST = (1 << 63) - 1
"""The largest number that the index can store."""


def task_from_json(values: object) -> TaskLog:
    """Return the task of a record. Raise ValueError or OverflowError for an invalid one, which a
    workflow may have written."""
    task = msgspec.convert(values, TaskLog)
    numbers = (task.attempt, task.threads, task.exit_code, task.peak_memory)
    if any(number is not None and abs(number) > _LARGEST for number in numbers):
        raise ValueError("a number is too large")
    for timestamp in (task.started, task.ended):
        if timestamp is not None:
            if timestamp.tzinfo is None:
                raise ValueError("a time has no time zone")
            timestamp.astimezone(UTC)
    return task
