"""Scripts of the scripted engine for `mapping`, `wgs` and users' own workflows.

They write small valid results without a mapper or a caller. A read is placed where it matches the
reference almost exactly. A variant is a base that at least three reads show, and a quarter of those
at its position.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

from wesemu.errors import InputError
from wesemu.genomics.fastq import Batch, PairedReader
from wesemu.genomics.read_groups import complete_read_groups
from wesemu.runs.ports import LaunchRequest
from wesemu.testing.fake_engine import Script, own_script

_RULE = re.compile(r"^\s*(?:rule|checkpoint)\s+(\w+)\s*:", re.MULTILINE)
_COMPLEMENT = str.maketrans("ACGTacgt", "TGCAtgca")

_SEED = 32
"""Bases of a read that have to match exactly."""

_MOST_MISMATCHES = 8
_LONGEST_REFERENCE = 1_000_000
"""Reads are not placed in a longer reference, because the search is naive."""

_MOST_PAIRS = 20_000
"""Pairs in the alignment; further ones are counted only."""

_LEAST_READS = 3
_LEAST_SHARE, _HOMOZYGOUS_SHARE = 0.25, 0.8

_REPORTS = {"multiqc": "multiqc.html", "snakemake": "report.html"}

_SAMTOOLS = Lock()
"""pysam's commands share global state."""


def script_of(job: LaunchRequest) -> Script:
    """Return the script of a run. Raises EngineFault for an invalid parameter `script`.

    A user's own workflow plays the script in its parameter `script`. Without one, it plays a task
    for each rule and has no results.
    """
    pipeline = job.workflow_file.parents[1].name
    if pipeline not in ("mapping", "wgs") or "reads" not in job.config:
        return own_script(job) if "script" in job.config else _tasks(job.workflow_file)
    sample = _ScriptedSample(job)
    steps: list[Mapping[str, Any]] = [
        {"task": "map", "call": sample.map},
        {"task": "statistics", "call": sample.statistics},
    ]
    if pipeline == "wgs":
        steps.append({"task": "call", "call": sample.call_variants})
    return steps


def _tasks(workflow: Path) -> Script:
    text = workflow.read_text(errors="replace") if workflow.is_file() else ""
    names = list(dict.fromkeys(_RULE.findall(text))) or [workflow.stem]
    # the target rule is the first one, and the last to run
    return [{"task": name} for name in (*names[1:], names[0])]


@dataclass(frozen=True, slots=True)
class _Read:
    """One read of a pair. `contig` is -1 if it is not placed; `start` is 0-based.

    `bases` and `qualities` are those of the reference's forward strand.
    """

    name: str
    mate: int
    bases: str
    qualities: str
    group: str
    contig: int = -1
    start: int = -1
    reverse: bool = False


