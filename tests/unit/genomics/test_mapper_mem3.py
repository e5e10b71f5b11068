"""bwa-mem3 makes bwa's records, with any number of threads; without it the error has advice."""

import gzip
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wesemu.errors import ToolMissing
from wesemu.genomics import fm_index, mapper_wheel, tools, wheel_tools
from wesemu.genomics.bwa_index import index_fault, read_contigs
from wesemu.genomics.fastq import PairedReader
from wesemu.genomics.mapper_wheel import as_bwa
from wesemu.genomics.mappers import Lane, header_text
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.tools import Tool, indexer_name, resolve
from wesemu.genomics.wheel_tools import wheel_command

NOWHERE = "/nonexistent"
GROUP = "@RG\\tID:MQiabcdHNiabc\\tSM:s"
END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

Align = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an indexed reference with repeats, and 3,000 pairs, some of them odd."""
    folder = tmp_path_factory.mktemp("mem3")
    rng = random.Random(11)
    repeat = "".join(rng.choices("ACGT", k=700))
    parts = ["".join(rng.choices("ACGT", k=3000)) + repeat for _ in range(12)]
    genome = "".join(parts)
    fasta = folder / "reference.fa"
    fasta.write_text(f">one\n{genome[:30_000]}\n>two\n{genome[30_000:]}NNNN\n")
    store = ReferenceStore(folder / "references", folder / "cache")
    (folder / "indexed").symlink_to(store.ready(fasta, "bwa-mem3").parent)
    store.ready(fasta)
    # the same with the second contig as an alternate one
    shutil.copytree(folder / "indexed", folder / "alternate")
    (folder / "alternate" / "genome.fa.alt").write_text("two\t0\tone\t1\t60\t9M\t*\t0\t0\t*\t*\n")
    write_pairs(folder, genome, rng)
    return folder


def write_pairs(folder: Path, genome: str, rng: random.Random) -> None:
    complement = str.maketrans("ACGT", "TGCA")
    with gzip.open(folder / "1.fq.gz", "wt") as one, gzip.open(folder / "2.fq.gz", "wt") as two:
        for number in range(3000):
            length = rng.choice((150, 150, 150, 36, 1, 700))
            start = rng.randrange(len(genome) - 1500)
            fragment = genome[start : start + max(length, rng.randrange(200, 600))]
            reads = [fragment[:length], fragment[::-1].translate(complement)[:length]]
            if number % 7 == 0:  # one mate is of no genome
                reads[number % 2] = "".join(rng.choices("ACGTN", k=length))
            if number % 97 == 0:  # both are, or one is empty
                reads = ["N" * length, "" if number % 2 else "ACGT"]
            if number % 31 == 0:  # a chimera
                reads[0] += genome[-start - 80 : -start]
            for file, read in zip((one, two), reads, strict=True):
                quality = "".join(rng.choices("#-7BF", k=len(read)))
                file.write(f"@pair{number}/{1 if file is one else 2}\n{read}\n+\n{quality}\n")


@pytest.fixture
def align(tmp_path: Path, sample: Path) -> Align:
    """Run the program on `sample`, with more options."""

    def run(
        *options: str, lanes: int = 1, index: str = "indexed"
    ) -> subprocess.CompletedProcess[bytes]:
        words = [sys.executable, "-P", "-m", "wesemu.genomics.align"]
        words += ["--reference", str(sample / index / "genome.fa")]
        for _ in range(lanes):
            words += ["--reads", str(sample / "1.fq.gz"), str(sample / "2.fq.gz")]
            words += ["--read-group", GROUP]
        words += ["--counts", str(tmp_path / "c.json"), "--error", str(tmp_path / "e.json")]
        done = subprocess.run([*words, *options], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done

    return run


def records(alignments: bytes, *steps: str) -> list[bytes]:
    """The alignment lines of SAM or BAM, after `steps` of samtools."""
    for step in (*steps, "view --no-PG -"):
        command = [*wheel_command("samtools"), *step.split()]
        alignments = subprocess.run(
            command, input=alignments, capture_output=True, check=True
        ).stdout
    return alignments.splitlines()


@pytest.mark.native
@pytest.mark.parametrize("index", ["indexed", "alternate"])
def test_the_records_are_those_of_native_bwa(align, index):
    if shutil.which("bwa") is None:
        pytest.skip("no bwa on PATH")
    ours, theirs = (align(*way, index=index) for way in (["--bwa-mem3"], ["--bwa", "bwa"]))
    found = records(ours.stdout)
    assert len(found) > 6000
    assert any(b"\tpa:f:" in record for record in found) == (index == "alternate")
    assert found == records(theirs.stdout)
    fixmate = "fixmate --no-PG -m -u - -"
    assert records(ours.stdout, fixmate) == records(theirs.stdout, fixmate)


def test_the_threads_do_not_matter(align, sample, monkeypatch):
    lanes = {"lanes": 2}
    one, three = (align("--bwa-mem3", "--threads", n, **lanes).stdout for n in ("1", "3"))
    assert one == three
    assert one.endswith(END)
    header, _, _ = gzip.decompress(one)[8:].partition(b"\0")
    assert b"@PG\tID:bwa-mem3\tPN:bwa-mem3\tVN:0.4.4\tCL:bwa-mem3 mem -K 10000000 -Y\n" in header


def test_batches_are_cut_as_the_reader_of_pairs_cuts_them(sample, monkeypatch):
    monkeypatch.setattr(mapper_wheel, "BATCH_BASES", 50_000)
    files = str(sample / "1.fq.gz"), str(sample / "2.fq.gz")
    with PairedReader(*files) as reader:
        ours = [len(pairs) for pairs in mapper_wheel.read_pairs(reader)]
    with PairedReader(*files, batch_bases=50_000) as reader:
        theirs = [len(batch.names) for batch in reader]
    assert len(ours) > 5
    assert ours == theirs


@pytest.mark.native
@pytest.mark.parametrize("source", ["diploid", "hg002_chr20_10mb"])
def test_every_batch_is_mapped_as_a_bwa_of_its_own_maps_it(source, request, tmp_path, monkeypatch):
    if shutil.which("bwa") is None:
        pytest.skip("no bwa on PATH")
    folder = Path(__file__).parents[3] / "testdata" / source
    if not folder.is_dir():
        folder = request.getfixturevalue("shared_data") / source
    fasta = ReferenceStore(tmp_path / "r", tmp_path / "c").ready(
        folder / "reference.fa", "bwa-mem3"
    )
    files = [str(folder / f"reads_{mate}.fq.gz") for mate in (1, 2)]
    lane = Lane(files[0], files[1], "@RG\tID:a\tSM:s")
    contigs = read_contigs(str(fasta))
    monkeypatch.setattr(mapper_wheel, "BATCH_BASES", 700_000)
    with (tmp_path / "ours.bam").open("wb") as output, PairedReader(*files) as reader:
        mapper = mapper_wheel.Mem3Mapper(
            str(fasta),
            threads=2,
            header=lambda version: header_text(contigs, [lane], []),
            contigs=contigs,
            output=output,
        )
        mapper.map(lane, reader)
        mapper.close()
    theirs = list[bytes]()
    with PairedReader(*files, batch_bases=700_000) as reader:
        for batch in reader:
            for mate in (0, 1):
                (tmp_path / f"{mate}.fq").write_bytes(batch.fastq(mate))
            command = ["bwa", "mem", "-Y", "-R", "@RG\\tID:a\\tSM:s", str(fasta), "0.fq", "1.fq"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
            theirs += records(done.stdout)
    assert records((tmp_path / "ours.bam").read_bytes()) == theirs


def test_the_replacement_of_bwa_is_reported(align):
    done = align("--bwa-mem3", "--note", "It maps in place of bwa.")
    assert b"\tDS:It maps in place of bwa.\n" in gzip.decompress(done.stdout)
    assert b"align: It maps in place of bwa.\n" in done.stderr


def test_a_record_with_other_tags_is_not_passed_on():
    record = bytearray(60)
    record[0], record[12] = 56, 1
    with pytest.raises(mapper_wheel.MapperFailed, match="unknown tags"):
        as_bwa(bytes(record))


def naive_index(sequence: str) -> bytes:
    """The file of `mem3_index`, from a suffix array made by sorting."""
    complement = sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    text = sequence + complement
    suffixes = sorted(range(len(text) + 1), key=lambda start: text[start:])
    rows = [text[start - 1] if start else "$" for start in suffixes]
    data = len(rows).to_bytes(8, "little")
    data += b"".join(
        sum(letter < other for letter in text).to_bytes(8, "little") for other in "ACGTU"
    )
    for block in range(len(rows) // 64 + 1):
        before, these = rows[: 64 * block], rows[64 * block : 64 * block + 64]
        data += b"".join(before.count(letter).to_bytes(8, "little") for letter in "ACGT")
        for letter in "ACGT":
            bits = "".join("01"[other == letter] for other in these).ljust(64, "0")
            data += int(bits, 2).to_bytes(8, "little")
    entries = suffixes[::8]
    entries += [0] * (len(rows) // 8 + 1 - len(entries))
    data += bytes(entry >> 32 for entry in entries)
    data += b"".join((entry & 0xFFFFFFFF).to_bytes(4, "little") for entry in entries)
    return data + rows.index("$").to_bytes(8, "little")


@pytest.mark.parametrize("length", [1, 31, 32, 63, 64, 95, 500, 1003])
def test_the_index_is_what_sorting_all_suffixes_gives(tmp_path, length, monkeypatch):
    monkeypatch.setattr(fm_index, "_CHUNK_ROWS", 128)
    sequence = "".join(random.Random(length).choices("ACGT", k=length))
    fasta = tmp_path / "small.fa"
    fasta.write_text(f">a\n{sequence}\n")
    command = [*wheel_command("bwa"), "index", str(fasta)]
    subprocess.run(command, check=True, capture_output=True)
    fm_index.write_index(str(fasta))
    assert Path(f"{fasta}.bwt.2bit.64").read_bytes() == naive_index(sequence)
    (tmp_path / "small.fa.fai").write_text(f"a\t{length}\t3\t{length}\t{length + 1}\n")
    assert index_fault(str(fasta), "bwa-mem3") is None


def test_a_transform_of_another_reference_is_refused(tmp_path):
    for name, sequence in (("a", "ACGTTGCA" * 9), ("b", "ACGTTGCA" * 8)):
        (tmp_path / f"{name}.fa").write_text(f">a\n{sequence}\n")
        command = [*wheel_command("bwa"), "index", str(tmp_path / f"{name}.fa")]
        subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "b.fa.bwt").replace(tmp_path / "a.fa.bwt")
    command = [*wheel_command("bwa-mem3"), "index", str(tmp_path / "a.fa")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "a.fa.bwt does not fit" in done.stderr
    assert not (tmp_path / "a.fa.bwt.2bit.64").exists()


def test_only_a_cpu_with_avx2_will_do(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor: 0\nflags\t\t: fpu sse4_2 avx avx2 bmi2\n")
    assert wheel_tools.has_avx2(str(cpuinfo))
    cpuinfo.write_text("processor: 0\nflags\t\t: fpu sse4_2 avx\n")
    assert not wheel_tools.has_avx2(str(cpuinfo))
    assert not wheel_tools.has_avx2(str(tmp_path / "none"))


@pytest.fixture
def no_bwa(monkeypatch):
    """As on a Python that pybwa 1.5.2 has no wheel for."""
    known = tools.wheel_version
    monkeypatch.setattr(
        tools, "wheel_version", lambda name: None if name == "bwa mem" else known(name)
    )


def test_bwa_mem3_maps_where_there_is_no_bwa(no_bwa):
    found = resolve(path=NOWHERE)
    mapper = found.mapper("bwa")
    assert (mapper.name, mapper.source) == ("bwa-mem3", "wheel")
    assert "neither on PATH (at least version 0.7.17) nor in a wheel" in mapper.note
    assert found.indexer("bwa") == mapper
    assert found.indexer("minimap2") == found.bwa
    assert indexer_name("bwa", lambda: resolve(path=NOWHERE)) == "bwa-mem3"
    assert indexer_name("minimap2", resolve) == "bwa"


def test_a_bwa_that_is_there_is_preferred(no_bwa, tmp_path):
    program = tmp_path / "bwa"
    program.write_text("#!/bin/sh\necho Version: 0.7.17\n")
    program.chmod(0o755)
    native = Tool("bwa", (str(program),), "0.7.17", "path")
    assert resolve(path=str(tmp_path)).mapper("bwa") == native
    assert resolve({"bwa": str(program)}, path=NOWHERE).mapper("bwa").source == "settings"
    # with the note of a stand-in only where it is one
    assert resolve(path=str(tmp_path)).mapper("bwa-mem3").note == ""


@pytest.mark.parametrize(
    ("mapper", "advice"), [("bwa", "Install bwa"), ("bwa-mem3", "Choose the mapper bwa")]
)
def test_without_avx2_the_error_says_what_to_install(no_bwa, monkeypatch, mapper, advice):
    monkeypatch.setattr(wheel_tools, "has_avx2", lambda: False)
    monkeypatch.setattr(wheel_tools.os, "uname", lambda: type("Uname", (), {"machine": "x86_64"}))
    with pytest.raises(ToolMissing, match=f"needs a CPU with AVX2.*{advice}"):
        resolve(path=NOWHERE).mapper(mapper)
