"""Called variants are compared by their haplotypes, not by their notation."""

import gzip
import json
import shutil
from pathlib import Path

import pysam
import pysam.bcftools
import pysam.samtools
import pytest

from wesemu.errors import InputError
from wesemu.genomics.compare import Score, compare
from wesemu.genomics.wheel_tools import wheel_version

TESTDATA = Path(__file__).resolve().parents[3] / "testdata" / "diploid"
SEQUENCE = "GATTACACACACATTGGCCAAATCGTTTTTTGCAGGATCCGTACGATCGA" + "ACGTTGCA" * 10
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tS\n"
PYBWA_LEAVES_ITS_DICTIONARY_OPEN = pytest.mark.filterwarnings(
    r"ignore:unclosed file .*reference\.dict:ResourceWarning"
)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    path = tmp_path / "reference.fa"
    path.write_text(f">c some words\n{SEQUENCE[:70].lower()}\n{SEQUENCE[70:]}\n")
    return path


def vcf(path: Path, *records: str) -> Path:
    """Records as 'POS REF ALT GT [QUAL]'."""
    lines = []
    for record in records:
        place, ref, alt, genotype, *quality = record.split()
        lines.append(f"c\t{place}\t.\t{ref}\t{alt}\t{(quality or ['50'])[0]}\t.\t.\tGT\t{genotype}")
    path.write_text(HEADER + "".join(line + "\n" for line in lines))
    return path


def test_a_truth_compared_with_itself_is_perfect() -> None:
    truth, reference = TESTDATA / "truth.vcf", TESTDATA / "reference.fa"
    result = compare(truth, truth, reference)
    assert result.snps == Score(tp=60, tp_calls=60, fp=0, fn=0)
    assert result.indels == Score(tp=24, tp_calls=24, fp=0, fn=0)
    assert result.all.f1 == result.all.precision == result.all.recall == 1.0


@pytest.mark.parametrize(
    ("truth", "calls"),
    [
        (["5 ACA A 0/1"], ["11 ACA A 1|0"]),  # the last of four repeats instead of the first
        (["5 A ACA 1/1"], ["13 A ACA 1/1"]),
        (["26 T TT 0/1"], ["31 T TT 0/1"]),
        (["25 GT G 0/1"], ["25 GTTTTTTG GTTTTTG 0/1"]),  # surroundings spelt out
        (["3 T C 1/1", "5 A G 0/1"], ["3 TTA CTA,CTG 1/2"]),  # a haplotype caller's block
        (["15 T A 0/1", "16 G C 0/1"], ["15 TG AC 0/1"]),
        (["5 ACA A,ACACA 1/2"], ["5 ACA A 0/1", "5 A ACA 0/1"]),
        (["15 T TA 1/1", "16 G C 1/1"], ["16 G AC 1/1"]),
        (["34 AG A 1/1", "36 G C 1/1"], ["34 AGG AC 1/1"]),
        (["7 A G 0/1", "11 ACA A 0/1"], ["7 ACACACA GCACA 0/1"]),  # a SNP in the repeats
        (["3 T C 1", "5 A G |0|1"], ["3 T C /1", "5 A G 0/1"]),  # VCF 4.4
    ],
)
def test_another_notation_of_the_same_haplotypes_is_no_error(
    truth: list[str], calls: list[str], tmp_path: Path, reference: Path
) -> None:
    expected, found = vcf(tmp_path / "truth.vcf", *truth), vcf(tmp_path / "calls.vcf", *calls)
    there, back = compare(expected, found, reference), compare(found, expected, reference)
    assert there.all.f1 == back.all.f1 == 1.0
    assert there.all.fp == there.all.fn == 0
    assert there.all.tp == back.all.tp_calls > 0


def test_ambiguous_bases_of_the_reference_agree_with_n_and_with_each_base(tmp_path: Path) -> None:
    """VCF has no IUPAC codes."""
    reference = tmp_path / "reference.fa"
    reference.write_text(">c\nACGTMCGTTTGCA\n")
    truth = vcf(tmp_path / "truth.vcf", "4 TAC T 0/1")
    for ref in ("TNC", "TMC", "TCC"):
        calls = vcf(tmp_path / "calls.vcf", f"4 {ref} T 0/1")
        assert compare(truth, calls, reference).indels == Score(tp=1, tp_calls=1, fp=0, fn=0)
    wrong = vcf(tmp_path / "wrong.vcf", "4 GAC G 0/1")
    with pytest.raises(InputError, match="REF is not what"):
        compare(truth, wrong, reference)


def test_a_wrong_genotype_is_missed_and_invented(tmp_path: Path, reference: Path) -> None:
    truth = vcf(tmp_path / "truth.vcf", "3 T C 0/1", "25 GT G 1/1", "60 C A 0/1")
    calls = vcf(tmp_path / "calls.vcf", "3 T C 1/1", "25 GT G 0/1", "60 C A 0|1")
    result = compare(truth, calls, reference)
    assert result.snps == Score(tp=1, tp_calls=1, fp=1, fn=1)
    assert result.indels == Score(tp=0, tp_calls=0, fp=1, fn=1)
    assert result.wrong_genotypes == 2


