"""Map with a mapper that the user brings: `python -m wesemu.genomics.own_mapper`.

Writes SAM to stdout under the same header as the other mappers, and messages to stderr. The mapper
opens the FASTQ files itself; a thread checks and counts the reads meanwhile.

Exit status: 0; 65 bad input (`--error` holds the message); 69 the mapper failed; 141 the reader of
the output has gone.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil

from wesemu.errors import InvalidRequest
from wesemu.genomics.align import (
    BAD_INPUT,
    MAPPER_FAILED,
    OUTPUT_CLOSED,
    Counting,
    check_lanes,
    describe_fault,
    group_id,
)
from wesemu.genomics.bwa_index import read_contigs
from wesemu.genomics.mappers import Lane, MapperFailed, Program, check_template, fill, header_text
from wesemu.genomics.read_groups import parse_read_group
from wesemu.util.text import os_reason

_BLOCK = 1 << 20
_OTHER_FIELDS = 10
"""A SAM record has 11 fields and tags; a text with fewer is none, and the mapper fails."""


class OwnMapper:
    """Starts one process of the mapper for each lane, in turn."""

    def __init__(
        self, name: str, template: str, reference: str, *, threads: int, gpus: int
    ) -> None:
        self._name = name
        self._template = template
        self._values = {"reference": reference, "threads": str(threads), "gpus": str(gpus)}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def stop(self) -> None:
        """Kill the mapper; another thread calls this when the reads are bad."""
        self._stopped = True
        if self._process is not None:
            _kill(self._process)

    def map(self, lane: Lane, output: IO[bytes]) -> None:
        """Append the lane's records to `output`. Raises MapperFailed, BrokenPipeError."""
        reads = {"first": lane.first, "second": lane.second or ""}
        group = lane.read_group.replace("\t", "\\t")
        command = fill(self._name, self._template, self._values | reads | {"read_group": group})
        try:
            # The lease on a GPU is an open file: it lasts as long as the mapper, which inherits it.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, close_fds=False
            )
        except OSError as error:
            raise MapperFailed(
                f"mapper {self._name} cannot be started: {os_reason(error)}"
            ) from error
        self._process = process
        if self._stopped:  # before the process was known to `stop`
            _kill(process)
        assert process.stdout is not None
        try:
            self._copy(process.stdout, output, lane)
        except BaseException:
            _kill(process)
            raise
        finally:
            status = process.wait()
            process.stdout.close()
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise MapperFailed(f"mapper {self._name} {how}; its own message is above.")

    def _copy(self, source: IO[bytes], output: IO[bytes], lane: Lane) -> None:
        """Copy the records; our own header replaces the mapper's header lines.

        freebayes finds no variant in records without a read group of the header.
        """
        line = source.readline()
        if line[:2] == b"\x1f\x8b":
            raise MapperFailed(f"mapper {self._name} writes BAM or gzip; it must write SAM.")
        while line.startswith(b"@") and line[3:4] == b"\t":
            line = source.readline()
        group = f"RG:Z:{group_id(lane.read_group)}"
        fields = line.rstrip(b"\n").split(b"\t")
        if len(fields) > _OTHER_FIELDS and group.encode() not in fields:
            raise MapperFailed(
                f"mapper {self._name} writes records without the tag {group}; it must use "
                "{read_group}."
            )
        output.write(line)
        shutil.copyfileobj(source, output, _BLOCK)
        output.flush()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its descendants: the command may be a script."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        for each in (*top.children(recursive=True), top):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def map_lanes(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the counts. Raises InvalidRequest for bad reads, MapperFailed, BrokenPipeError."""
    check_template(arguments.name, arguments.command)
    lanes = [
        Lane(files[0], files[1] if len(files) > 1 else None, parse_read_group(group).line)
        for files, group in zip(arguments.reads, arguments.read_group, strict=True)
    ]
    check_lanes(lanes, arguments.quality_offset)
    mapper = OwnMapper(
        arguments.name,
        arguments.command,
        arguments.reference,
        threads=arguments.threads,
        gpus=arguments.gpus,
    )
    programs = [Program(arguments.name, "unknown", arguments.name)]
    programs += [Program(*fields) for fields in arguments.later]
    output = sys.stdout.buffer
    output.write(header_text(read_contigs(arguments.reference), lanes, programs).encode())
    counting = Counting(lanes, arguments.quality_offset, on_error=mapper.stop)
    try:
        for lane in lanes:
            mapper.map(lane, output)
    except MapperFailed:
        counting.finish()  # raises InputError where bad reads may be the reason
        raise
    return counting.finish().report()


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="wesemu.genomics.own_mapper", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--command", required=True, help="template, see docs/parabricks.md")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--reads", nargs="+", action="append", required=True)
    parser.add_argument("--read-group", action="append", required=True, metavar="@RG…")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--later", nargs=3, action="append", default=[])
    parser.add_argument("--quality-offset", type=int)
    parser.add_argument("--longest", type=int, help="ignored; the other mappers have it")
    parser.add_argument("--counts", type=Path, required=True)
    parser.add_argument("--error", type=Path, required=True)
    arguments = parser.parse_args(argv)
    arguments.error.unlink(missing_ok=True)
    try:
        counts = map_lanes(arguments)
    except InvalidRequest as error:
        arguments.error.write_text(json.dumps(describe_fault(error)) + "\n", encoding="utf-8")
        return _failed(error.message, BAD_INPUT)
    except MapperFailed as error:
        return _failed(error.message, MAPPER_FAILED)
    except BrokenPipeError:
        return _failed("the program that reads the alignments has ended", OUTPUT_CLOSED)
    arguments.counts.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    return 0


def _failed(message: str, status: int) -> int:
    sys.stderr.write(f"own_mapper: {message}\n")
    return status


if __name__ == "__main__":
    # A regular exit would flush the buffers of an unfinished stream, and make it look complete.
    status = main()
    sys.stderr.flush()
    os._exit(status)
