"""Counted and aligned reads: bwa's records, native or from the wheel; failures."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wesemu.genomics.bwa_index import SUFFIXES, Contig
from wesemu.genomics.fastq import PairedReader
from wesemu.genomics.mapper_wheel import WheelMapper, read_ahead
from wesemu.genomics.mappers import Lane, Program, header_text
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.wheel_tools import wheel_command, wheel_version

GROUP = "@RG\\tID:L1\\tSM:s"
HAS_BWA = wheel_version("bwa mem") is not None
# what maps out of a wheel on this Python
WHEEL = [] if HAS_BWA else ["--bwa-mem3"]
Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="session")
def real(tmp_path_factory) -> Path:
    """A folder with reference.fa (indexed), reads_1.fq.gz, reads_2.fq.gz: 10,507 real pairs."""
    source = Path(__file__).resolve().parents[4] / "shared" / "data" / "hg002_chr20_10mb"
    if not source.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    folder = tmp_path_factory.mktemp("real")
    store = ReferenceStore(folder / "references", folder / "cache")
    (folder / "reference.fa").symlink_to(store.ready(source / "reference.fa", "bwa-mem3"))
    for suffix in (".fai", *SUFFIXES, ".bwt.2bit.64"):
        ready = f"{(folder / 'reference.fa').resolve()}{suffix}"
        (folder / f"reference.fa{suffix}").symlink_to(ready)
    for mate in (1, 2):
        (folder / f"reads_{mate}.fq.gz").symlink_to(source / f"reads_{mate}.fq.gz")
    return folder


@pytest.fixture
def align(tmp_path: Path, real: Path) -> Run:
    """Run the program on lanes of the real reads; counts.json and error.json lie in tmp_path."""

    def run(*options: str, lanes: int = 1, second: Path | None = None, threads: int = 2) -> Run:
        words = [sys.executable, "-P", "-m", "wesemu.genomics.align"]
        words += ["--reference", str(real / "reference.fa"), "--threads", str(threads)]
        words += [
            "--counts",
            str(tmp_path / "counts.json"),
            "--error",
            str(tmp_path / "error.json"),
        ]
        for lane in range(1, lanes + 1):
            reads = [str(real / "reads_1.fq.gz"), str(second or real / "reads_2.fq.gz")]
            words += ["--reads", *reads, "--read-group", f"@RG\\tID:L{lane}\\tSM:s"]
        mapper = [] if {"--bwa", "--bwa-mem3"} & {*options} else WHEEL
        return subprocess.run([*words, *mapper, *options], capture_output=True, check=False)

    return run


def sam(data: bytes) -> tuple[list[bytes], list[bytes]]:
    """Header lines and alignment lines of SAM or BAM."""
    view = [*wheel_command("samtools"), "view", "--no-PG", "-h", "-"]
    lines = subprocess.run(view, input=data, capture_output=True, check=True).stdout.splitlines()
    return [x for x in lines if x[:1] == b"@"], [x for x in lines if x[:1] != b"@"]


def without_mate_quality(lines: list[bytes]) -> list[list[bytes]]:
    """bwa 0.7.18 and later write MQ, 0.7.17 does not; fixmate writes it in any case."""
    return [[x for x in line.split(b"\t") if not x.startswith(b"MQ:")] for line in lines]


def test_reads_are_counted_and_aligned(align, tmp_path):
    done = align()
    assert done.returncode == 0, done.stderr
    header, alignments = sam(done.stdout)
    assert header == [
        b"@HD\tVN:1.6\tSO:unsorted\tGO:query",
        b"@SQ\tSN:chr20_9995001_11095000\tLN:1100000",
        b"@RG\tID:L1\tSM:s",
        b"@PG\tID:bwa\tPN:bwa\tVN:0.7 (pybwa 1.5.2)\tCL:bwa mem -K 10000000 -Y"
        if HAS_BWA
        else b"@PG\tID:bwa-mem3\tPN:bwa-mem3\tVN:0.4.4\tCL:bwa-mem3 mem -K 10000000 -Y",
    ]
    assert len(alignments) == 21023
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert (counts["total_reads"], counts["total_bases"]) == (21014, 3110072)
    assert counts["lanes"][0]["read_group"] == "L1"
    assert not (tmp_path / "error.json").exists()


def test_the_threads_do_not_matter(align):
    assert align(threads=1).stdout == align(threads=4).stdout


def test_lanes_are_mapped_apart_under_one_header(align, tmp_path):
    header, alignments = sam(align(lanes=2).stdout)
    assert header[2:4] == [b"@RG\tID:L1\tSM:s", b"@RG\tID:L2\tSM:s"]
    assert len(alignments) == 2 * 21023
    half = [line.replace(b"RG:Z:L2", b"RG:Z:L1") for line in alignments[21023:]]
    assert half == alignments[:21023]
    assert b"RG:Z:L2" in alignments[-1]
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["total_reads"] == 2 * 21014


@pytest.mark.parametrize("mapper", [WHEEL, ["--bwa-mem3"]])
def test_bad_input_ends_with_65_and_one_sentence(align, real, tmp_path, mapper):
    cut = tmp_path / "cut_2.fq.gz"
    cut.write_bytes((real / "reads_2.fq.gz").read_bytes()[:-1000])
    done = align(*mapper, second=cut)
    assert done.returncode == 65
    error = json.loads((tmp_path / "error.json").read_text())
    assert error["file"] == str(cut)
    assert error["record"] > 10_000
    assert "ends too early" in error["message"]
    assert not (tmp_path / "counts.json").exists()
    # what is left of the output has no end
    assert not done.stdout.endswith(bytes.fromhex("1b0003000000000000000000"))


def test_an_error_of_an_earlier_run_does_not_stay(align, tmp_path):
    (tmp_path / "error.json").write_text("{}")
    assert align().returncode == 0
    assert not (tmp_path / "error.json").exists()


@pytest.mark.native
class TestNative:
    """The same with a native bwa."""

    @pytest.fixture(autouse=True)
    def bwa(self) -> None:
        if not shutil.which("bwa"):
            pytest.skip("no bwa on PATH")

    @pytest.mark.parametrize("chunk", [10_000_000, 100_000])
    def test_the_wheel_answers_as_native_bwa_does(self, real, tmp_path, chunk):
        if not HAS_BWA:
            pytest.skip("the wheel of bwa does not map on this Python")
        reference = str(real / "reference.fa")
        lane = Lane(*(str(real / f"reads_{mate}.fq.gz") for mate in (1, 2)), "@RG\tID:L1\tSM:s")
        command = ["bwa", "mem", "-K", str(chunk), "-Y", "-R", GROUP, reference]
        native = subprocess.run(
            [*command, lane.first, lane.second], capture_output=True, check=True
        )

        def header(version: str) -> str:
            contigs = [Contig("chr20_9995001_11095000", 1_100_000)]
            return header_text(contigs, [lane], [Program("bwa", version, "bwa mem")])

        with (tmp_path / "wheel.bam").open("wb") as output:
            mapper = WheelMapper(reference, threads=2, header=header, output=output)
            with PairedReader(lane.first, lane.second, batch_bases=chunk) as reader:
                mapper.map(lane, reader)
            mapper.close()
        wheel = sam((tmp_path / "wheel.bam").read_bytes())[1]
        assert len(wheel) == 21023
        assert without_mate_quality(wheel) == without_mate_quality(sam(native.stdout)[1])

    def test_its_answers_pass_unchanged_under_our_header(self, align):
        header, alignments = sam(align("--bwa", "bwa", lanes=2).stdout)
        assert [line[:3] for line in header] == [b"@HD", b"@SQ", b"@RG", b"@RG", b"@PG"]
        assert header[-1].endswith(b"CL:bwa mem -K 10000000 -Y")
        wheel = sam(align(lanes=2).stdout)[1]
        assert without_mate_quality(alignments) == without_mate_quality(wheel)

    def test_bad_input_ends_with_65(self, align, real, tmp_path):
        cut = tmp_path / "cut_2.fq.gz"
        cut.write_bytes((real / "reads_2.fq.gz").read_bytes()[:-1000])
        assert align("--bwa", "bwa", second=cut).returncode == 65
        assert (tmp_path / "error.json").exists()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "status 3"),
        ("exit 0", "status 0"),
        ("kill -9 $$", "signal 9"),
        ("cat >/dev/null; exit 1", "status 1"),
    ],
)
def test_a_failing_mapper_is_noticed(align, tmp_path, script, words):
    fake = tmp_path / "bwa"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    done = align("--bwa", str(fake))
    assert done.returncode == 69
    assert words in done.stderr.decode()
    assert not (tmp_path / "counts.json").exists()


def test_a_mapper_that_is_not_there_is_reported(align):
    done = align("--bwa", "/nonexistent/bwa")
    assert done.returncode == 69
    assert "cannot be started" in done.stderr.decode()


@pytest.mark.parametrize("mapper", [WHEEL, ["--bwa-mem3"]])
def test_a_reader_that_goes_away_is_noticed(real, tmp_path, mapper):
    words = [sys.executable, "-P", "-m", "wesemu.genomics.align", "--threads", "1"]
    words += ["--reference", str(real / "reference.fa"), "--read-group", GROUP]
    words += ["--reads", *(str(real / f"reads_{mate}.fq.gz") for mate in (1, 2))]
    words += ["--counts", str(tmp_path / "c"), "--error", str(tmp_path / "e"), *mapper]
    script = '"$@" | head -c 100 >/dev/null; exit ${PIPESTATUS[0]}'
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, check=False)
    assert done.returncode == 141
    assert not (tmp_path / "c").exists()


def test_alternate_contigs_are_marked():
    header = header_text([Contig("a", 5), Contig("a_alt", 3, alternate=True)], [], [])
    assert "@SQ\tSN:a\tLN:5\n@SQ\tSN:a_alt\tLN:3\tAH:*\n" in header


def test_reading_ahead_keeps_order_and_errors():
    def items():
        yield from range(5)
        raise KeyError("end")

    seen: list[int] = []
    with pytest.raises(KeyError, match="end"):
        seen.extend(read_ahead(items()))
    assert seen == [0, 1, 2, 3, 4]
