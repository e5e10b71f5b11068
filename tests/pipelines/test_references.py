"""Files beside a FASTA do not change the result: nine SNPs of nine, or a refusal."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.sample_s import SAMPLE_S, called, fasta

from wesemu.genomics.bwa_index import SUFFIXES, SUFFIXES_OF
from wesemu.genomics.wheel_tools import bwa_mem3_fault

LONG_AGO = (1_577_836_800, 1_577_836_800)


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return SAMPLE_S.write_reads(tmp_path_factory.mktemp("reads"))


@pytest.fixture
def sample(reads) -> Callable[[Path], dict[str, object]]:
    def configure(reference: Path) -> dict[str, object]:
        lane = {"first": str(reads[0]), "second": str(reads[1])}
        return {"reads": [lane], "reference": str(reference)}

    return configure


def index(path: Path) -> None:
    """For bwa, and for bwa-mem3, which maps in its place where there is no bwa."""
    for words in (["samtools", "faidx"], ["bwa", "index"], ["bwa-mem3", "index"]):
        command = [sys.executable, "-P", "-m", "wesemu.genomics.wheel_tools", *words, str(path)]
        subprocess.run(command, check=True, capture_output=True)


def test_an_index_of_other_lines_beside_an_older_fasta_is_not_used(workflow, sample, tmp_path):
    reference = SAMPLE_S.write_reference(tmp_path / "ref.fa", width=60)
    index(reference)
    SAMPLE_S.write_reference(reference, width=70)
    os.utime(reference, LONG_AGO)
    run = workflow("wgs")
    assert called(run.succeed(sample(reference)) / "calls.vcf.gz") == SAMPLE_S.sites
    log = run.read("logs/reference.log")
    assert "indexing the reference for this run: ref.fa.fai has another line length" in log


def test_an_index_of_other_bases_beside_an_older_fasta_is_not_used(workflow, sample, tmp_path):
    reference = tmp_path / "ref.fa"
    reference.write_text(fasta({name: bases[::-1] for name, bases in SAMPLE_S.contigs.items()}))
    index(reference)
    SAMPLE_S.write_reference(reference)
    os.utime(reference, LONG_AGO)
    results = workflow("wgs").succeed(sample(reference))
    assert called(results / "calls.vcf.gz") == SAMPLE_S.sites


def test_an_index_of_the_fasta_is_used_whatever_its_date(workflow, sample, tmp_path):
    reference = SAMPLE_S.write_reference(tmp_path / "ref.fa")
    index(reference)
    for suffix in (".fai", *SUFFIXES, *SUFFIXES_OF["bwa-mem3"]):
        os.utime(f"{reference}{suffix}", LONG_AGO)
    link = tmp_path / "elsewhere" / "link.fa"
    link.parent.mkdir()
    link.symlink_to(reference)
    run = workflow("wgs")
    assert called(run.succeed(sample(link)) / "calls.vcf.gz") == SAMPLE_S.sites
    assert (run.directory / "resources" / "genome.fa.pac").resolve() == Path(f"{reference}.pac")


@pytest.mark.parametrize(
    ("suffix", "mapper"),
    [
        (".alt", "bwa"),
        (".64.alt", "bwa"),
        (".alt", "bwa-mem3"),
    ],
)
def test_alt_contigs_are_used(workflow, sample, tmp_path, suffix, mapper):
    if mapper == "bwa-mem3" and (fault := bwa_mem3_fault()):
        pytest.skip(fault)
    reference = SAMPLE_S.write_reference(tmp_path / "ref.fa", alternate=True)
    Path(f"{reference}.alt").rename(f"{reference}{suffix}")
    results = workflow("wgs").succeed(sample(reference) | {"mapper": mapper})
    assert called(results / "calls.vcf.gz") == SAMPLE_S.sites
    assert "\tAH:*" in samtools_header(results / "aligned.bam")
    assert json.loads((results / "summary.json").read_text())["warnings"] == []


def samtools_header(bam: Path) -> str:
    command = [
        sys.executable,
        "-P",
        "-m",
        "wesemu.genomics.wheel_tools",
        "samtools",
        "head",
        str(bam),
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_without_the_list_the_variant_that_alt_contigs_hide_is_lost(workflow, sample, tmp_path):
    reference = SAMPLE_S.write_reference(tmp_path / "ref.fa", alternate=True)
    Path(f"{reference}.alt").unlink()
    results = workflow("wgs").succeed(sample(reference))
    assert ("c1", 2500) not in called(results / "calls.vcf.gz")
    (warning,) = json.loads((results / "summary.json").read_text())["warnings"]
    assert "has ALT contigs (1, such as c1_alt) without a list" in warning


def test_the_list_of_another_reference_is_refused(workflow, sample, tmp_path):
    reference = SAMPLE_S.write_reference(tmp_path / "ref.fa")
    Path(f"{reference}.alt").write_text("chr1_KI270706v1_random\t0\tchr1\n")
    run = workflow("mapping")
    assert run.run(sample(reference)).returncode != 0
    fault = json.loads(run.read("input_error.json"))
    assert fault["file"] == f"{reference}.alt"
    assert "none of them is in" in fault["message"]


def odd_lines(text: str) -> bytes:
    ends = text.replace("ACG", "A\nCG", 5).replace("c1\n", "c1 \n\n\n", 1).replace("\n", "\r\n")
    return b"\xef\xbb\xbf" + ends.encode()


def bytes_after_gzip(text: str) -> bytes:
    return gzip.compress(text.encode()) + b"\1RAZF index"


@pytest.mark.parametrize("form", [odd_lines, bytes_after_gzip])
def test_unusual_forms_of_fasta_give_the_same_variants(workflow, sample, tmp_path, form):
    """More of them: tests/unit/genomics/test_fasta.py."""
    reference = tmp_path / "ref.fa.gz"
    reference.write_bytes(form(fasta(SAMPLE_S.contigs)))
    results = workflow("wgs").succeed(sample(reference))
    assert called(results / "calls.vcf.gz") == SAMPLE_S.sites


@pytest.mark.parametrize("indexed", [False, True])
def test_letters_that_are_no_bases_are_refused(workflow, sample, tmp_path, indexed):
    contigs = SAMPLE_S.contigs
    reference = tmp_path / "ref.fa"
    reference.write_text(fasta({**contigs, "c2": contigs["c2"][:99] + "-" + contigs["c2"][100:]}))
    if indexed:
        index(reference)
    run = workflow("wgs")
    assert run.run(sample(reference)).returncode != 0
    fault = json.loads(run.read("input_error.json"))
    assert "'c2' (number 2) has '-' at position 100" in fault["message"]
    assert (fault["file"], fault["record"]) == (str(reference), 2)
    assert not (run.directory / "results").exists()


def test_a_reference_that_is_replaced_during_the_run_ends_it(workflow, sample, tmp_path):
    reference = SAMPLE_S.write_reference(tmp_path / "ref.fa")
    index(reference)
    other = tmp_path / "other.fa"
    other.write_text(fasta({name: bases[::-1] for name, bases in SAMPLE_S.contigs.items()}))
    os.utime(other, LONG_AGO)
    run = workflow("wgs")
    assert run.run(sample(reference), "--until", "map").returncode == 0
    shutil.copy2(other, reference)
    again = run.run(sample(reference), "--rerun-triggers", "mtime")
    assert again.returncode != 0
    fault = json.loads(run.read("input_error.json"))
    assert fault["message"].startswith(f"{reference} was replaced while this run used it")
    assert not (run.directory / "results" / "summary.json").exists()
    # by its own triggers Snakemake begins anew
    run.run(sample(reference), "--until", "prepare_reference")
    assert (run.directory / "resources" / "genome.fa").read_text() == other.read_text()
