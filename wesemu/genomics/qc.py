"""Check a finished BAM and write its reports: `python -m wesemu.genomics.qc`.

The BAM must hold every read that was counted in the FASTQ, be sorted, have the contigs of the
reference and an end mark. The reports are flagstat as JSON and as text, with one pass over the BAM
instead of two, idxstats from the index alone, and the summary of the run. Reports of samtools may
come through pipes.

Exit status: 0; 70 the BAM is not whole.
"""

import argparse
import json
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wesemu.errors import SystemFault
from wesemu.genomics.bwa_index import read_fai
from wesemu.genomics.fastq_file import BGZF_END, GZIP_FAULTS, GZIP_MAGIC, open_gzip
from wesemu.genomics.summary import Counts, summarize_mapping, write_summary

# `samtools idxstats` from a BAI or CSI. Its counts are in a bin with an impossible number (SAM
# specification 5.2).


_PSEUDO_BIN_OF_BAI = 37450
_CHUNK = struct.Struct("<QQ")
_BAI_BIN = struct.Struct("<Ii")
_CSI_BIN = struct.Struct("<IQi")
_CSI_HEAD = struct.Struct("<4siii")
_NUMBER = struct.Struct("<i")
_COUNT = struct.Struct("<Q")


def idxstats(index: Path, contigs: Sequence[tuple[str, str]]) -> str:
    """Return name, length, mapped and unmapped records of each contig; last, records without one.

    Raises ValueError for a file that is no BAI or CSI, or belongs to other contigs.
    """
    data = index.read_bytes()
    if data[:2] == GZIP_MAGIC:
        with open_gzip(index) as file:
            data = file.read()
    if data[:4] == b"CSI\x01":
        _, _, depth, extra = _CSI_HEAD.unpack_from(data)
        position = _CSI_HEAD.size + extra
        reader = _Reader(data, _CSI_BIN, ((1 << 3 * (depth + 1)) - 1) // 7 + 1)
    else:
        position = 4
        reader = _Reader(data, _BAI_BIN, _PSEUDO_BIN_OF_BAI)
    is_index = data[:4] in (b"BAI\x01", b"CSI\x01")
    if not is_index or _NUMBER.unpack_from(data, position)[0] != len(contigs):
        raise ValueError(f"{index} is not the BAI or CSI of a BAM with {len(contigs)} contigs")
    position += _NUMBER.size
    lines = []
    for name, length in contigs:
        position, mapped, unmapped = reader.contig(position)
        lines.append(f"{name}\t{length}\t{mapped}\t{unmapped}\n")
    unplaced = _COUNT.unpack_from(data, position)[0] if position < len(data) else 0
    return "".join([*lines, f"*\t0\t0\t{unplaced}\n"])


class _Reader:
    """Reads an index that has the counts of each contig in the chunks of its bin `pseudo_bin`."""

    def __init__(self, data: bytes, bin_head: struct.Struct, pseudo_bin: int) -> None:
        self._data = data
        self._bin_head = bin_head
        self._pseudo_bin = pseudo_bin

    def contig(self, position: int) -> tuple[int, int, int]:
        """Return the position of the next contig, and mapped and unmapped records of this one."""
        mapped = unmapped = 0
        (bins,) = _NUMBER.unpack_from(self._data, position)
        position += _NUMBER.size
        for _ in range(bins):
            number, *_, chunks = self._bin_head.unpack_from(self._data, position)
            position += self._bin_head.size
            if number == self._pseudo_bin:
                mapped, unmapped = _CHUNK.unpack_from(self._data, position + _CHUNK.size)
            position += chunks * _CHUNK.size
        if self._bin_head is _BAI_BIN:
            (intervals,) = _NUMBER.unpack_from(self._data, position)
            position += _NUMBER.size + intervals * _COUNT.size
        return position, mapped, unmapped


# The check of the BAM, and flagstat as text.


NOT_WHOLE = 70

_PERCENT_OF = {
    "mapped": "mapped %",
    "primary mapped": "primary mapped %",
    "properly paired": "properly paired %",
    "singletons": "singletons %",
}
_AS_TEXT = {
    "total": "in total (QC-passed reads + QC-failed reads)",
    "with mate mapped to a different chr (mapQ >= 5)": (
        "with mate mapped to a different chr (mapQ>=5)"
    ),
}


def check(bam: Path, reference: Path, flagstat: Mapping[str, Counts], reads: int) -> None:
    """Raise `SystemFault` unless `bam` is whole; `reads` is the number of reads in the FASTQ."""
    primary = sum(int(part["primary"] or 0) for part in flagstat.values())
    if primary != reads:
        raise SystemFault(f"{bam} has {primary} primary records for {reads} reads. Run it again.")
    with bam.open("rb") as file:
        file.seek(-len(BGZF_END), os.SEEK_END)
        if file.read() != BGZF_END:
            raise SystemFault(f"{bam} has no end mark: it was cut. Is the disk full?")
    try:
        order, contigs = _header(bam)
    except GZIP_FAULTS as error:
        raise SystemFault(f"{bam} has no header that can be read: {error}.") from error
    if order != "coordinate":
        raise SystemFault(f"{bam} is not sorted by coordinate.")
    if contigs != read_fai(str(reference)):
        raise SystemFault(f"{bam} has other contigs than {reference}.fai: was it replaced?")


def _header(bam: Path) -> tuple[str, list[tuple[str, str]]]:
    """Return sort order, and names and lengths of the contigs (SAM specification 4.2)."""
    with open_gzip(bam) as file:
        if file.read(4) != b"BAM\x01":
            raise OSError("it is not BAM")
        length = int.from_bytes(file.read(4), "little")
        text = file.read(length).rstrip(b"\0").decode(errors="surrogateescape")
    order, contigs = "", []
    for line in text.splitlines():
        kind, *fields = line.split("\t")
        values = {field[:2]: field[3:] for field in fields}
        if kind == "@HD":
            order = values.get("SO", "")
        elif kind == "@SQ":
            contigs.append((values["SN"], values["LN"]))
    return order, contigs


def _read_flagstat(path: Path, bam: Path) -> Mapping[str, Counts]:
    try:
        flagstat: Mapping[str, Counts] = json.loads(path.read_text())
    except ValueError as error:
        raise SystemFault(
            f"samtools flagstat wrote no figures for {bam}; the log has its message."
        ) from error
    return flagstat


def flagstat_text(flagstat: Mapping[str, Counts]) -> str:
    """Return the text output of `samtools flagstat` from its output with `-O json`."""
    passed, failed = flagstat["QC-passed reads"], flagstat["QC-failed reads"]
    lines = []
    for name, count in passed.items():
        if name.endswith("%"):
            continue
        line = f"{count} + {failed[name]} {_AS_TEXT.get(name, name)}"
        if share := _PERCENT_OF.get(name):
            line += f" ({_percent(passed[share])} : {_percent(failed[share])})"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    return "N/A" if share is None else f"{share:.2f}%"


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="wesemu.genomics.qc", description=__doc__)
    for name in ("--bam", "--reference", "--counts"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--flagstat", type=Path, required=True, help="JSON of samtools flagstat")
    parser.add_argument("--stats", type=Path, required=True, help="of samtools stats")
    parser.add_argument("--flagstat-json", type=Path, required=True, help="a copy of --flagstat")
    parser.add_argument("--flagstat-text", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True, help="BAI of the BAM")
    parser.add_argument("--idxstats", type=Path, required=True)
    parser.add_argument("--markdup", type=Path, help="JSON of samtools markdup")
    parser.add_argument("--summary", type=Path, required=True)
    parser.add_argument("--sample", required=True)
    parser.add_argument("--libraries", type=int, default=1, help="in the read groups")
    parser.add_argument("--tool", nargs=2, action="append", metavar=("NAME", "VERSION"))
    parser.add_argument("--note", action="append", default=[], help="a sentence about a tool")
    arguments = parser.parse_args(argv)
    try:
        _describe(arguments)
    except SystemFault as error:
        sys.stderr.write(f"{error.message}\n")
        return NOT_WHOLE
    return 0


def _describe(arguments: argparse.Namespace) -> None:
    """Check the BAM, then write all reports."""
    counts = json.loads(arguments.counts.read_text())
    flagstat = _read_flagstat(arguments.flagstat, arguments.bam)
    check(arguments.bam, arguments.reference, flagstat, counts["total_reads"])
    arguments.flagstat_json.write_text(json.dumps(flagstat, indent=1) + "\n")
    arguments.flagstat_text.write_text(flagstat_text(flagstat))
    contigs = read_fai(str(arguments.reference))
    arguments.idxstats.write_text(idxstats(arguments.index, contigs), encoding="utf-8")
    markdup = json.loads(arguments.markdup.read_text()) if arguments.markdup else None
    summary = summarize_mapping(
        sample=arguments.sample,
        tools=dict(arguments.tool or []),
        counts=counts,
        flagstat=flagstat,
        stats=arguments.stats,
        markdup=markdup,
        libraries=arguments.libraries,
        genome=sum(int(length) for _, length in contigs),
        notes=arguments.note,
    )
    write_summary(summary, arguments.summary)


if __name__ == "__main__":
    sys.exit(main())
