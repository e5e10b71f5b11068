"""The run directory: its paths, its drafts, and safe reading and writing of files.

A workflow can write anything into its run directory. The functions that read and write here follow
no links and never wait for a FIFO. docs/run-directory.md describes the files.
"""

import asyncio
import errno
import io
import json
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from wesemu.errors import InvalidRequest
from wesemu.runs.model import JsonObject
from wesemu.util.block_writer import Step, write_blocks
from wesemu.util.cancellation import close, open_in_thread

_NAME_LIMIT = 255
_PATH_LIMIT = 1024
_JSON_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class Workspace:
    """The directory of one run. `root` is `<data>/runs/<id>`."""

    root: Path

    @property
    def request(self) -> Path:
        return self.root / "request.json"

    @property
    def draft(self) -> Path:
        """An empty file that marks a submission that is not accepted yet."""
        return self.root / ".draft"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def attachments(self) -> Path:
        return self.root / "attachments"

    def attachment_names(self) -> list[str]:
        """Return the names of the attachments, sorted; none without the folder. Blocks."""
        files = (path for path in self.attachments.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.attachments)) for path in files)

    @property
    def inputs(self) -> Path:
        """Inputs that were fetched for the run; deleted at its end."""
        return self.root / "inputs"

    @property
    def work(self) -> Path:
        """The workflow's working directory."""
        return self.root / "work"

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def events(self) -> Path:
        """One JSON object per line, appended by the run process."""
        return self.root / "events.jsonl"

    @property
    def stdout(self) -> Path:
        return self.root / "stdout.log"

    @property
    def stderr(self) -> Path:
        return self.root / "stderr.log"

    @property
    def tasks(self) -> Path:
        """`tasks/<id>-<attempt>/{stdout,stderr}`."""
        return self.root / "tasks"

    @property
    def error(self) -> Path:
        return self.root / "error.json"

    @property
    def lock(self) -> Path:
        """The run process holds a lock (flock) on this file while it lives."""
        return self.root / "run.lock"

    @property
    def exit_code(self) -> Path:
        """Written atomically by the run process just before it exits."""
        return self.root / "exit_code"

    @property
    def digests(self) -> Path:
        """Digests of results that were computed before they could be published."""
        return self.root / "digests.json"

    @property
    def publishing(self) -> Path:
        """JSON record of results that are being published (`publishing._Record`)."""
        return self.root / "publishing"

    @property
    def crashes(self) -> Path:
        """How often the run process has vanished."""
        return self.root / "crashes.json"

    @property
    def state(self) -> Path:
        """The final state of the run and its tasks."""
        return self.root / "state.json"


def safe_name(name: str) -> PurePosixPath:
    """Return the relative path of an attachment or output name.

    Raises InvalidRequest for an empty or absolute name, `..`, control characters, backslashes and
    names that are too long for a file system (WES: "implementations should guard against
    maliciously constructed filenames").
    """
    shown = repr(name[:80])
    if not name or name.endswith("/"):
        raise InvalidRequest(f"the file name {shown} is empty; give every file a name")
    if name.startswith("/"):
        raise InvalidRequest(f"the file name {shown} is absolute; use a name relative to the run")
    if "\\" in name or any(unicodedata.category(c).startswith("C") for c in name):
        raise InvalidRequest(f"the file name {shown} has a backslash or a control character")
    parts = name.split("/")
    if ".." in parts:
        raise InvalidRequest(f"the file name {shown} has '..'; it may not leave the run directory")
    parts = [part for part in parts if part not in ("", ".")]
    if not parts or len(name.encode()) > _PATH_LIMIT:
        raise InvalidRequest(f"the file name {shown} is empty or longer than {_PATH_LIMIT} bytes")
    if any(len(part.encode()) > _NAME_LIMIT for part in parts):
        raise InvalidRequest(f"a part of {shown} is longer than {_NAME_LIMIT} bytes")
    return PurePosixPath(*parts)


