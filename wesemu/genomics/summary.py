"""Summary of a run in one document, `results/summary.json`, with warnings for unusual figures.

The figures come from reports of samtools and bcftools, without another pass over the BAM or VCF.
The schema is `pipelines/mapping/workflow/schemas/summary.schema.yaml`.
`python -m wesemu.genomics.summary` adds the variants to the summary of a mapping, unless the
reference has changed: then its exit status is 65, and `--error` holds the message.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from wesemu.errors import SystemFault
from wesemu.genomics.reference_state import report_change

Summary = dict[str, Any]
Counts = Mapping[str, int | float | None]

DEPTHS = (1, 10, 20, 30)
GOOD_QUALITY = 20
"""QUAL from which most calls are right; see docs/pipelines.md."""

_FEW_MAPPED = 50
_FEW_PROPER = 50
_MANY_DUPLICATES = 50
_EVEN_INSERTS = 5
"""Standard deviation of the insert size, in bases; sheared DNA has 20 and more."""
_FEW_READS = 1000
_COLONS = (3, 4, 6, 7)
"""In the names that `samtools markdup -d` reads: Illumina's old and new form, and with a UMI."""
_ALTERNATE = re.compile(r"\S+_(alt|fix|hap\d+)|HLA-\S+|CHR_HS\S+")
"""Names of ALT contigs: UCSC's for GRCh38 and hg19, bwa.kit's HLA, and Ensembl's."""


def read_sections(report: Path, wanted: Iterable[str]) -> dict[str, list[list[str]]]:
    """Return rows of a `samtools stats` or `bcftools stats` report by section.

    The rows lack the name of the section. Raises `SystemFault` if the tool failed and the report
    has no figures.
    """
    sections: dict[str, list[list[str]]] = {name: [] for name in wanted}
    with report.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, rest = line.rstrip("\n").partition("\t")
            if name in sections:
                sections[name].append(rest.split("\t"))
    if not sections["SN"]:
        raise SystemFault(f"{report} has no figures: stats failed; the log has its message.")
    return sections


def summarize_mapping(
    *,
    sample: str,
    tools: Mapping[str, str],
    counts: Mapping[str, Any],
    flagstat: Mapping[str, Counts],
    stats: Path,
    markdup: Mapping[str, int] | None,
    genome: int,
    notes: Sequence[str] = (),
    libraries: int = 1,
    unlisted: Sequence[str] = (),
    optical_distance: int = 0,
) -> Summary:
    """Return the summary of a mapping.

    `counts` is the report of `align`. `flagstat` and `markdup` (None: duplicates were not marked)
    are JSON reports of samtools, `stats` is the report of `samtools stats`. `genome` is in bases.
    `notes` are sentences about the tools, `unlisted` the contigs of a reference without a list of
    ALT contigs. Optical duplicates were searched within `optical_distance` pixels if it is not 0.
    """
    sections = read_sections(stats, ("SN", "IS", "COV"))
    numbers = {row[0].rstrip(":"): float(row[1]) for row in sections["SN"]}
    passed = flagstat["QC-passed reads"]
    reads = int(counts["total_reads"])
    summary: Summary = {
        "sample": sample,
        "tools": dict(tools),
        "reads": {
            "total": reads,
            "bases": int(counts["total_bases"]),
            "mean_length": _ratio(counts["total_bases"], reads, 1),
            "longest": int(numbers["maximum length"]),
            "mean_quality": numbers["average quality"],
        },
        "alignment": {
            "mapped": passed["primary mapped"],
            "mapped_percent": _percent(passed["primary mapped"], reads),
            "properly_paired": passed["properly paired"],
            "properly_paired_percent": _percent(passed["properly paired"], reads),
            "supplementary": passed["supplementary"],
            "mapping_quality_0": int(numbers["reads MQ0"]),
            "mismatch_rate": numbers["error rate"] if passed["primary mapped"] else None,
        },
        "duplicates": None if markdup is None else _duplicates(markdup, libraries),
        "insert_size": _insert_size(sections["IS"], numbers),
        "coverage": _coverage(sections["COV"], genome),
    }
    warnings = [
        *_mapping_warnings(summary),
        *_alternate_warnings(unlisted),
        *_lane_warnings(counts.get("lanes", [])),
        *(_name_warnings(counts.get("lanes", [])) if optical_distance else ()),
    ]
    return summary | {"targets": None, "variants": None, "warnings": warnings, "notes": [*notes]}