class _ScriptedSample:
    """The results of one run, below `work/results`."""

    def __init__(self, job: LaunchRequest) -> None:
        self._config: dict[str, Any] = dict(job.config)
        self._work = job.workspace.work
        self._results = self._work / "results"
        lanes: list[dict[str, Any]] = self._config["reads"]
        self._groups = complete_read_groups(
            [lane.get("read_group") for lane in lanes], self._config["sample"]
        )
        self._reads: list[tuple[_Read, _Read]] = []
        self._names: list[str] = []
        self._contigs: list[str] = []

    def map(self) -> list[str]:
        """Count and place the reads and write the alignment. Raise InputError for bad reads."""
        import pysam

        self._results.mkdir(parents=True, exist_ok=True)
        with pysam.FastaFile(self._config["reference"]) as fasta:
            self._names = list(fasta.references)
            lengths = list(fasta.lengths)
            if sum(lengths) <= _LONGEST_REFERENCE:
                self._contigs = [fasta.fetch(name).upper() for name in self._names]
        reads = bases = 0
        try:
            for lane, group in zip(self._config["reads"], self._groups, strict=True):
                counted = self._read_lane(lane, group.id)
                reads, bases = reads + counted[0], bases + counted[1]
        except InputError as error:
            fault = {"message": error.message, "file": error.file, "record": error.record}
            (self._work / "input_error.json").write_text(json.dumps(fault))
            raise
        counts = {"total_reads": reads, "total_bases": bases}
        (self._results / "reads.json").write_text(json.dumps(counts))
        return [
            "results/reads.json",
            *self._write_alignment(dict(zip(self._names, lengths, strict=True))),
        ]

    def statistics(self) -> list[str]:
        """Write the reports of samtools, and a page for each wanted report."""
        import pysam

        alignment = str(self._results / self._config["alignment"])
        reference = ["--reference", self._config["reference"]]
        with _SAMTOOLS:
            flagstat = pysam.samtools.flagstat("-O", "json", alignment)
            stats = pysam.samtools.stats(*reference, alignment)
        (self._results / "flagstat.json").write_text(str(flagstat))
        (self._results / "stats.txt").write_text(str(stats))
        pages = [f"results/{_REPORTS[name]}" for name in self._config["reports"]]
        for page in pages:
            (self._work / page).write_text("<!doctype html><title>scripted report</title>")
        return ["results/flagstat.json", "results/stats.txt", *pages]

    def call_variants(self) -> list[str]:
        """Write the VCF, the gVCF if one is wanted, and the report of bcftools."""
        import pysam.bcftools

        text = "".join(self._vcf_lines())
        written: list[str] = []
        for name in (self._config["vcf"], self._config["gvcf"]):
            if name:
                written += self._write_variants(str(name), text)
        with _SAMTOOLS:
            report = pysam.bcftools.stats(str(self._results / self._config["vcf"]))
        (self._results / "variants.txt").write_text(str(report))
        return [*written, "results/variants.txt"]

    def _read_lane(self, lane: Mapping[str, Any], group: str) -> tuple[int, int]:
        offset = self._config["quality_offset"]
        with PairedReader(lane["first"], lane.get("second"), quality_offset=offset) as reader:
            for batch in reader:
                wanted = max(0, _MOST_PAIRS - len(self._reads))
                self._reads += islice(self._placed(batch, group), wanted)
            return reader.reads, reader.bases

    def _placed(self, batch: Batch, group: str) -> Iterator[tuple[_Read, _Read]]:
        bases = batch.sequences.decode().split("\n")
        qualities = batch.qualities.decode().split("\n")
        for number, name in enumerate(batch.names):
            first, second = (
                self._place(name.decode(), mate, bases[at], qualities[at], group)
                for mate, at in enumerate((2 * number, 2 * number + 1))
            )
            yield first, second

    def _place(self, name: str, mate: int, bases: str, qualities: str, group: str) -> _Read:
        turned = bases.translate(_COMPLEMENT)[::-1]
        for reverse, text in ((False, bases.upper()), (True, turned.upper())):
            for contig, sequence in enumerate(self._contigs):
                start = _find(text, sequence)
                if start is not None:
                    forward = qualities[::-1] if reverse else qualities
                    return _Read(name, mate, text, forward, group, contig, start, reverse)
        return _Read(name, mate, bases, qualities, group)

    def _write_alignment(self, lengths: Mapping[str, int]) -> list[str]:
        import pysam

        name = str(self._config["alignment"])
        path = self._results / name
        header = {
            "HD": {"VN": "1.6", "SO": "coordinate"},
            "SQ": [{"SN": contig, "LN": length} for contig, length in lengths.items()],
            "RG": [dict(group.fields) for group in self._groups],
            "PG": [{"ID": "wesemu", "PN": "wesemu", "DS": "scripted engine, no mapper"}],
        }
        mode = "wc" if name.endswith(".cram") else "wb"
        with pysam.AlignmentFile(
            str(path), mode, header=header, reference_filename=self._config["reference"]
        ) as file:
            seen: set[tuple[int, int, int, int]] = set()
            records = [
                record
                for pair in self._reads
                for record in _records(pair, self._is_duplicate(pair, seen), file.header)
            ]
            records.sort(key=lambda each: (each.reference_id < 0, each.reference_id, each.pos))
            for record in records:
                file.write(record)
        if name.endswith(".cram"):
            index = f"{name}.crai"
        else:
            index = f"{name}.{'csi' if self._config['index_format'] == 'csi' else 'bai'}"
        with _SAMTOOLS:
            flags = ["-c"] if index.endswith(".csi") else []
            pysam.samtools.index(*flags, str(path), str(self._results / index))
        return [f"results/{name}", f"results/{index}"]

    def _is_duplicate(
        self, pair: tuple[_Read, _Read], seen: set[tuple[int, int, int, int]]
    ) -> bool:
        """Return whether an earlier pair has the same outer ends, if duplicates are marked."""
        first, second = pair
        if not self._config["markdup"] or first.contig < 0 or second.contig < 0:
            return False
        ends = (first.contig, first.start, second.contig, second.start)
        if ends in seen:
            return True
        seen.add(ends)
        return False

    def _vcf_lines(self) -> Iterator[str]:
        import pysam

        with pysam.FastaFile(self._config["reference"]) as fasta:
            contigs = dict(zip(fasta.references, fasta.lengths, strict=True))
        yield "##fileformat=VCFv4.2\n##source=wesemu, scripted engine\n"
        for name, length in contigs.items():
            yield f"##contig=<ID={name},length={length}>\n"
        yield '##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth">\n'
        yield '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
        columns = ("CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")
        yield "#" + "\t".join((*columns, str(self._groups[0].sample))) + "\n"
        for contig, start, alternate, depth, genotype in self._snps():
            base = self._contigs[contig][start]
            yield (
                f"{self._names[contig]}\t{start + 1}\t.\t{base}\t{alternate}\t100\tPASS\t"
                f"DP={depth}\tGT\t{genotype}\n"
            )

    def _snps(self) -> Iterator[tuple[int, int, str, int, str]]:
        """Yield contig, 0-based position, alternate base, depth and genotype, in order."""
        placed = [read for pair in self._reads for read in pair if read.contig >= 0]
        differing: defaultdict[tuple[int, int], Counter[str]] = defaultdict(Counter)
        depths = {number: [0] * (len(text) + 1) for number, text in enumerate(self._contigs)}
        for read in placed:
            depths[read.contig][read.start] += 1
            depths[read.contig][read.start + len(read.bases)] -= 1
            for at in _mismatches(read.bases, self._contigs[read.contig], read.start):
                differing[read.contig, read.start + at][read.bases[at]] += 1
        for changes in depths.values():
            for position in range(1, len(changes)):
                changes[position] += changes[position - 1]
        for (contig, start), bases in sorted(differing.items()):
            alternate, count = bases.most_common(1)[0]
            depth = depths[contig][start]
            if count >= max(_LEAST_READS, _LEAST_SHARE * depth) and alternate in "ACGT":
                genotype = "1/1" if count >= _HOMOZYGOUS_SHARE * depth else "0/1"
                yield contig, start, alternate, depth, genotype

    def _write_variants(self, name: str, text: str) -> list[str]:
        import pysam

        plain = self._results / name.removesuffix(".gz")
        plain.write_text(text)
        if not name.endswith(".gz"):
            return [f"results/{name}"]
        csi = self._config["index_format"] == "csi"
        with _SAMTOOLS:
            pysam.tabix_index(str(plain), preset="vcf", force=True, csi=csi)
        return [f"results/{name}", f"results/{name}.{'csi' if csi else 'tbi'}"]


