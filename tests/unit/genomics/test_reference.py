"""The store of references: indexed once, complete, never mixed up."""

import gzip
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from wesemu.engines.lease_queue import Capacity, Ticket
from wesemu.engines.leases import LeaseClient, SystemLeases, declare, list_tickets
from wesemu.errors import Conflict, InputError, InvalidRequest, SystemFault, ToolMissing
from wesemu.genomics.bwa_index import SUFFIXES, index_fault, read_contigs
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.reference_records import index_mismatch
from wesemu.genomics.tools import Tool, Toolset, resolve
from wesemu.genomics.wheel_tools import wheel_command
from wesemu.runs.model import Resources
from wesemu.runs.ports import QueuePriority

SEQUENCE = "ACGTTGCATTAGCAGGACTTNACCATTGACG" * 20


class CountingTools:
    """The real tools, with a bwa that maps; counts the builds, which ask for an indexer."""

    def __init__(self) -> None:
        self.builds = 0
        self.settings: dict[str, str] = {}

    def __call__(self, more: Collection[str] = ()) -> Toolset:
        self.builds += bool(more)
        bwa = {"bwa": shlex.join(wheel_command("bwa"))}
        return resolve(bwa | self.settings, path="/nonexistent", more=more)


@pytest.fixture
def tools() -> CountingTools:
    return CountingTools()


@pytest.fixture
def store(tmp_path: Path, tools: CountingTools) -> ReferenceStore:
    return ReferenceStore(tmp_path / "references", tmp_path / "cache", tools=tools)


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "mine.fa"
    path.write_text(f">chr1 first\n{SEQUENCE}\n>chr2\n{SEQUENCE[::-1]}\n")
    return path


def test_the_fasta_of_a_reference_may_have_a_name_in_capitals(
    store: ReferenceStore, tmp_path: Path
) -> None:
    folder = tmp_path / "references" / "hg19"
    folder.mkdir(parents=True)
    (folder / "HG19.FASTA").touch()
    assert store.find("hg19") == folder / "HG19.FASTA"


def test_a_registered_reference_is_found_by_name_and_alias(store, fasta):
    path = store.add("HS37d5", fasta)
    assert store.names() == ["hs37d5"]
    assert store.find("hs37d5") == store.find("HG19") == path
    assert store.find("hg38") is None
    assert index_fault(str(path)) is None
    assert [(contig.name, contig.length) for contig in read_contigs(str(path))] == [
        ("chr1", len(SEQUENCE)),
        ("chr2", len(SEQUENCE)),
    ]


def test_a_registered_reference_is_ready_as_it_is(store, fasta, tools):
    path = store.add("mine", fasta)
    assert store.ready(path) == path
    assert tools.builds == 1


def test_gzip_is_unpacked(store, fasta, tmp_path):
    packed = tmp_path / "mine.fa.gz"
    packed.write_bytes(gzip.compress(fasta.read_bytes()))
    assert store.add("mine", packed).read_bytes() == fasta.read_bytes()


def test_the_same_sequences_are_indexed_once(store, fasta, tmp_path, tools):
    packed = tmp_path / "copy.fa.gz"
    packed.write_bytes(gzip.compress(fasta.read_bytes()))
    assert store.ready(fasta) == store.ready(packed)
    assert tools.builds == 1


def test_two_at_once_index_once(store, fasta, tools):
    ready: list[Path] = []
    threads = [threading.Thread(target=lambda: ready.append(store.ready(fasta))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ready)) == 1
    assert len(ready) == 3
    assert tools.builds == 1


def test_changed_sequences_are_another_reference(store, fasta):
    before = store.ready(fasta)
    fasta.write_text(fasta.read_text().replace("ACGTT", "ACGTA"))
    assert store.ready(fasta) != before


@pytest.mark.parametrize("suffix", [".bwt", ".sa", ".pac", ".ann", ".fai"])
def test_a_half_built_index_is_built_again(store, fasta, suffix, tools):
    path = store.ready(fasta)
    index = Path(f"{path}{suffix}")
    index.write_bytes(index.read_bytes()[:-9])
    assert index_fault(str(path)) is not None
    assert store.ready(fasta) == path
    assert index_fault(str(path)) is None
    assert tools.builds == 2


def test_an_index_older_than_its_fasta_is_not_used(store, fasta):
    path = store.add("mine", fasta)
    path.write_text(path.read_text().replace("ACGTT", "ACGTA"))
    later = path.stat().st_mtime + 5
    os.utime(path, (later, later))
    assert store.ready(path) != path


