"""An index is accepted only if it belongs to the FASTA beside it, whatever its name and time."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.sample_s import SAMPLE_S, fasta

from wesemu.errors import InputError
from wesemu.genomics import fm_index
from wesemu.genomics.bwa_index import SUFFIXES_OF
from wesemu.genomics.reference_records import ReferenceRecords, index_mismatch
from wesemu.genomics.simulate.genome import RandomSource

CONTIGS = dict(SAMPLE_S.contigs)
HOLES = {
    "c1": CONTIGS["c1"][:99] + "NNNNNnnRRy" + CONTIGS["c1"][109:-3] + "NNN",
    "c2": "NN" + CONTIGS["c2"][2:].lower(),
}
SUFFIXES = (".fai", *SUFFIXES_OF["bwa"])


def wheel(tool: str, *words: str) -> None:
    command = [sys.executable, "-P", "-m", "wesemu.genomics.wheel_tools", tool, *words]
    subprocess.run(command, check=True, capture_output=True)


def indexed(path: Path, text: str) -> Path:
    path.write_text(text, newline="")
    wheel("samtools", "faidx", str(path))
    wheel("bwa", "index", str(path))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed(tmp_path_factory.mktemp("made") / "ref.fa", fasta(CONTIGS))


def beside(made: Path, path: Path, text: str) -> Path:
    """Another FASTA, with the index of the one that was made; both as old as each other."""
    path.write_text(text, newline="")
    for suffix in SUFFIXES:
        shutil.copyfile(f"{made}{suffix}", f"{path}{suffix}")
    for suffix in ("", *SUFFIXES):
        os.utime(f"{path}{suffix}", (1_577_836_800, 1_577_836_800))
    return path


def write_mem2_index(path: Path, contigs: Mapping[str, str]) -> None:
    """.0123 and .bwt.2bit.64 as bwa-mem2 writes them, by plain sorting."""
    forward = "".join(contigs.values()).upper()
    codes = bytes("ACGT".index(base) for base in forward)
    text = codes + bytes(3 - code for code in reversed(codes))
    Path(f"{path}.0123").write_bytes(text)
    order = sorted(range(len(text) + 1), key=lambda place: text[place:])
    before = [text[place - 1] if place else 4 for place in order]
    rows = len(order)
    counts = [sum(code < base for code in text) for base in range(5)]
    data = struct.pack("<6q", rows, *counts)
    for start in range(0, (rows // 64 + 1) * 64, 64):
        block = before[start : start + 64]
        data += struct.pack("<4q", *(before[:start].count(base) for base in range(4)))
        bits = ["".join("01"[code == base] for code in block).ljust(64, "0") for base in range(4)]
        data += struct.pack("<4Q", *(int(row, 2) for row in bits))
    places = order[::8] + [0] * (rows // 8 + 1 - len(order[::8]))
    data += bytes(place >> 32 for place in places)
    data += struct.pack(f"<{len(places)}I", *places)
    data += struct.pack("<q", before.index(4))
    Path(f"{path}.bwt.2bit.64").write_bytes(data)


def test_an_index_that_was_made_of_the_fasta_is_proven(made):
    assert index_mismatch(made, "bwa") is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(fasta(HOLES, 70), id="ambiguous bases and soft-masking"),
        pytest.param(fasta(CONTIGS, 6000), id="one line a sequence"),
        pytest.param(fasta(CONTIGS, 1), id="one base a line"),
        pytest.param(fasta(CONTIGS).replace("\n", "\r\n"), id="CRLF"),
        pytest.param(fasta(CONTIGS).rstrip(), id="no last newline"),
        pytest.param(fasta(CONTIGS) + "\n\n", id="blank lines last"),
        pytest.param(fasta(CONTIGS).replace(">c2", "\n>c2 some words"), id="blank line between"),
        pytest.param(">x\nA\n>y\nNN\n", id="hardly any bases"),
    ],
)
def test_usable_forms_are_proven(tmp_path, text):
    assert index_mismatch(indexed(tmp_path / "ref.fa", text), "bwa") is None


def test_a_large_index_is_proven_by_windows(made, monkeypatch):
    monkeypatch.setattr(fm_index, "_WHOLE_ROWS", 10)
    assert index_mismatch(made, "bwa") is None


def changed(contig: str, position: int, table: str) -> dict[str, str]:
    bases = CONTIGS[contig]
    base = bases[position].translate(str.maketrans("ACGT", table))
    return CONTIGS | {contig: bases[:position] + base + bases[position + 1 :]}


FOREIGN = {
    "other line length": fasta(CONTIGS, 70),
    "other line length in one sequence": fasta({"c1": CONTIGS["c1"]})
    + fasta({"c2": CONTIGS["c2"]}, 50),
    "one base changed": fasta(changed("c1", 3000, "CAAC")),
    "one base changed to its complement": fasta(changed("c2", 3999, "TGCA")),
    "first base changed": fasta(changed("c1", 0, "CAAC")),
    "one base made N": fasta(changed("c1", 1000, "NNNN")),
    "renamed": fasta({"chr1": CONTIGS["c1"], "chr2": CONTIGS["c2"]}),
    "renamed with equal lengths": fasta({"k1": CONTIGS["c1"], "k2": CONTIGS["c2"]}),
    "reordered": fasta({"c2": CONTIGS["c2"], "c1": CONTIGS["c1"]}),
    "subset": fasta({"c1": CONTIGS["c1"]}),
    "superset": fasta(CONTIGS | {"c3": "ACGTACGT"}),
    "longer": fasta(CONTIGS | {"c2": CONTIGS["c2"] + "A"}),
    "shorter": fasta(CONTIGS | {"c2": CONTIGS["c2"][:-1]}),
    "other bases": fasta(
        {"c1": RandomSource(9, 9).bases(6000), "c2": RandomSource(9, 8).bases(4000)}
    ),
    "a letter that is not a base": fasta(CONTIGS | {"c1": "-" + CONTIGS["c1"][1:]}),
    "RNA": fasta({name: bases.replace("T", "U") for name, bases in CONTIGS.items()}),
    "CRLF": fasta(CONTIGS).replace("\n", "\r\n"),
    "leading blank line": "\n" + fasta(CONTIGS),
    "longer description": fasta(CONTIGS).replace(">c1", ">c1 x"),
    "a blank in a line": fasta(CONTIGS).replace(CONTIGS["c1"][:60], CONTIGS["c1"][:59] + " "),
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_an_index_of_another_fasta_is_not_used(made, tmp_path, text):
    fault = index_mismatch(beside(made, tmp_path / "ref.fa", text), "bwa")
    assert fault is not None
    assert str(tmp_path) not in fault


@pytest.mark.parametrize("text", [FOREIGN["one base changed to its complement"]])
@pytest.mark.parametrize("suffixes", [(".bwt",), (".sa",), (".bwt", ".sa"), (".pac",), (".amb",)])
def test_files_of_two_indexes_are_not_mixed(made, tmp_path, text, suffixes):
    other = indexed(tmp_path / "other.fa", text)
    mixed = beside(made, tmp_path / "mixed.fa", made.read_text())
    for suffix in suffixes:
        shutil.copyfile(f"{other}{suffix}", f"{mixed}{suffix}")
    expected_alike = all(
        Path(f"{other}{suffix}").read_bytes() == Path(f"{made}{suffix}").read_bytes()
        for suffix in suffixes
    )
    assert (index_mismatch(mixed, "bwa") is None) == expected_alike


def test_the_transform_of_other_bases_is_found_by_windows(made, tmp_path, monkeypatch):
    monkeypatch.setattr(fm_index, "_WHOLE_ROWS", 10)
    # as many of each base, and as many rows
    other = {name: bases[::-1] for name, bases in CONTIGS.items()}
    indexed(tmp_path / "other.fa", fasta(other))
    mixed = beside(made, tmp_path / "mixed.fa", made.read_text())
    for suffix in (".bwt", ".sa"):
        shutil.copyfile(f"{tmp_path}/other.fa{suffix}", f"{mixed}{suffix}")
    assert index_mismatch(mixed, "bwa") == "mixed.fa.bwt is not of the same sequences as the .pac"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0, 8, -1])
def test_cut_files_are_not_used(made, tmp_path, suffix, keep):
    path = beside(made, tmp_path / "ref.fa", made.read_text())
    index = Path(f"{path}{suffix}")
    whole = index.read_bytes()
    index.write_bytes(whole[:keep])
    # .amb says nothing but numbers here
    if index.read_bytes().split() != whole.split():
        assert index_mismatch(path, "bwa") is not None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_not_used(made, tmp_path, suffix):
    path = beside(made, tmp_path / "ref.fa", made.read_text())
    index = Path(f"{path}{suffix}")
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 0x10
    index.write_bytes(data)
    assert index_mismatch(path, "bwa") is not None


@pytest.mark.parametrize("indexer", ["bwa-mem2", "bwa-mem3"])
@pytest.mark.parametrize("whole_rows", [10, 200_000])
def test_the_index_of_bwa_mem2_is_compared(made, tmp_path, indexer, whole_rows, monkeypatch):
    monkeypatch.setattr(fm_index, "_WHOLE_ROWS", whole_rows)
    contigs = {name: bases[:1500] for name, bases in CONTIGS.items()}
    path = indexed(tmp_path / "ref.fa", fasta(contigs))
    write_mem2_index(path, contigs)
    assert index_mismatch(path, indexer) is None
    write_mem2_index(path, {name: bases[::-1] for name, bases in contigs.items()})
    assert index_mismatch(path, indexer) is not None


def refreshed(paths: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files count as old enough to be remembered."""
    monkeypatch.setattr("wesemu.genomics.reference_records._TICK_NS", 0)