def _find(read: str, sequence: str) -> int | None:
    """Return the 0-based start of a read in a contig, by exact seeds; None if it has no place."""
    length = len(read)
    for seed in sorted({0, max(0, length // 2 - _SEED // 2), max(0, length - _SEED)}):
        found = sequence.find(read[seed : seed + _SEED])
        start = found - seed
        if found < 0 or start < 0 or start + length > len(sequence):
            continue
        if len(_mismatches(read, sequence, start)) <= _MOST_MISMATCHES:
            return start
    return None


def _mismatches(read: str, sequence: str, start: int) -> list[int]:
    """Return the 0-based offsets in the read that differ from the contig."""
    if sequence.startswith(read, start):
        return []
    there = sequence[start : start + len(read)]
    return [at for at, (one, two) in enumerate(zip(read, there, strict=True)) if one != two]


def _records(pair: tuple[_Read, _Read], duplicate: bool, header: Any) -> Iterator[Any]:
    """Yield both reads as records of pysam (SAM specification, section 1.4)."""
    import pysam

    placed = [read for read in pair if read.contig >= 0]
    same = len(placed) == 2 and pair[0].contig == pair[1].contig
    proper = same and pair[0].reverse != pair[1].reverse
    for read, other in (pair, pair[::-1]):
        record = pysam.AlignedSegment(header)
        record.query_name = read.name
        record.query_sequence = read.bases
        record.query_qualities = pysam.qualitystring_to_array(read.qualities)
        record.is_paired = True
        record.is_read1, record.is_read2 = read.mate == 0, read.mate == 1
        record.is_unmapped, record.mate_is_unmapped = read.contig < 0, other.contig < 0
        record.is_reverse, record.mate_is_reverse = read.reverse, other.reverse
        record.is_proper_pair, record.is_duplicate = proper, duplicate
        # By convention, an unplaced read has the position of its mate.
        record.reference_id = read.contig if read.contig >= 0 else other.contig
        record.reference_start = read.start if read.contig >= 0 else other.start
        record.next_reference_id = other.contig if other.contig >= 0 else read.contig
        record.next_reference_start = other.start if other.contig >= 0 else read.start
        if read.contig >= 0:
            record.cigartuples = [(0, len(read.bases))]
            record.mapping_quality = 60
        if same:
            record.template_length = _template_length(read, other)
        record.set_tag("RG", read.group)
        yield record


def _template_length(read: _Read, other: _Read) -> int:
    left = min(read.start, other.start)
    right = max(read.start + len(read.bases), other.start + len(other.bases))
    leftmost = (read.start, read.mate) < (other.start, other.mate)
    return right - left if leftmost else left - right