def test_missing_and_false_variants_are_counted(tmp_path: Path, reference: Path) -> None:
    truth = vcf(tmp_path / "truth.vcf", "3 T C 0/1", "42 T C 1/1", "60 C A 0/1", "80 G GA 0/1")
    calls = vcf(tmp_path / "calls.vcf", "3 T C 0/1", "44 C G 0/1", "60 C A 0/1", "70 T TAA 0/1")
    result = compare(truth, calls, reference)
    assert result.snps == Score(tp=2, tp_calls=2, fp=1, fn=1)
    assert result.indels == Score(tp=0, tp_calls=0, fp=1, fn=1)
    assert result.all.recall == result.all.precision == result.all.f1 == 0.5
    assert result.indels.f1 == 0.0
    assert result.wrong_genotypes == 0


def test_a_false_variant_beside_a_true_one_spoils_only_itself(
    tmp_path: Path, reference: Path
) -> None:
    truth = vcf(tmp_path / "truth.vcf", "3 T C 0/1", "15 T A 0/1")
    calls = vcf(tmp_path / "calls.vcf", "3 T C 0/1", "9 A G 0/1", "15 T A 0/1")
    assert compare(truth, calls, reference).all == Score(tp=2, tp_calls=2, fp=1, fn=0)


def test_calls_of_low_quality_are_left_out(tmp_path: Path, reference: Path) -> None:
    truth = vcf(tmp_path / "truth.vcf", "3 T C 0/1 1", "60 C A 0/1 .")
    calls = vcf(tmp_path / "calls.vcf", "3 T C 0/1 20", "60 C A 0/1 .", "70 T C 0/1 19.9")
    assert compare(truth, calls, reference).all == Score(2, 2, 0, 0)
    assert compare(truth, calls, reference, min_quality=10).all == Score(2, 2, 1, 0)
    assert compare(truth, calls, reference, min_quality=30).all == Score(1, 1, 0, 1)


def test_only_what_begins_inside_the_bed_counts(tmp_path: Path, reference: Path) -> None:
    bed = tmp_path / "truth.bed"
    bed.write_text("track x\nc\t59\t60\nc\t0\t10\nc\t5\t12\n")
    truth = vcf(tmp_path / "truth.vcf", "3 T C 0/1", "60 C A 0/1", "61 G T 0/1", "80 G A 0/1")
    calls = vcf(tmp_path / "calls.vcf", "3 T C 0/1", "12 C T 0/1", "13 A T 0/1", "59 A C 0/1")
    result = compare(truth, calls, reference, bed=bed)
    assert result.all == Score(tp=1, tp_calls=1, fp=1, fn=1)


def test_a_bed_of_another_naming_is_refused(tmp_path: Path, reference: Path) -> None:
    bed = tmp_path / "truth.bed"
    bed.write_text("chrc\t0\t40\n")
    truth = vcf(tmp_path / "truth.vcf", "3 T C 0/1")
    with pytest.raises(InputError, match=r"truth\.bed, line 1: .*names it 'c'"):
        compare(truth, truth, reference, bed=bed)
    bed.write_text("other\t0\t40\nc\t0\t40\n")  # the bed may be of more contigs
    assert compare(truth, truth, reference, bed=bed).all == Score(1, 1, 0, 0)
    bed.write_text("\ufeffc\t0\t40\n", encoding="utf-8")
    assert compare(truth, truth, reference, bed=bed).all == Score(1, 1, 0, 0)


def test_alleles_that_nobody_carries_are_no_calls(tmp_path: Path, reference: Path) -> None:
    truth = vcf(tmp_path / "truth.vcf", "3 T C ./1")
    calls = vcf(
        tmp_path / "calls.vcf", "3 T C,<*> 0/1", "5 A <NON_REF> 0/0", "7 A * 0/1", "9 A G ./."
    )
    assert compare(truth, calls, reference).all == Score(1, 1, 0, 0)


def test_no_calls_where_none_are_expected_is_perfect(tmp_path: Path, reference: Path) -> None:
    truth, calls = vcf(tmp_path / "truth.vcf"), vcf(tmp_path / "calls.vcf")
    assert compare(truth, calls, reference).all.f1 == 1.0


def test_no_calls_where_some_are_expected_is_worth_nothing(tmp_path: Path, reference: Path) -> None:
    truth, calls = vcf(tmp_path / "truth.vcf", "3 T C 0/1"), vcf(tmp_path / "calls.vcf")
    assert compare(truth, calls, reference).all.f1 == 0.0