def test_a_proof_is_remembered_for_the_files_as_they_are(made, tmp_path, monkeypatch):
    refreshed([made], monkeypatch)
    path = beside(made, tmp_path / "ref.fa", made.read_text())
    records = ReferenceRecords(tmp_path / "records")
    asked = []

    def counting(fasta: Path, indexer: str) -> str | None:
        asked.append(fasta)
        return index_mismatch(fasta, indexer)

    monkeypatch.setattr("wesemu.genomics.reference_records.index_mismatch", counting)
    assert records.index_mismatch(path, "bwa") is records.index_mismatch(path, "bwa") is None
    assert len(asked) == 1
    # of the same size and time, in the same inode
    status = path.stat()
    path.write_text(FOREIGN["one base changed"])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert records.index_mismatch(path, "bwa") is not None
    assert records.index_mismatch(path, "bwa") is not None
    assert len(asked) == 3


def test_a_folder_that_cannot_be_written_costs_time_only(made, tmp_path):
    (tmp_path / "file").write_text("")
    records = ReferenceRecords(tmp_path / "file" / "records")
    assert records.index_mismatch(made, "bwa") is None
    assert records.facts(made).longest == 6000


def test_a_file_that_changes_while_it_is_read_is_refused(made, tmp_path, monkeypatch):
    path = beside(made, tmp_path / "ref.fa", made.read_text())
    records = ReferenceRecords(tmp_path / "records")

    def replacing(fasta: Path, indexer: str) -> None:
        fasta.write_text(FOREIGN["renamed"])

    monkeypatch.setattr("wesemu.genomics.reference_records.index_mismatch", replacing)
    with pytest.raises(InputError, match="was changed while it was read"):
        records.index_mismatch(path, "bwa")


def test_a_hard_link_made_meanwhile_changes_nothing(made, tmp_path, monkeypatch):
    path = beside(made, tmp_path / "ref.fa", made.read_text())
    records = ReferenceRecords(tmp_path / "records")

    def linking(fasta: Path, indexer: str) -> None:
        os.link(fasta, tmp_path / "link.fa")

    monkeypatch.setattr("wesemu.genomics.reference_records.index_mismatch", linking)
    assert records.index_mismatch(path, "bwa") is None
