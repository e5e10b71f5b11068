"""Map paired reads: `python -m wesemu.genomics.align`.

Writes alignments to stdout and messages to stderr. The reads are checked and counted on their way
to the mapper. The output is SAM or uncompressed BAM in read order, with a header that is the same
on every machine. `Counting` and `check_lanes` serve mappers that open the FASTQ files themselves.

Exit status: 0; 65 bad input (`--error` holds the message); 69 no usable mapper, or it failed;
141 the reader of the output has gone.
"""

import argparse
import gc
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wesemu.errors import InputError, InvalidRequest, WesemuError
from wesemu.genomics.bwa_index import Contig, check_names, read_contigs
from wesemu.genomics.fastq import LONGEST_READ, PairedReader
from wesemu.genomics.fastq_fast_path import is_second_mate, pair_name
from wesemu.genomics.fastq_file import lacks_end
from wesemu.genomics.mappers import (
    BWA,
    BWA_MEM2,
    BWA_MEM3,
    MINIMAP2,
    Lane,
    NativeMapper,
    Program,
    header_text,
)
from wesemu.genomics.read_groups import parse_read_group

if TYPE_CHECKING:
    from wesemu.genomics.mapper_wheel import Mem3Mapper, WheelMapper


BAD_INPUT = 65
MAPPER_FAILED = 69
OUTPUT_CLOSED = 141


class ReadCounter:
    """Counts reads and bases, both mates, of each lane."""

    def __init__(self) -> None:
        self.lanes: list[dict[str, str | int]] = []

    def add(self, lane: Lane, reader: PairedReader) -> None:
        first, second = Path(lane.first), Path(lane.second or lane.first)
        files = dict.fromkeys((first, second))
        self.lanes.append(
            {
                "first": first.name,
                "second": second.name,
                "read_group": group_id(lane.read_group),
                "reads": reader.reads,
                "bases": reader.bases,
                "last_name": pair_name(reader.last).decode("ascii", "replace"),
                "swapped": is_second_mate(reader.last),
                "without_end": ", ".join(file.name for file in files if lacks_end(file)),
            }
        )

    def report(self) -> dict[str, object]:
        return {
            "total_reads": sum(int(lane["reads"]) for lane in self.lanes),
            "total_bases": sum(int(lane["bases"]) for lane in self.lanes),
            "lanes": self.lanes,
        }


def align(
    lanes: Sequence[Lane],
    reference: str,
    *,
    threads: int,
    bwa: Sequence[str] = (),
    bwa_mem2: Sequence[str] = (),
    bwa_mem3: bool = False,
    minimap2: Sequence[str] = (),
    note: str = "",
    later: Sequence[Program] = (),
    longest: int = LONGEST_READ,
    quality_offset: int | None = None,
) -> ReadCounter:
    """Map all lanes, one after the other, to stdout.

    `bwa`, `bwa_mem2` and `minimap2` are commands of native mappers; `bwa_mem3` selects the mapper
    of the bwa-mem3 wheel. Without any of them, bwa of the pybwa wheel maps. `note` is a sentence
    about the mapper for the header. `later` are the programs that process the alignments next.
    Raises `InputError`, `MapperFailed`, `ToolMissing`, BrokenPipeError.
    """
    contigs = _contigs(reference)
    program = MINIMAP2 if minimap2 else BWA_MEM2 if bwa_mem2 else BWA_MEM3 if bwa_mem3 else BWA

    def header(version: str) -> str:
        mapped_by = Program(program[0], version, " ".join(program), note)
        return header_text(contigs, lanes, [mapped_by, *later])

    mapper = _mapper([*bwa, *bwa_mem2, *minimap2], program, reference, threads, header, contigs)
    counts = ReadCounter()
    last = b""
    for lane in lanes:
        with PairedReader(
            lane.first,
            lane.second,
            longest=longest,
            empty=not minimap2,
            quality_offset=quality_offset,
            before=last,
        ) as reader:
            mapper.map(lane, reader)
            counts.add(lane, reader)
            last = reader.last
    mapper.close()
    return counts


def _mapper(
    native: Sequence[str],
    program: Sequence[str],
    reference: str,
    threads: int,
    header: Callable[[str], str],
    contigs: Sequence[Contig],
) -> "NativeMapper | WheelMapper | Mem3Mapper":
    output = sys.stdout.buffer
    if program == BWA_MEM3:
        from wesemu.genomics.mapper_wheel import Mem3Mapper

        return Mem3Mapper(reference, threads=threads, header=header, contigs=contigs, output=output)
    if not native:
        from wesemu.genomics.mapper_wheel import WheelMapper

        return WheelMapper(reference, threads=threads, header=header, output=output)
    return NativeMapper(
        [*native, *program[1:]],
        reference,
        interleaved=[] if program == MINIMAP2 else ["-p"],
        threads=threads,
        header=header,
        output=output,
    )


def _contigs(reference: str) -> list[Contig]:
    try:
        contigs = read_contigs(reference)
    except (OSError, ValueError, IndexError, StopIteration) as error:
        raise InputError(
            f"{reference} has no bwa index that can be read; run `bwa index` on it.", file=reference
        ) from error
    check_names((contig.name for contig in contigs), reference)
    return contigs