def test_packed_files_are_read_as_plain_ones(tmp_path: Path, reference: Path) -> None:
    truth = vcf(tmp_path / "truth.vcf", "3 T C 0/1")
    packed = tmp_path / "calls.vcf.gz"
    packed.write_bytes(gzip.compress(truth.read_bytes()))
    assert compare(truth, packed, reference).all == Score(1, 1, 0, 0)
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(InputError, match="damaged"):
        compare(truth, packed, reference)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no #CHROM line"),
        ("<html>\n", "is not VCF: it begins '<html>'"),
        ("##fileformat=VCFv4.2\n", "no #CHROM line"),
        (HEADER + "c\t3\t.\tT\tC\t50\t.\t.\n", "line 3 is not a VCF record"),
        (HEADER + "c\tx\t.\tT\tC\t50\t.\t.\tGT\t0/1\n", "line 3 is not a VCF record"),
        (HEADER + "c\t3\t.\tT\tC\t50\t.\t.\tDP\t7\n", "line 3 is not a VCF record"),
        (HEADER + "c\t3\t.\tG\tC\t50\t.\t.\tGT\t0/1\n", "line 3: REF is not what reference.fa"),
        (HEADER + "c\t999\t.\tG\tC\t50\t.\t.\tGT\t0/1\n", "line 3: REF is not what reference.fa"),
        (HEADER + "d\t3\t.\tT\tC\t50\t.\t.\tGT\t0/1\n", "line 3: reference.fa has no contig d"),
    ],
)
def test_records_of_another_reference_are_reported_by_line(
    text: str, message: str, tmp_path: Path, reference: Path
) -> None:
    truth, calls = vcf(tmp_path / "truth.vcf"), tmp_path / "calls.vcf"
    calls.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        compare(truth, calls, reference)
    assert error.value.file == "calls.vcf"


def map_and_call(source: Path, work: Path) -> tuple[dict[str, int], Path]:
    """What flagstat counts of the reads that passed, and the called variants."""
    if wheel_version("bwa mem") is None:
        pytest.skip("the wheel of bwa does not map on this Python")
    pybwa = pytest.importorskip("pybwa")
    reference = work / "reference.fa"
    shutil.copyfile(source / "reference.fa", reference)
    pysam.samtools.faidx(str(reference))
    pybwa.BwaIndex.index(reference)
    options = pybwa.BwaMemOptions(
        interleaved_paired_end=True, soft_clip_supplementary=True, chunk_size=10_000_000
    )
    with (
        pysam.FastxFile(str(source / "reads_1.fq.gz")) as first,
        pysam.FastxFile(str(source / "reads_2.fq.gz")) as second,
    ):
        reads = [read for pair in zip(first, second, strict=True) for read in pair]
    answers = pybwa.BwaMem(str(reference)).align(reads, options)
    with pysam.FastaFile(str(reference)) as fasta:
        header = pysam.AlignmentHeader.from_references(list(fasta.references), list(fasta.lengths))
    raw, mated, placed, marked, piled, calls = (
        str(work / name)
        for name in ("raw.bam", "mated.bam", "placed.bam", "marked.bam", "piled.bcf", "calls.vcf")
    )
    with pysam.AlignmentFile(raw, "wb", header=header) as bam:
        for alignments in answers:
            for alignment in alignments:
                bam.write(alignment)
    pysam.samtools.fixmate("-m", raw, mated)
    pysam.samtools.sort("-o", placed, mated)
    pysam.samtools.markdup(placed, marked)
    pysam.samtools.index(marked)
    pileup = ["-X", "illumina", "-q", "20", "-Q", "13", "-d", "10000", "-f", str(reference)]
    pysam.bcftools.mpileup(*pileup, "-Ou", "-o", piled, marked, catch_stdout=False)
    pysam.bcftools.call("--ploidy", "2", "-mv", "-o", calls, piled, catch_stdout=False)
    counts = json.loads(str(pysam.samtools.flagstat("-O", "json", marked)))
    return counts["QC-passed reads"], Path(calls)


@PYBWA_LEAVES_ITS_DICTIONARY_OPEN
def test_real_tools_find_in_the_test_data_what_is_in_it(tmp_path: Path) -> None:
    counts, calls = map_and_call(TESTDATA, tmp_path)
    fixture = json.loads((TESTDATA / "fixture.json").read_text())
    golden = json.loads((TESTDATA / "golden.json").read_text())
    result = compare(TESTDATA / "truth.vcf", calls, TESTDATA / "reference.fa")
    assert counts["duplicates"] == fixture["duplicate_reads"] == golden["duplicate_reads"]
    assert counts["primary"] == fixture["reads"] == golden["primary"]
    assert counts["primary mapped"] == golden["primary_mapped"]
    assert counts["properly paired"] == golden["properly_paired"]
    assert counts["supplementary"] == golden["supplementary"]
    assert result.snps.f1 >= 0.99
    assert result.indels.f1 >= 0.95


@PYBWA_LEAVES_ITS_DICTIONARY_OPEN
def test_of_the_alleles_of_a_real_human_truth_two_are_missed_and_one_is_invented(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "hg002_chr20_10mb"
    counts, calls = map_and_call(source, tmp_path)
    result = compare(
        source / "truth.vcf.gz", calls, source / "reference.fa", bed=source / "truth.bed"
    )
    assert counts["duplicates"] == 160
    assert counts["properly paired"] == 20832
    assert result.all == Score(tp=229, tp_calls=229, fp=1, fn=2)
    assert result.wrong_genotypes == 0