def test_an_index_of_other_sequences_with_a_later_date_is_not_used(store, fasta):
    path = store.add("mine", fasta)
    path.write_text(path.read_text().replace("ACGTT", "ACGTA"))
    for suffix in (".fai", *SUFFIXES):
        os.utime(f"{path}{suffix}")
    assert store.ready(path) != path


def test_a_folder_put_there_by_hand_counts(store, fasta, tmp_path):
    folder = tmp_path / "references" / "yeast"
    folder.mkdir(parents=True)
    (folder / "R64.fa").write_bytes(fasta.read_bytes())
    assert store.names() == ["yeast"]
    ready = store.ready(store.find("yeast"))
    assert ready.read_bytes() == fasta.read_bytes()


def test_adding_again_changes_nothing_and_other_sequences_are_a_conflict(store, fasta, tools):
    path = store.add("mine", fasta)
    assert store.add("mine", fasta) == path
    assert tools.builds == 1
    fasta.write_text(">other\nACGT\n")
    with pytest.raises(Conflict, match="exists already"):
        store.add("mine", fasta)


def test_files_that_lie_in_a_references_folder_stay(store, fasta, tmp_path):
    folder = tmp_path / "references" / "mine"
    (folder / "known").mkdir(parents=True)
    for name in ("dbsnp.vcf.gz", "known/sites.vcf", "genome.fa.bwt"):
        (folder / name).write_text("mine")
    target = store.add("mine", fasta)
    assert store.ready(target) == target
    assert (folder / "dbsnp.vcf.gz").read_text() == "mine"
    assert (folder / "known" / "sites.vcf").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "a b", "x" * 65])
def test_unsafe_names_are_refused(store, fasta, name):
    with pytest.raises(InvalidRequest) as caught:
        store.add(name, fasta)
    assert caught.value.field == "name"
    assert store.find(name) is None


@pytest.mark.parametrize("name", ["a,b", "a(b)", "it's", 'a"b', "a<b>", "{a}", "*a", "=a", "a\\b"])
def test_contig_names_that_end_in_an_empty_vcf_are_refused(store, fasta, name):
    fasta.write_text(f">{name}\n{SEQUENCE}\n")
    with pytest.raises(InputError, match="not allowed in SAM") as caught:
        store.ready(fasta)
    assert caught.value.file == str(fasta)


@pytest.mark.parametrize("name", ["gi|12|ref|NC_1.1|", "HLA-A*01:01:01:01", "chr1:1-10"])
def test_odd_contig_names_that_work_are_accepted(store, fasta, name):
    fasta.write_text(f">{name}\n{SEQUENCE}\n")
    assert read_contigs(str(store.ready(fasta)))[0].name == name


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ("", "empty"),
        ("<html>", "HTML"),
        ("@r\nA\n+\nI\n", "text in another format"),
        (">a\nACGT\n>a\nACGT\n", r"two sequences are named 'a' \(numbers 1 and 2\)"),
        (">a\nAC-T\n", "'-' at position 3"),
    ],
)
def test_what_is_no_fasta_is_refused(store, fasta, contents, words, tmp_path):
    fasta.write_text(contents)
    with pytest.raises(InputError, match=words):
        store.add("mine", fasta)
    assert store.names() == []
    assert [path.name for path in (tmp_path / "references").glob(".build-*")] == []


