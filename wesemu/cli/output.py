"""stdout is data, stderr is talk. Neither has a control character from anywhere else."""

import codecs
import errno
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from enum import IntEnum, StrEnum
from pathlib import Path
from types import TracebackType
from typing import Annotated, Protocol, Self

import typer

from wesemu.errors import InvalidRequest, SystemFault, WesemuError
from wesemu.util.text import os_sentence

# How the command line ends when something is wrong: one line on stderr and a stable status.


class ExitStatus(IntEnum):
    """The exit statuses, documented in docs/cli.md; 2 is also what a wrong flag gives."""

    SUCCESS = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    MACHINE = 5
    INTERRUPTED = 130


class CommandRefused(WesemuError):
    """A command that cannot be carried out, with the status it ends with."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.REFUSED) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: WesemuError) -> ExitStatus:
    """The exit status that an expected error ends with."""
    match error:
        case CommandRefused(status=status):
            return status
        case SystemFault():
            return ExitStatus.MACHINE
        case InvalidRequest():
            return ExitStatus.USAGE
    return ExitStatus.REFUSED


def sentence(error: OSError) -> str | None:
    """One line for a file that cannot be used; None for an error that is no user's doing."""
    if error.filename is None or error.errno is None:
        return None
    if error.errno == errno.ENOSPC:
        return f"the disk is full: {error.filename}"
    return os_sentence(error)


# Flags that several verbs share.


class NodeChoice(StrEnum):
    """Where a run is carried out: docs/gpu.md."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Data = Annotated[
    Path | None,
    typer.Option("--data", help="The data directory.", show_default="./.wesemu", metavar="DIR"),
]
"""None means: what the settings say."""

Server = Annotated[
    str,
    typer.Option("--server", envvar="WESEMU_SERVER", help="The server's address.", metavar="URL"),
]

Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="WESEMU_TOKEN",
        help="The bearer token that the server asks for.",
        metavar="TOKEN",
        show_default=False,
    ),
]

DEFAULT_SERVER = "http://127.0.0.1:8070"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

JobName = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="A job's name, a run's id, or the beginning of one.", show_default=False
    ),
]


# Text from workflows and servers, made harmless for terminals.


_COLORS = re.compile("\x1b\\[[0-9;:]*m")
_LINE_ENDS = re.compile("\r\n?")
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # directions
    "\u2028\u2029\ufff9-\ufffb\ud800-\udfff]"
)
_ONE_LINE = re.compile("[\t\n]")


def harmless(text: str) -> str:
    """Colors are taken out, line ends become line feeds, and every other control character is
    written out, as `\\x1b`."""
    return _HARMFUL.sub(_written, _LINE_ENDS.sub("\n", _COLORS.sub("", text)))


def harmless_cell(text: str) -> str:
    """As `harmless`, on one line."""
    return _ONE_LINE.sub(_written, harmless(text))


def harmless_json(value: object) -> str:
    """A JSON document of the same value, without a character that a terminal acts upon."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class HarmlessText:
    """Bytes in pieces as harmless text; a piece may end within a character or a sequence."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""

    def add(self, chunk: bytes) -> str:
        text = self._held + self._decode(chunk)
        whole = max(text.rfind("\n"), len(text) - _LONGEST)
        keep = text.find("\x1b", whole + 1) if text.rfind("\x1b") > whole else -1
        end = len(text) if keep < 0 else keep
        if text[:end].endswith("\r"):
            end -= 1
        self._held = text[end:]
        return harmless(text[:end])

    def end(self) -> str:
        text, self._held = self._held + self._decode(b"", True), ""
        return harmless(text)


_LONGEST = 64
"""Letters of a sequence that is not whole yet and waited for."""


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    match found[0]:
        case "\n":
            return "\\n"
        case "\t":
            return "\\t"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def print_note(text: str = "") -> None:
    """Talk to the person."""
    typer.echo(harmless(text), err=True)


def print_result(text: str) -> None:
    """One line of data."""
    typer.echo(harmless(text))


def print_json(value: object) -> None:
    """One JSON document as data, for programs and people."""
    typer.echo(harmless_json(value))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in the boxes of Alibaba's `ags` command line, which scripts cut by `|`."""
    lines = [[harmless_cell(cell) for cell in row] for row in (headings, *rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    print_result(rule)
    for number, row in enumerate(lines):
        cells = (f" {cell:<{width}} " for cell, width in zip(row, widths, strict=True))
        print_result("|" + "|".join(cells) + "|")
        if number == 0:
            print_result(rule)
    print_result(rule)


def on_terminal() -> bool:
    """Whether the person watches the talk on a terminal."""
    return sys.stderr.isatty()


# How far runs are: live bars on a terminal, a line now and then elsewhere. All of it is talk.


_SILENCE_SECONDS = 10.0


class Board(Protocol):
    """Shows one row for each name. `done` of `total` steps; `state` is a word of the API; `note`
    says more."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, name: str, state: str, done: int, total: int, note: str = "") -> None: ...


def board() -> Board:
    """The one that suits stderr."""
    return Bars() if on_terminal() else Lines()


class Lines:
    """A line for every new state, and one when nothing has been said for ten seconds."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def show(self, name: str, state: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        before, told = self._told.get(name, ("", 0.0))
        news = f"{state} {note}"
        if news != before or now - told > _SILENCE_SECONDS:
            steps = f"  {done} of {total} steps" if total else ""
            print_note(f"{name:<20} {state}{steps}" + (f"  {note}" if note else ""))
            self._told[name] = (news, now)


class Bars:
    """Bars drawn by rich on stderr."""

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, name: str, state: str, done: int, total: int, note: str = "") -> None:
        from rich.progress import TaskID

        name, state, note = map(harmless_cell, (name, state, note))
        if name not in self._rows:
            self._rows[name] = self._progress.add_task(f"{name:<20}", total=1, state="")
        self._progress.update(
            TaskID(self._rows[name]),
            completed=done,
            total=max(total, 1),
            state=f"{state.lower()} {note}",
        )
