"""Check a finished BAM and write its reports: `python -m wesemu.genomics.qc`.

The BAM must have every read that was counted in the FASTQ, be sorted, and have the contigs of the
reference and an end mark. The reports are flagstat (as JSON and as text, from one pass over the
BAM), idxstats (from the index alone) and the summary of the run. Reports of samtools may come
through pipes.

With `--state` it also checks that the reference has not changed.

Exit status: 0; 65 the reference was changed (`--error` holds the message); 70 the BAM is not whole.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wesemu.errors import SystemFault
from wesemu.genomics.bam_index import idxstats
from wesemu.genomics.bwa_index import read_fai
from wesemu.genomics.fastq_file import BGZF_END, GZIP_FAULTS, open_gzip
from wesemu.genomics.reference_state import report_change
from wesemu.genomics.summary import Counts, summarize_mapping, write_summary

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
    parser.add_argument("--optical-distance", type=int, default=0, help="of markdup")
    parser.add_argument("--tool", nargs=2, action="append", metavar=("NAME", "VERSION"))
    parser.add_argument("--note", action="append", default=[], help="a sentence about a tool")
    parser.add_argument("--state", type=Path, help="the state of the reference; needs --error")
    parser.add_argument("--error", type=Path, help="JSON, for a reference that was changed")
    arguments = parser.parse_args(argv)
    try:
        _describe(arguments)
    except SystemFault as error:
        sys.stderr.write(f"{error.message}\n")
        return NOT_WHOLE
    return report_change(arguments.state, arguments.error) if arguments.state else 0


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
    has_list = Path(f"{arguments.reference}.alt").exists()
    summary = summarize_mapping(
        sample=arguments.sample,
        tools=dict(arguments.tool or []),
        counts=counts,
        flagstat=flagstat,
        stats=arguments.stats,
        markdup=markdup,
        libraries=arguments.libraries,
        optical_distance=arguments.optical_distance,
        genome=sum(int(length) for _, length in contigs),
        notes=arguments.note,
        unlisted=[] if has_list else [name for name, _ in contigs],
    )
    write_summary(summary, arguments.summary)


if __name__ == "__main__":
    sys.exit(main())
