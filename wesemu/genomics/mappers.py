"""What all mappers share, and native mappers.

Lanes, programs and the SAM header; command templates of users' mappers; `NativeMapper`, which feeds
checked reads to a program and copies its SAM records under our header.
"""

import contextlib
import fcntl
import os
import re
import select
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from wesemu.errors import InvalidRequest, SystemFault
from wesemu.genomics.bwa_index import Contig
from wesemu.genomics.fastq import PairedReader

# Lanes, programs, and a SAM header that is the same on every machine.

BWA = ("bwa", "mem", "-K", "10000000", "-Y")
"""A fixed -K makes the alignments independent of the threads. -Y soft-clips supplementary
alignments, as GATK and Parabricks need them."""

BWA_MEM2 = ("bwa-mem2", *BWA[1:])
"""bwa-mem2 takes bwa's options."""

BWA_MEM3 = ("bwa-mem3", *BWA[1:])
"""The equivalent of what the wheel does, as a command line of bwa."""

MINIMAP2 = ("minimap2", "-a", "-x", "sr", "-K", "10000000", "-Y")
"""The same for minimap2, whose alignments differ from bwa's."""


class MapperFailed(SystemFault):
    """The mapper ended early or with an error."""


class Lane(NamedTuple):
    """Two FASTQ files (or an interleaved one) and the @RG line of their reads, with tabs."""

    first: str
    second: str | None
    read_group: str


class Program(NamedTuple):
    """A program that processes the alignments: an @PG line. `command` has no paths or threads;
    `note` is a sentence about the program."""

    name: str
    version: str
    command: str
    note: str = ""


def header_text(
    contigs: Iterable[Contig], lanes: Sequence[Lane], programs: Iterable[Program]
) -> str:
    """Return the SAM header: no paths, no threads, nothing that differs between two runs."""
    lines = ["@HD\tVN:1.6\tSO:unsorted\tGO:query"]
    for contig in contigs:
        alternate = "\tAH:*" if contig.alternate else ""
        lines.append(f"@SQ\tSN:{contig.name}\tLN:{contig.length}{alternate}")
    lines += dict.fromkeys(lane.read_group for lane in lanes)
    before = ""
    for program in programs:
        note = f"\tDS:{program.note}" if program.note else ""
        lines.append(
            f"@PG\tID:{program.name}\tPN:{program.name}{before}\tVN:{program.version}"
            f"\tCL:{program.command}{note}"
        )
        before = f"\tPP:{program.name}"
    return "\n".join(lines) + "\n"


# Command templates of mappers that users bring: arguments with placeholders, without a shell.

READS = "reads"
PLACEHOLDERS = (READS, "first", "second", "read_group", "threads", "gpus", "reference")
"""`reads` must be an argument of its own, and becomes two: the two files."""