def _duplicates(markdup: Mapping[str, int], libraries: int) -> Summary:
    # samtools estimates as if all reads were of one library
    size = markdup["ESTIMATED_LIBRARY_SIZE"] if libraries == 1 else None
    optical = markdup["DUPLICATE PAIR OPTICAL"] + markdup["DUPLICATE SINGLE OPTICAL"]
    return {
        "reads": markdup["DUPLICATE TOTAL"],
        "percent": _percent(markdup["DUPLICATE TOTAL"], markdup["EXAMINED"]),
        "optical": optical,
        "estimated_library_size": size or None,
    }


def _insert_size(rows: Sequence[Sequence[str]], numbers: Mapping[str, float]) -> Summary:
    """Return null for all figures without a pair, for which samtools writes 0."""
    median = _median_insert(rows)
    return {
        "mean": None if median is None else numbers["insert size average"],
        "median": median,
        "standard_deviation": None if median is None else numbers["insert size standard deviation"],
    }


def _median_insert(rows: Sequence[Sequence[str]]) -> int | None:
    pairs = [int(row[1]) for row in rows]
    for row, below in zip(rows, accumulate(pairs), strict=True):
        if 2 * below >= sum(pairs) > 0:
            return int(row[0])
    return None


def _coverage(rows: Sequence[Sequence[str]], genome: int) -> Summary:
    """Return depths from `samtools stats`, which counts duplicates."""
    depths = [(int(row[1]), int(row[2])) for row in rows]
    return {
        "genome_bases": genome,
        "mean_depth": _ratio(sum(depth * bases for depth, bases in depths), genome, 2),
        "percent_at_depth": {
            str(least): _percent(sum(bases for depth, bases in depths if depth >= least), genome)
            for least in DEPTHS
        },
    }


