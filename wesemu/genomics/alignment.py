"""What the mappers share: lanes, read groups, and a header that is the same on every machine."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wesemu.errors import SystemFault
from wesemu.genomics.bwaindex import Contig

BWA = ("bwa", "mem", "-K", "10000000", "-Y")
"""A fixed -K makes the answers independent of the threads; -Y soft-clips supplementary
alignments, as GATK and Parabricks want them."""

BWA_MEM2 = ("bwa-mem2", *BWA[1:])
"""Takes bwa's options."""

BWA_MEM3 = ("bwa-mem3", *BWA[1:])
"""What the wheel does, as a command line of bwa."""

MINIMAP2 = ("minimap2", "-a", "-x", "sr", "-K", "10000000", "-Y")
"""The same for minimap2, whose answers are not bwa's."""


class MapperFailed(SystemFault):
    """The mapper ended early or with an error of its own."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Two FASTQ files (or an interleaved one) and the @RG line of their reads, fields apart by
    tabs."""

    first: str
    second: str | None
    read_group: str


@dataclass(frozen=True, slots=True)
class Program:
    """One that the alignments pass through: an @PG line. `command` has no paths or threads, `note`
    is a sentence about it."""

    name: str
    version: str
    command: str
    note: str = ""


def header_text(
    contigs: Iterable[Contig], lanes: Sequence[Lane], programs: Iterable[Program]
) -> str:
    """The SAM header: no paths, no thread counts, nothing that differs between two runs."""
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
