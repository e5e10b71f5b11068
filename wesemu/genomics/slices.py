"""Prepare variant calling: `python -m wesemu.genomics.slices COMMAND`.

`targets` checks a BED file, `ploidy` a ploidy file, and `slice` writes the intervals of one slice
of the genome; slices are called in parallel. With the index of a BAM, slices leave out places
without reads.

Exit status: 0; 65 bad input (`--error` holds the message).
"""

import argparse
import json
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wesemu.errors import InputError
from wesemu.genomics.bam_index import BamIndex, read_bam_index
from wesemu.genomics.ploidy import PloidyFile, for_bcftools, for_freebayes
from wesemu.genomics.regions import Interval, bed, contig_lengths, joined, normalized, read_targets

BAD_INPUT = 65


def cut(intervals: Iterable[Interval], number: int, slices: int) -> list[Interval]:
    """Return slice `number` (from 1) of `slices`; the intervals count end to end.

    The sizes differ by one base at most, so no slice is empty while there is a base for each.
    """
    whole = list(intervals)
    bases = sum(each.end - each.start for each in whole)
    first, last = (number - 1) * bases // slices, number * bases // slices
    result, done = [], 0
    for each in whole:
        start, end = max(0, first - done), min(each.end - each.start, last - done)
        if start < end:
            result.append(each._replace(start=each.start + start, end=each.start + end))
        done += each.end - each.start
    return result


def with_reads(
    intervals: Iterable[Interval], index: BamIndex, contigs: Mapping[str, int]
) -> list[Interval]:
    """Return the parts of the intervals that lie in bins of the index, in the same order.

    The intervals are sorted, and do not overlap.
    """
    bins = {
        name: joined(Interval(name, start, end) for start, end in sorted(contig.bins))
        for name, contig in zip(contigs, index.contigs, strict=True)
    }
    return [
        each._replace(start=max(each.start, part.start), end=min(each.end, part.end))
        for each in intervals
        for part in _overlapping(bins[each.contig], each)
    ]


def _overlapping(ordered: Sequence[Interval], wanted: Interval) -> Sequence[Interval]:
    first = bisect_right(ordered, wanted.start, key=lambda each: each.end)
    return ordered[first : bisect_left(ordered, wanted.end, key=lambda each: each.start)]


def widened(
    intervals: Iterable[Interval], margin: int, contigs: Mapping[str, int]
) -> list[Interval]:
    """Extend each interval by `margin` bases on both sides, within its contig."""
    return joined(
        each._replace(
            start=max(0, each.start - margin), end=min(contigs[each.contig], each.end + margin)
        )
        for each in intervals
    )


def _slice(arguments: argparse.Namespace) -> None:
    contigs = contig_lengths(arguments.reference)
    whole = [Interval(name, 0, length) for name, length in contigs.items()]
    if arguments.targets:
        whole = read_targets(arguments.targets)
    if arguments.bam_index:
        index = read_bam_index(arguments.bam_index, len(contigs))
        kept = with_reads(whole, index, contigs)
        # each slice needs a base, since callers refuse an empty file
        if sum(each.end - each.start for each in kept) >= arguments.slices:
            whole = kept
    regions = cut(whole, arguments.number, arguments.slices)
    arguments.regions.write_text(bed(regions), encoding="utf-8")
    wide = widened(regions, arguments.margin, contigs)
    arguments.wide.write_text(bed(wide), encoding="utf-8")


def _targets(arguments: argparse.Namespace) -> None:
    targets = read_targets(arguments.file, str(arguments.file))
    contigs = contig_lengths(arguments.reference)
    arguments.output.write_text(
        bed(normalized(targets, contigs, str(arguments.file))), encoding="utf-8"
    )


def _ploidy(arguments: argparse.Namespace) -> None:
    ploidy = PloidyFile(arguments.file, str(arguments.file)).of(
        arguments.sex, contig_lengths(arguments.reference), arguments.caller
    )
    arguments.bcftools.write_text(for_bcftools(ploidy), encoding="utf-8")
    arguments.freebayes.write_text(for_freebayes(ploidy, arguments.sample), encoding="utf-8")
    arguments.text.write_text(ploidy.text + "\n", encoding="utf-8")
    arguments.default.write_text(f"{ploidy.default}\n", encoding="utf-8")
    arguments.warnings.write_text("".join(f"{x}\n" for x in ploidy.warnings), encoding="utf-8")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="wesemu.genomics.slices", description=__doc__)
    commands = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--reference", type=Path, required=True, help="FASTA with its .fai")
    shared.add_argument("--error", type=Path, help="JSON, for a file that cannot be used")
    targets = commands.add_parser("targets", parents=[shared])
    targets.set_defaults(act=_targets)
    targets.add_argument("--file", type=Path, required=True)
    targets.add_argument("--output", type=Path, required=True)
    ploidy = commands.add_parser("ploidy", parents=[shared])
    ploidy.set_defaults(act=_ploidy)
    for name in ("--file", "--bcftools", "--freebayes", "--text", "--default", "--warnings"):
        ploidy.add_argument(name, type=Path, required=True)
    ploidy.add_argument("--sample", required=True)
    ploidy.add_argument("--caller", required=True)
    ploidy.add_argument("--sex")
    piece = commands.add_parser("slice", parents=[shared])
    piece.set_defaults(act=_slice)
    piece.add_argument("--targets", type=Path)
    piece.add_argument("--bam-index", type=Path, help="BAI or CSI: leave out what has no read")
    for name in ("--number", "--slices", "--margin"):
        piece.add_argument(name, type=int, required=True)
    for name in ("--regions", "--wide"):
        piece.add_argument(name, type=Path, required=True)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    arguments = _arguments(argv)
    try:
        arguments.act(arguments)
    except InputError as error:
        if arguments.error is not None:
            fault = {"message": error.message, "file": error.file, "record": error.record}
            arguments.error.write_text(json.dumps(fault) + "\n", encoding="utf-8")
        sys.stderr.write(f"{error.message}\n")
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