class RunDirectoryDraft:
    """A new run directory that receives attachments before the run is accepted."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self._taken: set[str] = set()

    def create(self) -> None:
        """Create the run directory. Raises FileExistsError if it already exists."""
        self.workspace.root.parent.mkdir(parents=True, exist_ok=True)
        self.workspace.root.mkdir()
        self.workspace.draft.touch()
        self.workspace.attachments.mkdir()

    async def attach(
        self, name: str, chunks: AsyncIterator[bytes], digest: Step | None = None
    ) -> None:
        """Stream one attachment to disk. Raises InvalidRequest for an unsafe or repeated name.

        Names that differ only in case are allowed if the file system distinguishes them. `digest`
        gets the content in blocks, in a thread.
        """
        relative = safe_name(name)
        folded = unicodedata.normalize("NFC", str(relative))
        if folded in self._taken:
            raise InvalidRequest(f"two attachments are called {name!r}; names must differ")
        self._taken.add(folded)
        try:
            target = self.workspace.attachments / relative
            file = await open_in_thread(close, _create, target)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidRequest(
                f"the attachment {name!r} collides with another one's name"
            ) from error
        try:
            steps: list[Step] = [partial(_write_whole, file), *([] if digest is None else [digest])]
            sync = partial(os.fsync, file.fileno())
            await write_blocks(chunks, steps, sync)
            await asyncio.to_thread(sync)
        finally:
            await asyncio.to_thread(file.close)

    def discard(self) -> None:
        """Delete the run directory."""
        shutil.rmtree(self.workspace.root, ignore_errors=True)


def _create(target: Path) -> io.FileIO:
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return io.FileIO(os.open(target, flags, 0o644), "wb")


def _write_whole(file: io.FileIO, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]


def read_regular(path: Path, offset: int = 0, size: int = -1) -> bytes:
    """Read a file that a workflow may have replaced: follows no link, waits for no FIFO.

    Raises FileNotFoundError if it is not a regular file, OSError.
    """
    with os.fdopen(_open_regular(path), "rb") as file:
        file.seek(offset)
        return file.read(size)


def _open_regular(path: Path) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return descriptor


def make_executable(path: Path) -> None:
    """Set the execute bit for everyone who has the read bit."""
    mode = path.stat().st_mode
    path.chmod(mode | (mode & 0o444) >> 2)


def tree_size(*folders: Path) -> int:
    """Return the bytes on disk that deleting `folders` would free.

    Files with a hard link outside `folders` do not count. Links are not followed; files that vanish
    meanwhile count 0.
    """
    sizes = dict[tuple[int, int], int]()
    links_seen = dict[tuple[int, int], int]()
    links_total = dict[tuple[int, int], int]()
    pending = [str(folder) for folder in folders]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                pending.append(entry.path)
            key = (status.st_dev, status.st_ino)
            sizes[key] = status.st_blocks * 512
            links_seen[key] = links_seen.get(key, 0) + 1
            links_total[key] = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
    # fewer links seen than the file has: another link lies outside
    return sum(size for key, size in sizes.items() if links_seen[key] >= links_total[key])


def read_end(path: Path, size: int) -> bytes:
    """Return the last `size` bytes of a file, or all of it. Raises as `read_regular` does."""
    descriptor = _open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(max(0, os.fstat(descriptor).st_size - size))
        return file.read(size)


def open_below(root: Path, relative: str) -> io.FileIO | None:
    """Open a regular file below `root`.

    Return None if it is missing or behind a symbolic link, or if the path is absolute or has `..`.
    """
    parts = PurePosixPath(relative).parts
    if not parts or parts[0].startswith("/") or ".." in parts or "\0" in relative:
        return None
    *folders, name = parts
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        for folder in folders:
            # Each folder is opened relative to the last one, so a swapped-in link has no effect.
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = inner
        # O_NONBLOCK: a workflow may leave a named pipe, and opening it would block.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        file = io.FileIO(os.open(name, flags, dir_fd=directory), "rb")
    except OSError:
        return None
    finally:
        os.close(directory)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def read_json(path: Path, limit: int = _JSON_LIMIT) -> Any:
    """Return the content of a JSON file that a workflow may have written. As `read_regular`.

    Raises ValueError for a file that is not JSON, longer than `limit` bytes, or nested too deeply.
    """
    content = read_regular(path, size=limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name} is longer than {limit} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None


def write_json(path: Path, value: JsonObject, *, durable: bool = True) -> None:
    """Write JSON atomically and durably: temporary name, fsync, rename, fsync of the folder.

    Without `durable`, a reader still sees the old or the new file, also after a kill; only a power
    cut may leave neither. Use it for files that the run makes anew after a power cut.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode(), durable=durable)


def create_target(text: Path | str) -> Path:
    """Return the path of a file or folder to write to.

    A text that ends with "/" is a folder, which is created if it is missing.
    """
    path = Path(text)
    if str(text).endswith("/"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def replaceable(path: Path) -> Path:
    """Return the file that a new file may replace by a rename: `path`, or the target of a link.

    Raises InvalidRequest for a device, a pipe or a socket, which a rename would remove.
    """
    target = path.resolve() if path.is_symlink() else path
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise InvalidRequest(f"{path} is a device, a pipe or a socket; name a file")
    return target


def write_atomically(
    path: Path, content: bytes, *, durable: bool = True, mode: int = 0o666
) -> None:
    """As `write_json`, for bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # a workflow may have put a link or a FIFO there
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def copy_tree(
    source: Path,
    target: Path,
    *,
    copy_function: Callable[[str, str], object] = shutil.copy2,
    symlinks: bool = False,
    dirs_exist_ok: bool = False,
) -> None:
    """As `shutil.copytree`, but a failure is an ordinary OSError with the number and the file of
    the first error: `shutil.Error` has a list of texts."""
    try:
        shutil.copytree(
            source,
            target,
            copy_function=copy_function,
            symlinks=symlinks,
            dirs_exist_ok=dirs_exist_ok,
        )
    except shutil.Error as error:
        _, file, reason = error.args[0][0]
        if (number := _ERROR_NUMBER.match(reason)) is None:
            raise OSError(errno.EIO, reason, file) from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), file) from error


_ERROR_NUMBER = re.compile(r"\[Errno (\d+)\]")


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable (fsync of the folder)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unpublishable_reason(workspace: Workspace, path: Path) -> str | None:
    """Return why the file at `path` cannot be published; None if it can. Blocks.

    A link is published as its target if that lies in `work/` or in the inputs of the run.
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
    """Return whether a path without links lies in `work/` or in the inputs of the run."""
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
    r"""Return a path as text; a byte that is not UTF-8 becomes `\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")
