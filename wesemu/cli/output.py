"""What the verbs share: exit statuses, flags, printing and progress.

Data goes to stdout, messages go to stderr. Both escape control characters of workflows and servers.
"""

import codecs
import errno
import json
import os
import re
import select
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Self

import typer

from wesemu.errors import InvalidRequest, SystemFault, WesemuError
from wesemu.util.text import FULL_DISK_ERRORS, NO_FILES_ERRORS, os_sentence

# --- errors and exit statuses ---


class ExitStatus(IntEnum):
    """The exit statuses of docs/cli.md. A wrong flag also ends with 2."""

    SUCCESS = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    MACHINE = 5
    INTERRUPTED = 130


class CommandRefused(WesemuError):
    """The command cannot be executed. `status` is its exit status."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.REFUSED) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: WesemuError) -> ExitStatus:
    """Return the exit status of an expected error."""
    match error:
        case CommandRefused(status=status):
            return status
        case SystemFault():
            return ExitStatus.MACHINE
        case InvalidRequest():
            return ExitStatus.USAGE
    return ExitStatus.REFUSED


_OF_THE_MACHINE = frozenset(
    {
        *(*FULL_DISK_ERRORS, errno.EFBIG, errno.EIO, errno.EROFS),
        *(*NO_FILES_ERRORS, errno.ENOMEM, errno.EAGAIN),
    }
)
"""Errors that need no name of a file: a failed write or a failed fork has none."""


def describe_os_error(error: OSError) -> str | None:
    """Return one line about an unusable file or a limit of the machine; None for another error."""
    if error.errno == errno.ENOSPC:
        return "the disk is full" + (f": {error.filename}" if error.filename else "")
    if error.errno == errno.ENOENT and error.filename is None:  # of os.getcwd()
        return "the current directory has been removed; change to another one"
    if error.errno is None or (error.filename is None and error.errno not in _OF_THE_MACHINE):
        return None
    return os_sentence(error)


def discard_output() -> None:
    """Discard what standard output holds if it cannot be written, as on a full disk.

    Otherwise Python would try again at its exit, print a traceback and end with status 120.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_output() -> None:
    """Raise BrokenPipeError if the reader of standard output has ended, as in `| head -1`.

    Verbs that wait for more data call it: otherwise only their next write would fail.
    """
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # no file, such as in a notebook
        return
    poll = select.poll()
    poll.register(number, 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


# --- flags that several verbs share ---


def parse_path(text: str | Path) -> Path:
    """Return the path of a flag or an argument.

    Raise BadParameter for an empty one, such as that of a shell variable that is not set: it would
    mean the current directory.
    """
    if not str(text):
        raise typer.BadParameter("an empty path; write '.' for the current directory")
    return Path(text)


def parse_target(text: str | Path) -> Path:
    """As `parse_path`. A text that ends with "/" is a folder, which is created if it is missing."""
    from wesemu.runs.run_directory import create_target

    parse_path(text)
    return create_target(text)


path_option = partial(typer.Option, parser=parse_path)
path_argument = partial(typer.Argument, parser=parse_path)
target_option = partial(typer.Option, parser=parse_target)
target_argument = partial(typer.Argument, parser=parse_target)

Data = Annotated[
    Path | None,
    path_option("--data", help="The data directory.", show_default="./.wesemu", metavar="DIR"),
]
"""None selects the setting `data`."""

Server = Annotated[
    str,
    typer.Option("--server", envvar="WESEMU_SERVER", help="Address of the server.", metavar="URL"),
]

Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="WESEMU_TOKEN",
        help="Bearer token for the server.",
        metavar="TOKEN",
        show_default=False,
    ),
]

DEFAULT_SERVER = "http://127.0.0.1:8070"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

JobName = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="Job name, run id, the start of one, or @last.", show_default=False
    ),
]

WholeJobName = Annotated[
    str, typer.Argument(metavar="JOB", help="Complete job name or run id.", show_default=False)
]


Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing file in a folder.")
]


def refuse_existing(file: Path, *, overwrite: bool) -> None:
    """Raise CommandRefused if `file`, which the user did not name, exists; unless `overwrite`."""
    if os.path.lexists(file) and not overwrite:
        raise CommandRefused(
            f"{file} exists already; name another file, or replace it with --overwrite",
            ExitStatus.MACHINE,
        )


# --- text of workflows and servers, without control characters for terminals ---

_COLORS = re.compile("\x1b\\[[0-9;:]*m")
_LINE_ENDS = re.compile("\r\n?")
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 except tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional formatting
    "\u2028\u2029\ufff9-\ufffb\ud800-\udfff]"
)
_ONE_LINE = re.compile("[\t\n]")


def sanitize(text: str) -> str:
    """Remove colors, convert line ends to line feeds, escape other control characters (`\\x1b`)."""
    return _CONTROL.sub(_escape, _LINE_ENDS.sub("\n", _COLORS.sub("", text)))


def sanitize_cell(text: str) -> str:
    """Sanitize text and escape its tabs and line feeds as well."""
    return _ONE_LINE.sub(_escape, sanitize(text))


def sanitized_json(value: object) -> str:
    """Return a JSON document of the value, with all control characters escaped.

    If stdout is not UTF-8, other characters than ASCII are escaped as well.
    """
    text = json.dumps(value, indent=2, ensure_ascii=not _writes_utf8())
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _writes_utf8() -> bool:
    return codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"