def test_damaged_gzip_is_refused(store, tmp_path):
    packed = tmp_path / "cut.fa.gz"
    packed.write_bytes(gzip.compress(b">a\n" + SEQUENCE.encode() * 50)[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        store.ready(packed)


def test_a_missing_file_is_reported(store, tmp_path):
    with pytest.raises(InputError, match="cannot be opened"):
        store.ready(tmp_path / "none.fa")


def test_a_closed_store_builds_nothing(store, fasta):
    store.close()
    with pytest.raises(SystemFault, match="shutting down"):
        store.ready(fasta)


def test_an_indexer_that_starts_while_the_store_closes_is_killed(tmp_path, fasta):
    @contextmanager
    def lease(wanted: Resources, needed: Callable[[], bool]):
        store.close()
        yield ()

    sleeping = (sys.executable, "-c", "import time; time.sleep(60)")
    samtools = Tool("samtools", sleeping, "1.20", "settings")
    store = ReferenceStore(
        tmp_path / "references",
        tmp_path / "cache",
        tools=lambda more=(): replace(resolve({}), samtools=samtools),
        lease=lease,
    )
    with pytest.raises(SystemFault, match="killed by signal 9"):
        store.ready(fasta)


STAND_IN = f"{sys.executable} {Path(__file__).parents[2]}/pipelines/stand_ins/bwa_mem2.py"


def test_another_mappers_index_comes_beside_the_first(store, fasta, tools, tmp_path):
    path = store.add("mine", fasta)
    bwt = Path(f"{path}.bwt").stat()
    assert index_fault(str(path), "bwa-mem2") is not None
    tools.settings = {"bwa-mem2": STAND_IN}
    assert store.add("mine", fasta, "bwa-mem2") == path
    assert index_fault(str(path), "bwa-mem2") is None
    assert Path(f"{path}.bwt").stat() == bwt
    assert store.ready(path, "bwa-mem2") == store.ready(path) == path
    assert tools.builds == 2
    Path(f"{path}.0123").write_bytes(b"cut")
    store.add("mine", fasta, "bwa-mem2")
    assert index_fault(str(path), "bwa-mem2") is None
    assert list((tmp_path / "references").glob(".build-*")) == []


@pytest.mark.parametrize("suffix", [".0123", ".bwt.2bit.64"])
def test_a_cut_index_of_bwa_mem2_is_built_again(store, fasta, suffix, tools):
    tools.settings = {"bwa-mem2": STAND_IN}
    path = store.ready(fasta, "bwa-mem2")
    index = Path(f"{path}{suffix}")
    index.write_bytes(index.read_bytes()[:-9])
    assert index_mismatch(path, "bwa-mem2") is not None
    assert store.ready(fasta, "bwa-mem2") == path
    assert index_mismatch(path, "bwa-mem2") is None


def test_a_mapper_that_is_not_there_is_reported(store, fasta):
    with pytest.raises(ToolMissing, match=r"bwa-mem2 .*at least version 2\.2.*bioconda"):
        store.ready(fasta, "bwa-mem2")


def test_the_hash_lies_beside_the_reference(store, fasta):
    path = store.ready(fasta)
    stamp = json.loads((path.parent / "genome.json").read_text())
    assert stamp == {"sha256": path.parent.name, "bytes": fasta.stat().st_size}


@pytest.fixture
def leases(tmp_path: Path) -> Path:
    """Of a node with two cores."""
    declare(tmp_path / "leases", Capacity(cores=2, memory_mb=1000))
    return tmp_path / "leases"


@pytest.fixture
def leasing(tmp_path: Path, leases: Path) -> ReferenceStore:
    """A store whose indexers are waiting, as a run has the whole node."""
    return ReferenceStore(
        tmp_path / "references", tmp_path / "cache", lease=SystemLeases(leases).lease
    )


def waiting(leases: Path) -> list[Ticket]:
    return [ticket for ticket in list_tickets(leases) if not ticket.held]


def look_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_indexing_waits_for_its_share_of_the_node(leasing, leases, fasta):
    run = LeaseClient(QueuePriority(leases, rank=2, age=1)).take(Resources(cores=2))
    with ThreadPoolExecutor(1) as thread:
        built = thread.submit(leasing.ready, fasta)
        look_until(lambda: waiting(leases))
        assert [ticket.cores for ticket in waiting(leases)] == [1]
        run.release()
        assert index_fault(str(built.result(60))) is None
    assert list_tickets(leases) == []


def test_index_takes_memory_by_the_size_of_the_genome(leases, tmp_path, fasta):
    asked: list[Resources] = []

    def lease(wanted: Resources, needed: Callable[[], bool]):
        asked.append(wanted)
        return SystemLeases(leases).lease(wanted, needed)

    with fasta.open("a") as file:
        file.write(f">chr3\n{SEQUENCE * 400}\n")
    store = ReferenceStore(tmp_path / "references", tmp_path / "cache", lease=lease)
    store.ready(fasta, "minimap2")  # which has bwa's
    store.ready(fasta, "bwa-mem3")
    one = Resources(cores=1)
    assert asked == [one, replace(one, memory_mb=3), one, replace(one, memory_mb=287)]


def test_indexing_that_waits_is_given_up_when_the_store_closes(leasing, leases, fasta):
    run = LeaseClient(QueuePriority(leases, rank=2, age=1)).take(Resources(cores=2))
    with ThreadPoolExecutor(1) as thread:
        built = thread.submit(leasing.ready, fasta)
        look_until(lambda: waiting(leases))
        leasing.close()
        with pytest.raises(SystemFault, match="canceled while it waited"):
            built.result(60)
    assert waiting(leases) == []
    run.release()