def group_id(read_group: str) -> str:
    """Return the ID of an @RG line with tabs."""
    return next(part[3:] for part in read_group.split("\t") if part.startswith("ID:"))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="wesemu.genomics.align", description=__doc__)
    parser.add_argument("--reference", required=True, help="FASTA with bwa's index beside it")
    parser.add_argument(
        "--reads", nargs="+", action="append", required=True, help="a pair, or one interleaved file"
    )
    parser.add_argument("--read-group", action="append", required=True, metavar="@RG…")
    parser.add_argument("--threads", type=int, default=1)
    mapper = parser.add_mutually_exclusive_group()
    mapper.add_argument("--bwa", help="command of a native bwa (default: pybwa)")
    mapper.add_argument("--bwa-mem2", help="command of bwa-mem2")
    mapper.add_argument("--bwa-mem3", action="store_true", help="bwa-mem3 of its wheel")
    mapper.add_argument("--minimap2", help="command of minimap2")
    parser.add_argument("--note", default="", help="a sentence about the mapper, for the header")
    parser.add_argument(
        "--later",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "VERSION", "COMMAND"),
        help="a program that runs next, for the header",
    )
    parser.add_argument("--quality-offset", type=int, choices=(33, 64))
    parser.add_argument("--longest", type=int, default=LONGEST_READ, help="bases in a read")
    parser.add_argument("--counts", type=Path, required=True, help="JSON: reads and bases")
    parser.add_argument("--error", type=Path, required=True, help="JSON, on bad input only")
    arguments = parser.parse_args(argv)
    if len(arguments.reads) != len(arguments.read_group):
        parser.error("give one --read-group for every --reads")
    if any(len(files) > 2 for files in arguments.reads):
        parser.error("--reads takes the two files of a pair, or an interleaved one")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    # Python cannot run a signal handler while bwa's C code runs, so the kernel ends the process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # This program makes no reference cycles; searching the reads for them costs a third of the
    # reading time.
    gc.disable()
    arguments = _arguments(argv)
    arguments.error.unlink(missing_ok=True)
    if arguments.note:
        sys.stderr.write(f"align: {arguments.note}\n")
    try:
        lanes = [
            Lane(files[0], files[1] if len(files) > 1 else None, parse_read_group(group).line)
            for files, group in zip(arguments.reads, arguments.read_group, strict=True)
        ]
        counts = align(
            lanes,
            arguments.reference,
            threads=arguments.threads,
            bwa=shlex.split(arguments.bwa or ""),
            bwa_mem2=shlex.split(arguments.bwa_mem2 or ""),
            bwa_mem3=arguments.bwa_mem3,
            minimap2=shlex.split(arguments.minimap2 or ""),
            note=arguments.note,
            later=[Program(*fields) for fields in arguments.later],
            longest=arguments.longest,
            quality_offset=arguments.quality_offset,
        )
    except InvalidRequest as error:
        arguments.error.write_text(json.dumps(describe_fault(error)) + "\n", encoding="utf-8")
        return _failed(error.message, BAD_INPUT)
    except WesemuError as error:
        return _failed(error.message, MAPPER_FAILED)
    except BrokenPipeError:
        return _failed("the program that reads the alignments has ended", OUTPUT_CLOSED)
    arguments.counts.write_text(json.dumps(counts.report(), indent=1) + "\n", encoding="utf-8")
    return 0


def _failed(message: str, status: int) -> int:
    sys.stderr.write(f"align: {message}\n")
    return status


def describe_fault(error: InvalidRequest) -> dict[str, object]:
    """Return the JSON object for the file `--error`."""
    file, record = (error.file, error.record) if isinstance(error, InputError) else (None, None)
    return {"message": error.message, "file": file, "record": record}


# Reads that another program opens itself: counted in a thread meanwhile.


class Counting(threading.Thread):
    """Reads, checks and counts every lane while another program maps it.

    Calls `on_error` from this thread at the first fault of the reads; `error` then holds it.
    `counts` is complete once the thread has ended without an error.
    """

    def __init__(
        self, lanes: Sequence[Lane], quality_offset: int | None, on_error: Callable[[], None]
    ) -> None:
        super().__init__(name="count the reads", daemon=True)
        self.error: Exception | None = None
        self.counts = ReadCounter()
        self._lanes = lanes
        self._offset = quality_offset
        self._on_error = on_error
        self.start()

    def run(self) -> None:
        last = b""
        try:
            for lane in self._lanes:
                with PairedReader(
                    lane.first,
                    lane.second,
                    longest=LONGEST_READ,
                    quality_offset=self._offset,
                    before=last,
                ) as reader:
                    for _ in reader.texts():
                        pass
                    self.counts.add(lane, reader)
                    last = reader.last
        except Exception as error:
            self.error = error
            self._on_error()

    def finish(self) -> ReadCounter:
        """Wait for the end and return the counts. Raises InputError, and any other `error`."""
        self.join()
        if self.error is not None:
            raise self.error
        return self.counts


def check_lanes(lanes: Sequence[Lane], quality_offset: int | None) -> None:
    """Raise `InputError` for valid reads that only our own reader can pass to a mapper."""
    for lane in lanes:
        if lane.second is None:
            raise InputError(
                f"{lane.first} is interleaved, which this mapper does not read. Split it into "
                "two files, or map it on the CPU with bwa.",
                file=lane.first,
            )
        if quality_offset == 64:
            raise InputError(
                f"{lane.first} has qualities in Phred+{quality_offset}, which this mapper does not "
                "read. Convert them to Phred+33, or map on the CPU with bwa.",
                file=lane.first,
            )


if __name__ == "__main__":
    # A regular exit would flush the buffers of an unfinished stream, and make it look complete.
    status = main()
    sys.stderr.flush()
    os._exit(status)