def _lane_warnings(lanes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Warn about files that may be cut, lanes with swapped mates, and lanes that look like copies
    of each other."""
    seen: dict[tuple[Any, ...], str] = {}
    for lane in lanes:
        figures = (lane["reads"], lane["bases"], lane.get("last_name"))
        group = lane["read_group"]
        if lane.get("swapped"):
            yield (
                f"The first file of the lane {group} holds second mates, as the names of its reads "
                "say: are the two files swapped?"
            )
        if lane.get("without_end"):
            yield (
                f"{lane['without_end']}: the bgzip data has no end mark. Was the file cut? Compare "
                "its size or its number of reads with the original."
            )
        other = seen.setdefault(figures, group)
        if other != group:
            yield (
                f"The lanes {other} and {group} hold as many reads and bases and end with the "
                f"same name, {lane.get('last_name')!r}: are they one lane twice?"
            )


def _name_warnings(lanes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Warn about names without the positions of the reads on the flow cell."""
    for lane in lanes:
        name = lane.get("last_name", "")
        if name.count(":") not in _COLONS:
            yield (
                f"The lane {lane['read_group']} has names without positions on the flow cell "
                f"({name!r}): its optical duplicates were not found and are not counted."
            )


def _mapping_warnings(summary: Summary) -> list[str]:
    warnings = []
    alignment, duplicates = summary["alignment"], summary["duplicates"]
    if alignment["mapped_percent"] < _FEW_MAPPED:
        warnings.append(
            f"Only {alignment['mapped_percent']} % of the reads map to the reference: is it the "
            "right one for this sample?"
        )
    elif alignment["properly_paired_percent"] < _FEW_PROPER:
        warnings.append(
            f"Only {alignment['properly_paired_percent']} % of the reads are properly paired: do "
            "the two files belong together?"
        )
    if duplicates and duplicates["percent"] > _MANY_DUPLICATES:
        warnings.append(
            f"{duplicates['percent']} % of the mapped reads are duplicates: the library holds few "
            "different fragments."
        )
    return warnings


def _alternate_warnings(unlisted: Sequence[str]) -> list[str]:
    """Warn about ALT contigs that the mapper takes for other places of the genome."""
    alternates = [name for name in unlisted if _ALTERNATE.fullmatch(name)]
    if not alternates or len(alternates) == len(unlisted):  # none is an alternate of another
        return []
    return [
        f"The reference has ALT contigs ({len(alternates):,}, such as {alternates[0]}) without a "
        "list of them: reads that also match one have mapping quality 0, and variants there may be "
        "missing. Put the list (FASTA.alt of bwa.kit) beside the FASTA, or take a reference "
        "without ALT contigs."
    ]


def summarize_variants(
    report: Path, *, caller: str, ploidy: str = "2", haploid: Path | None = None
) -> tuple[Summary, list[str]]:
    """Return the section `variants` and warnings, from `bcftools stats -s -` of one sample's VCF.

    `ploidy` is the text from the header of the VCF; `haploid` is the report on haploid genotypes
    alone, which may be empty.
    """
    sections = read_sections(report, ("SN", "TSTV", "QUAL", "PSC", "PSI"))
    numbers = {row[1].rstrip(":"): int(row[2]) for row in sections["SN"]}
    transitions, transversions = (int(number) for number in sections["TSTV"][0][1:3])
    good = [row for row in sections["QUAL"] if _is_good(row[1])]
    snps, indels = (
        _zygosity(sections["PSC"], (4,), (3,)),
        _zygosity(sections["PSI"], (6, 7), (8, 9)),
    )
    haploid_snps, haploid_indels = _haploid(haploid)
    default, *regions = ploidy.split(",")
    variants: Summary = {
        "caller": caller,
        "ploidy": int(default),
        "ploidy_regions": regions,
        "records": numbers["number of records"],
        "multiallelic_sites": numbers["number of multiallelic sites"],
        "snps": {
            "records": numbers["number of SNPs"],
            f"alleles_from_quality_{GOOD_QUALITY}": sum(int(row[2]) for row in good),
            "transitions": transitions,
            "transversions": transversions,
            "ti_tv": _ratio(transitions, transversions, 2),
            **snps,
            "haploid": haploid_snps,
        },
        "indels": {
            "records": numbers["number of indels"],
            f"alleles_from_quality_{GOOD_QUALITY}": sum(int(row[5]) for row in good),
            **indels,
            "haploid": haploid_indels,
        },
    }
    if variants["records"]:
        return variants, []
    return variants, [
        "No variant was called: the sample equals the reference, or nothing covers it."
    ]


def _caller_warnings(mapping: Summary, caller: str) -> list[str]:
    """Warn about fragments of one length: bwa then calls pairs with an indel improper, and bcftools
    leaves improper pairs out."""
    deviation = mapping["insert_size"]["standard_deviation"]
    if (
        caller != "bcftools"
        or deviation is None
        or deviation >= _EVEN_INSERTS
        or mapping["alignment"]["mapped"] < _FEW_READS
    ):
        return []
    return [
        f"The fragments have nearly the same length (standard deviation {deviation} bases), as of "
        "one amplicon: bcftools may miss indels, because it leaves out pairs that are not proper. "
        "Call with freebayes."
    ]


def _haploid(report: Path | None) -> tuple[int, int]:
    """Return records of haploid SNPs and indels, which are neither hetero- nor homozygous."""
    if report is None:
        return 0, 0
    numbers = dict.fromkeys(("number of SNPs:", "number of indels:"), 0)
    for line in report.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split("\t")
        if fields[0] == "SN" and fields[2] in numbers:
            numbers[fields[2]] = int(fields[3])
    snps, indels = numbers.values()
    return snps, indels


def summarize_targets(depths: Path, reads: Path, mapping: Summary) -> tuple[Summary, list[str]]:
    """Return the section `targets` and warnings.

    `depths` has lines with a depth and the number of target bases with that depth; `reads` has the
    number of reads on targets. Both exclude duplicates.
    """
    rows = [line.split() for line in depths.read_text().splitlines()]
    classes = [(int(depth), int(bases)) for depth, bases in rows]
    bases = sum(each for _, each in classes)
    alignment, duplicates = mapping["alignment"], mapping["duplicates"]
    mapped = alignment["mapped"] - (duplicates["reads"] if duplicates else 0)
    on_target = int(reads.read_text())
    targets: Summary = {
        "bases": bases,
        "reads": on_target,
        "reads_percent": _percent(on_target, mapped),
        "mean_depth": _ratio(sum(depth * each for depth, each in classes), bases, 2),
        "percent_at_depth": {
            str(least): _percent(sum(each for depth, each in classes if depth >= least), bases)
            for least in DEPTHS
        },
    }
    if on_target:
        return targets, []
    return targets, ["No read maps to the targets: are they those of this sample?"]


def _is_good(quality: str) -> bool:
    return quality == "." or float(quality) >= GOOD_QUALITY


def _zygosity(rows: Sequence[Sequence[str]], het: Sequence[int], hom: Sequence[int]) -> Summary:
    """Sum up columns of the (one) sample; an indel with two alternative alleles counts twice."""
    heterozygous = sum(int(row[column]) for row in rows for column in het)
    homozygous = sum(int(row[column]) for row in rows for column in hom)
    return {
        "heterozygous": heterozygous,
        "homozygous": homozygous,
        "het_hom": _ratio(heterozygous, homozygous, 2),
    }


def _ratio(part: float, whole: float, digits: int) -> float | None:
    return round(part / whole, digits) if whole else None


def _percent(part: float | None, whole: float) -> float:
    return round(100 * (part or 0) / whole, 2) if whole else 0.0


def write_summary(summary: Summary, path: Path) -> None:
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="wesemu.genomics.summary", description=__doc__)
    for name in ("--mapping", "--variants", "--output"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--caller", nargs=2, required=True, metavar=("NAME", "VERSION"))
    parser.add_argument("--ploidy", default="2", help="text in the header of the VCF")
    parser.add_argument("--haploid", type=Path, help="bcftools stats of the haploid genotypes")
    parser.add_argument("--more-warnings", type=Path, help="a file with a sentence in each line")
    parser.add_argument("--targets", type=Path, nargs=2, metavar=("DEPTHS", "READS"))
    parser.add_argument("--state", type=Path, help="the state of the reference; needs --error")
    parser.add_argument("--error", type=Path, help="JSON, for a reference that was changed")
    arguments = parser.parse_args(argv)
    if arguments.state and (status := report_change(arguments.state, arguments.error)):
        return status
    name, version = arguments.caller
    summary: Summary = json.loads(arguments.mapping.read_text(encoding="utf-8"))
    variants, warnings = summarize_variants(
        arguments.variants, caller=name, ploidy=arguments.ploidy, haploid=arguments.haploid
    )
    warnings = _caller_warnings(summary, name) + warnings
    if arguments.targets:
        depths, reads = arguments.targets
        summary["targets"], more = summarize_targets(depths, reads, summary)
        warnings = more + warnings
    if arguments.more_warnings:
        warnings = arguments.more_warnings.read_text(encoding="utf-8").splitlines() + warnings
    summary |= {
        "tools": summary["tools"] | {name: version},
        "variants": variants,
        "warnings": summary["warnings"] + warnings,
    }
    write_summary(summary, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