_SHELL = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_template(name: str, template: str) -> None:
    """Raise InvalidRequest for a name or a template that cannot be used."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is not a mapper's name; use letters, digits and . _ -")
    used = set[str]()
    for word in _arguments(name, template):
        names = _placeholders(name, word)
        if READS in names and word != f"{{{READS}}}":
            raise InvalidRequest(
                f"mapper {name}: {{reads}} must be a separate argument, not part of {word!r}"
            )
        used |= names
    for missing in ({"reference"} - used, {"read_group"} - used):
        if missing:
            raise InvalidRequest(f"mapper {name}: the template has no {{{missing.pop()}}}")
    if READS not in used and not {"first", "second"} <= used:
        raise InvalidRequest(
            f"mapper {name}: the template names no reads; write {{first}} {{second}}"
        )


def fill(name: str, template: str, values: Mapping[str, str]) -> list[str]:
    """Return the command. `values` has all placeholders but `reads`. Raises InvalidRequest."""
    command = list[str]()
    for word in _arguments(name, template):
        if word == f"{{{READS}}}":
            command += [values["first"], values["second"]]
        else:
            command.append(word.format_map(values))
    return command


def uses_gpu(name: str, template: str) -> bool:
    """Return whether the template has a number of GPUs: then the mapper needs a lease on them."""
    return any("gpus" in _placeholders(name, word) for word in _arguments(name, template))


def _arguments(name: str, template: str) -> list[str]:
    try:
        arguments = shlex.split(template)
    except ValueError as error:
        raise InvalidRequest(f"mapper {name}: the template cannot be read: {error}") from error
    if not arguments:
        raise InvalidRequest(f"mapper {name}: the template is empty")
    if shell := sorted(_SHELL.intersection(arguments)):
        raise InvalidRequest(
            f"mapper {name}: {shell[0]!r} needs a shell, and templates have none; put the "
            "commands into a script and name that"
        )
    return arguments


def _placeholders(name: str, word: str) -> set[str]:
    from string import Formatter

    try:
        fields = [parsed[1:] for parsed in Formatter().parse(word)]
    except ValueError as error:
        raise InvalidRequest(
            f"mapper {name}: {word!r} cannot be read ({error}); write {{{{ for a brace"
        ) from error
    names = {field for field, _, _ in fields if field is not None}
    for field, form, conversion in fields:
        if field is not None and (field not in PLACEHOLDERS or form or conversion):
            raise InvalidRequest(
                f"mapper {name}: {{{field}}} is not a placeholder; use one of "
                f"{', '.join(f'{{{known}}}' for known in PLACEHOLDERS)}"
            )
    return names


# Native mappers.

_BLOCK = 1 << 20
_HEADER_LINES = (b"@HD\t", b"@SQ\t", b"@RG\t", b"@PG\t", b"@CO\t")


class NativeMapper:
    """Starts one process of a mapper for each lane.

    `command` is called with the reference and one or two FASTQ files. With a single file, it also
    gets the options `interleaved`. `header` returns the SAM header for a version of the mapper;
    it is written before the alignments of the first lane.
    """

    def __init__(
        self,
        command: Sequence[str],
        reference: str,
        *,
        interleaved: Sequence[str] = (),
        threads: int,
        header: Callable[[str], str],
        output: BinaryIO,
    ) -> None:
        self._command = [*command, "-t", str(threads)]
        self._interleaved = interleaved
        self._reference = reference
        self._header: Callable[[str], str] | None = header
        self._output = output.fileno()

    def map(self, lane: Lane, reader: PairedReader) -> None:
        """Align one lane. Raises `MapperFailed`, BrokenPipeError and what `reader` raises."""
        group = lane.read_group.replace("\t", "\\t")
        options = ["-R", group, *(self._interleaved if lane.second is None else ())]
        pipes = [_wide_pipe() for _ in range(1 if lane.second is None else 2)]
        # The mapper opens pipes as files: both mates, though it has only one standard input.
        files = [f"/dev/fd/{read}" for read, _ in pipes]
        try:
            process = subprocess.Popen(
                [*self._command, *options, self._reference, *files],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=[read for read, _ in pipes],
            )
        except OSError as error:
            from wesemu.util.text import os_reason

            raise MapperFailed(
                f"{self._command[0]} cannot be started: {os_reason(error)}"
            ) from error
        finally:
            for read, _ in pipes:
                os.close(read)
        feeder = _Feeder(process, [write for _, write in pipes], reader.texts())
        try:
            assert process.stdout is not None
            _widen(process.stdout.fileno())
            self._copy(process.stdout.fileno())
        except BaseException:
            process.kill()
            raise
        finally:
            feeder.join()
            status = process.wait()
            process.stdout.close()  # type: ignore[union-attr]
        if feeder.error and not isinstance(feeder.error, BrokenPipeError):
            raise feeder.error
        if status or feeder.error:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise MapperFailed(f"{self._command[0]} {how}; its own message is above.")

    def _copy(self, source: int) -> None:
        """Replace the header, then copy the alignments unread."""
        header, rest = _read_header(source)
        if self._header is not None:
            _write_all(self._output, self._header(_program_version(header)).encode())
            self._header = None
        _write_all(self._output, rest)
        while _move(source, self._output):
            pass

    def close(self) -> None:
        """Do nothing: no state is kept between lanes."""


class _Feeder(threading.Thread):
    """Writes one text to each pipe of the mapper, then closes the pipes. Keeps the first error."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        pipes: Sequence[int],
        texts: Iterable[Sequence[bytes]],
    ) -> None:
        super().__init__(name="feed the mapper", daemon=True)
        self.error: Exception | None = None
        self._process = process
        self._pipes = pipes
        self._texts = texts
        self.start()

    def run(self) -> None:
        try:
            left = dict.fromkeys(self._pipes, b"")
            for texts in self._texts:
                # the rest stays for later: the mapper may wait for the next text of the other pipe
                left = _write_beside(
                    {pipe: left[pipe] + text for pipe, text in zip(self._pipes, texts, strict=True)}
                )
            while any(left.values()):
                left = _write_beside({pipe: text for pipe, text in left.items() if text})
        except Exception as error:
            self.error = error
            # for the mapper, an early end of its input would look like the end of the reads
            self._process.kill()
        finally:
            for pipe in self._pipes:
                os.close(pipe)


def _read_header(source: int) -> tuple[bytes, bytes]:
    """Return the header lines, and the data read after them."""
    data = b""
    position = 0
    while True:
        end = data.find(b"\n", position)
        if end < 0:
            block = os.read(source, _BLOCK)
            if not block:
                return data[:position], data[position:]
            data += block
        elif data[position : position + 4] in _HEADER_LINES:
            position = end + 1
        else:
            return data[:position], data[position:]


def _program_version(header: bytes) -> str:
    for line in header.decode(errors="replace").splitlines():
        if line.startswith("@PG\t"):
            for field in line.split("\t"):
                if field.startswith("VN:"):
                    return field[3:]
    return "unknown"


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _write_beside(texts: Mapping[int, bytes]) -> dict[int, bytes]:
    """Write each pipe its text, wherever there is room, until one text is complete.

    Writing in a fixed order could deadlock: the mapper may wait for either pipe. Returns the
    remaining texts.
    """
    left = {pipe: memoryview(text) for pipe, text in texts.items()}
    while all(left.values()):
        for pipe in select.select([], left, [])[1]:
            left[pipe] = left[pipe][os.write(pipe, left[pipe]) :]
    return {pipe: bytes(text) for pipe, text in left.items()}


def _wide_pipe() -> tuple[int, int]:
    """Return the read end and the non-blocking write end of a pipe."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    _widen(write)
    return read, write


def _widen(pipe: int) -> None:
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # the limit for the pipes of a user
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _BLOCK)


def _move(source: int, target: int) -> int:
    """Copy up to a block from a pipe, in the kernel if possible; return 0 at its end."""
    if sys.platform == "linux":
        try:
            return os.splice(source, target, _BLOCK)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            # the target is open for appending, or of a type that cannot be spliced to
    block = os.read(source, _BLOCK)
    _write_all(target, block)
    return len(block)