class StreamSanitizer:
    """Sanitizes a stream of bytes. Chunks may end within a character or an escape sequence."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._pending = ""

    def add(self, chunk: bytes) -> str:
        text = self._pending + self._decode(chunk)
        # an escape sequence near the end may continue in the next chunk: keep it until then
        complete = max(text.rfind("\n"), len(text) - _LONGEST_SEQUENCE)
        start = text.find("\x1b", complete + 1) if text.rfind("\x1b") > complete else -1
        end = len(text) if start < 0 else start
        # the same for a carriage return, which may be the first half of a line end
        if text[:end].endswith("\r"):
            end -= 1
        self._pending = text[end:]
        return sanitize(text[:end])

    def end(self) -> str:
        text, self._pending = self._pending + self._decode(b"", True), ""
        return sanitize(text)


_LONGEST_SEQUENCE = 64
"""Maximum length of an incomplete escape sequence to wait for, in characters."""


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    match found[0]:
        case "\n":
            return "\\n"
        case "\t":
            return "\\t"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def print_note(text: str = "") -> None:
    """Print a message for the user on stderr."""
    typer.echo(sanitize(text), err=True)


def print_result(text: str) -> None:
    """Print one line of data on stdout."""
    typer.echo(sanitize(text))


def print_json(value: object) -> None:
    """Print one JSON document on stdout."""
    typer.echo(sanitized_json(value))


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, fit: bool = True
) -> None:
    """Print a table in the format of Alibaba's `ags` command line, with `|` between columns.

    With `fit`, a table that is wider than the terminal (80 columns without one) wraps its widest
    cells. If that is not enough, each row becomes a table of its own with one line per column.
    """
    cells = [[sanitize_cell(cell) for cell in row] for row in rows]
    widths = _column_widths([headings, *cells], output_width() if fit else _UNLIMITED)
    if widths is not None:
        _print_lines(headings, cells, widths)
        return
    name = max(map(len, headings))
    for row in cells or [[""] * len(headings)]:
        value = max(max(map(len, row)), 1)
        room = max(output_width() - name - len("|  |  |"), _NARROWEST)
        _print_lines(None, list(zip(headings, row, strict=True)), [name, min(value, room)])


_UNLIMITED = 1 << 30

_NARROWEST = 14
"""Columns are not wrapped to fewer characters: "EXECUTOR_ERROR" has as many."""


def output_width() -> int:
    """Return the columns of the terminal (or of the variable COLUMNS); 80 without a terminal."""
    return shutil.get_terminal_size((80, 24)).columns


def _column_widths(lines: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Return the widths of the columns of a table, None if it does not fit."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    excess = sum(widths) + 3 * len(widths) + 1 - width
    while excess > 0:
        widest = max(widths)
        if widest <= _NARROWEST:
            return None
        column = widths.index(widest)
        others = max((each for each in widths if each < widest), default=0)
        step = min(excess, widest - max(others, _NARROWEST))
        widths[column] -= max(step, 1)
        excess -= max(step, 1)
    return widths


def _print_lines(
    headings: Sequence[str] | None, rows: Sequence[Sequence[str]], widths: Sequence[int]
) -> None:
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    print_result(rule)
    for number, row in enumerate(rows if headings is None else (headings, *rows)):
        wrapped = [_wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in zip_longest(*wrapped, fillvalue=""):
            cells = (f" {cell:<{width}} " for cell, width in zip(line, widths, strict=True))
            print_result("|" + "|".join(cells) + "|")
        if number == 0 and headings is not None:
            print_result(rule)
    print_result(rule)


def _wrap(cell: str, width: int) -> list[str]:
    """Split a cell into lines at its spaces, or within words that are longer than a line."""
    if len(cell) <= width:
        return [cell]
    return textwrap.wrap(cell, width, break_on_hyphens=False)


def on_terminal() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr.isatty()


# --- progress of runs on stderr: bars on a terminal, lines elsewhere ---

_SILENCE_SECONDS = 10.0


def progress_display() -> "ProgressBars | ProgressLines":
    """Return bars if stderr is a terminal, else lines."""
    return ProgressBars() if on_terminal() else ProgressLines()


class ProgressLines:
    """Prints a line for each new state, and at least every ten seconds when called."""

    def __init__(self) -> None:
        self._printed: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return

    def show(self, name: str, state: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` steps have ended. `state` is a state of the API."""
        now = time.monotonic()
        previous, printed = self._printed.get(name, ("", 0.0))
        current = f"{state} {note}"
        if current != previous or now - printed > _SILENCE_SECONDS:
            steps = f"  {done} of {total} steps" if total else ""
            print_note(f"{name:<20} {state}{steps}" + (f"  {note}" if note else ""))
            self._printed[name] = (current, now)


class ProgressBars:
    """Progress bars of rich on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr),
        )
        self._rows: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, name: str, state: str, done: int, total: int, note: str = "") -> None:
        from rich.progress import TaskID

        name, state, note = map(sanitize_cell, (name, state, note))
        if name not in self._rows:
            self._rows[name] = self._progress.add_task(f"{name:<20}", total=1, state="")
        self._progress.update(
            TaskID(self._rows[name]),
            completed=done,
            total=max(total, 1),
            state=f"{state.lower()} {note}",
        )
