"""Bad input that mappers accept is refused, with either mapper.

Each input was first given to the tools by hand: `bwa mem | samtools fixmate | sort | markdup`
without pipefail. It always ended with status 0 and a BAM that looks right.
"""

import gzip
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pysam
import pytest
import yaml

from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.wheel_tools import wheel_version

PAIRS = 400
Mates = tuple[bytes, bytes]


class Mapped(NamedTuple):
    """How one call of the aligner ended; `first` and `second` are the files' paths."""

    status: int
    error: dict[str, Any] | None
    counts: dict[str, Any] | None
    first: str
    second: str


Align = Callable[..., Mapped]


@pytest.fixture(scope="module")
def mates(fixture_folder: Path) -> Mates:
    """The text of 400 pairs."""
    first, second = (
        b"".join(
            gzip.decompress((fixture_folder / f"reads_{mate}.fq.gz").read_bytes()).splitlines(
                keepends=True
            )[: 4 * PAIRS]
        )
        for mate in (1, 2)
    )
    return first, second


@pytest.fixture(scope="module")
def indexed(fixture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("indexed")
    store = ReferenceStore(folder / "r", folder / "c")
    return str(store.ready(fixture_folder / "reference.fa", "bwa-mem3"))


@pytest.fixture(params=["wheel", "bwa-mem3", pytest.param("native", marks=pytest.mark.native)])
def align(request: pytest.FixtureRequest, tmp_path: Path, indexed: str) -> Align:
    """Map two files of the given bytes, or only one."""
    mapper = {"wheel": [], "bwa-mem3": ["--bwa-mem3"], "native": ["--bwa", "bwa"]}[request.param]
    if request.param == "native" and not shutil.which("bwa"):
        pytest.skip("no bwa on PATH")
    if request.param == "wheel" and wheel_version("bwa mem") is None:
        pytest.skip("the wheel of bwa does not map on this Python")

    def run(first: bytes, second: bytes | None, *options: str, ending: str = "fq.gz") -> Mapped:
        paths = [tmp_path / f"bad_{mate}.{ending}" for mate in (1, 2)]
        contents = [first] if second is None else [first, second]
        for path, data in zip(paths, contents, strict=False):
            path.write_bytes(data)
        words = [sys.executable, "-P", "-m", "wesemu.genomics.align", "--reference", indexed]
        words += ["--reads", *map(str, paths[: len(contents)]), "--read-group", "@RG\\tID:a"]
        words += ["--counts", str(tmp_path / "counts.json"), "--error", str(tmp_path / "e.json")]
        done = subprocess.run(
            [*words, *mapper, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return Mapped(done.returncode, load("e.json"), load("counts.json"), *map(str, paths))

    def load(name: str) -> dict[str, Any] | None:
        path = tmp_path / name
        return json.loads(path.read_text()) if path.exists() else None

    return run


def records(data: bytes) -> list[list[bytes]]:
    lines = data.splitlines(keepends=True)
    return [lines[start : start + 4] for start in range(0, len(lines), 4)]


def joined(rows: list[list[bytes]]) -> bytes:
    return b"".join(b"".join(row) for row in rows)


def changed(data: bytes, number: int, line: int, change: Callable[[bytes], bytes]) -> bytes:
    """`data` with one line (0 to 3) of record `number` (from 1) changed."""
    rows = records(data)
    rows[number - 1][line] = change(rows[number - 1][line])
    return joined(rows)


def flipped(data: bytes) -> bytes:
    packed = bytearray(gzip.compress(data, mtime=0))
    packed[len(packed) // 2] ^= 8
    return bytes(packed)


def wrong_checksum(data: bytes) -> bytes:
    packed = bytearray(gzip.compress(data, mtime=0))
    packed[-6] ^= 1
    return bytes(packed)


def without(data: bytes, number: int) -> bytes:
    rows = records(data)
    return joined(rows[: number - 1] + rows[number:])


def in_lines(data: bytes) -> bytes:
    """Sequence and quality broken over two lines each, as some old programs write them."""
    rows = records(data)
    for row in rows:
        for place in (1, 3):
            row[place] = row[place][:75] + b"\n" + row[place][75:]
    return joined(rows)


def renamed(data: bytes, ending: bytes) -> bytes:
    rows = records(data)
    for row in rows:
        row[0] = row[0].split()[0].split(b"/")[0] + ending + b"\n"
    return joined(rows)


def long_read(data: bytes) -> bytes:
    bases = bytes(random.Random(1).choices(b"ACGT", k=2_000_000))
    return b"@long\n" + bases + b"\n+\n" + b"I" * len(bases) + b"\n" + data


def phred64(data: bytes) -> bytes:
    rows = records(data)
    for row in rows:
        row[3] = bytes(byte + 31 for byte in row[3][:-1]) + b"\n"
    return joined(rows)


PAGE = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"

# the change of the second file, the record told (None: the file as a whole), words of the message
REFUSED: dict[str, tuple[Callable[[bytes], bytes], int | None, str]] = {
    "a flipped bit": (flipped, -1, "gzip data is damaged"),
    "cut gzip data": (lambda data: gzip.compress(data)[:-3000], -1, "ends too early"),
    "a lost gzip trailer": (lambda data: gzip.compress(data)[:-8], -1, "ends too early"),
    "a wrong checksum": (wrong_checksum, -1, "gzip data is damaged"),
    "fewer reads": (
        lambda data: joined(records(data)[:-3]),
        PAIRS - 2,
        f"has {PAIRS - 3}, {{first}} has {PAIRS}",
    ),
    "a missing mate": (lambda data: without(data, 200), 200, "out of step at record 200"),
    "a cut last record": (lambda data: data[:-200], PAIRS, "cut"),
    "a cut last quality": (lambda data: data[:-20], PAIRS, "length"),
    "FASTA": (lambda data: b">a\nACGT\n" * PAIRS, None, "looks like FASTA"),
    "a wrong separator": (lambda d: changed(d, 9, 2, lambda _: b"-\n"), 9, "'+'"),
    "a shorter quality": (lambda d: changed(d, 150, 3, lambda x: x[1:]), 150, "length"),
    "a longer quality": (lambda d: changed(d, 150, 3, lambda x: b"I" + x), 150, "length"),
    "an HTML page": (lambda data: PAGE, None, "an HTML or XML page"),
    "random bytes": (lambda data: random.Random(2).randbytes(5000), None, "binary data"),
    "a BAM": (lambda data: b"BAM\1" + bytes(100), None, "a BAM file"),
    "zero bytes": (lambda data: b"", 1, "has 0"),
    "not IUPAC": (lambda d: changed(d, 77, 1, lambda x: b"*" + x[1:]), 77, "'*' in the sequence"),
    "a blank in the quality": (lambda d: changed(d, 7, 3, lambda x: b" " + x[1:]), 7, "quality"),
    "names in .1 and .2": (lambda data: renamed(data, b".2"), 1, "use /1 and /2"),
    "several lines": (in_lines, 1, "several lines"),
    "a byte order mark": (lambda data: b"\xef\xbb\xbf" + data, None, "byte order mark"),
    "a blank line": (lambda d: changed(d, 9, 0, lambda x: b"\n" + x), 9, "blank line"),
    "a pair with the name of the one before": (
        lambda d: changed(d, 9, 0, lambda _: d.splitlines(keepends=True)[28]),
        9,
        "out of step",
    ),
    "bytes after the gzip data": (
        lambda data: gzip.compress(data) + b"no gzip",
        PAIRS + 1,
        "bytes that are not gzip follow it",
    ),
    "an endless record": (
        lambda data: gzip.compress(data + b"@" + b"r" * (12 << 20), 1),
        PAIRS + 1,
        "more than 8 MiB",
    ),
    "a name that is not ASCII": (
        lambda d: changed(d, 5, 0, lambda x: "@é".encode() + x[1:]),
        5,
        "out of step",
    ),
    "a read of 2 Mb": (long_read, 1, "2000000 bases"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_reads_are_refused_with_file_and_record(align: Align, mates: Mates, name: str) -> None:
    change, record, words = REFUSED[name]
    first, second = mates
    if name == "a read of 2 Mb":
        first = b"@long\nACGT\n+\nIIII\n" + first
    if name.startswith("names"):
        first = renamed(first, b".1")
    done = align(first, change(second))
    assert done.status == 65
    assert done.counts is None
    assert done.error is not None
    assert done.error["file"] == done.second
    message = done.error["message"]
    assert done.second in message
    assert words.format(first=done.first) in message
    if record == -1:
        assert 0 < done.error["record"] <= PAIRS + 1
    elif record is not None:
        assert done.error["record"] == record
        assert str(record) in message or str(record - 1) in message


def test_no_reads_at_all_are_refused(align: Align) -> None:
    done = align(b"", b"")
    assert done.status == 65
    assert done.error is not None
    assert "no reads" in done.error["message"]


def test_the_same_reads_twice_are_refused(align: Align, mates: Mates) -> None:
    done = align(mates[0], mates[0])
    assert done.status == 65
    assert done.error is not None
    assert "hold the same reads" in done.error["message"]


def test_phred64_is_refused_unless_asked_for(align: Align, mates: Mates) -> None:
    old = phred64(mates[0]), phred64(mates[1])
    done = align(*old)
    assert done.status == 65
    assert done.error is not None
    assert "Phred+64" in done.error["message"]
    assert "quality_offset" in done.error["message"]
    assert align(*old, "--quality-offset", "64").status == 0
    # and what is not Phred+64 is not taken for it
    done = align(*mates, "--quality-offset", "64")
    assert done.error is not None
    assert "is not a quality in Phred+64" in done.error["message"]
    assert done.error["record"] == 1


def test_a_quality_offset_that_was_said_is_believed(align: Align, mates: Mates) -> None:
    """No quality below 26, some above 42: as after filtering, but also as in Phred+64."""
    high = bytes.maketrans(bytes(range(33, 76)), b";" * 42 + b"M")
    first, second = (
        b"".join(
            line.rstrip().translate(high).replace(b";", b"M", 1) + b"\n" if n % 4 == 3 else line
            for n, line in enumerate(data.splitlines(keepends=True))
        )
        for data in mates
    )
    done = align(first, second)
    assert done.error is not None
    assert "or to 33 if they are Phred+33" in done.error["message"]
    assert align(first, second, "--quality-offset", "33").status == 0


ACCEPTED: dict[str, Callable[[Mates], Mates]] = {
    "plain text named .gz": lambda mates: mates,
    "swapped": lambda mates: (mates[1], mates[0]),
    "/1 and /2": lambda mates: (renamed(mates[0], b"/1"), renamed(mates[1], b"/2")),
    "CRLF": lambda mates: (mates[0].replace(b"\n", b"\r\n"), mates[1]),
    "several gzip members": lambda mates: (
        gzip.compress(mates[0][:5000]) + gzip.compress(mates[0][5000:]),
        mates[1],
    ),
    "no last newline": lambda mates: (mates[0][:-1], mates[1]),
    "lower case": lambda mates: (changed(mates[0], 3, 1, bytes.lower), mates[1]),
    "blank lines at the end": lambda mates: (mates[0] + b"\n", mates[1] + b"\r\n\n\n\n\n\n"),
    "separators with another name": lambda mates: (
        mates[0].replace(b"\n+\n", b"\n+other\n"),
        changed(mates[1], 3, 2, lambda _: b"+once\n"),
    ),
    "a comment that is not ASCII": lambda mates: (
        changed(mates[0], 5, 0, lambda x: x[:-1] + " é\n".encode()),
        changed(mates[1], 7, 0, lambda x: x[:-1] + b" \xe9\n"),
    ),
    "zeros after the gzip data": lambda mates: (
        gzip.compress(mates[0]) + bytes(1000),
        gzip.compress(mates[1]) + b"\0",
    ),
    "an empty read": lambda mates: (
        changed(changed(mates[0], 3, 1, lambda _: b"\n"), 3, 3, lambda _: b"\n"),
        mates[1],
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_odd_but_right_reads_are_accepted_whole(align: Align, mates: Mates, name: str) -> None:
    done = align(*ACCEPTED[name](mates))
    assert (done.status, done.error) == (0, None)
    assert done.counts is not None
    assert done.counts["total_reads"] == 2 * PAIRS


class TestInterleaved:
    """Mates that follow each other in one file."""

    def interleave(self, mates: Mates) -> bytes:
        pairs = zip(records(mates[0]), records(mates[1]), strict=True)
        return b"".join(joined([one, two]) for one, two in pairs)

    def test_all_pairs_are_read(self, align: Align, mates: Mates) -> None:
        done = align(gzip.compress(self.interleave(mates)), None)
        assert (done.status, done.error) == (0, None)
        assert done.counts is not None
        assert done.counts["total_reads"] == 2 * PAIRS

    @pytest.mark.parametrize(
        ("missing", "words"), [(2 * PAIRS, "odd number"), (200, "out of step")]
    )
    def test_a_missing_read_is_reported(
        self, align: Align, mates: Mates, missing: int, words: str
    ) -> None:
        done = align(without(self.interleave(mates), missing), None)
        assert done.status == 65
        assert done.error is not None
        assert done.error["file"] == done.first
        assert words in done.error["message"]
        # where the third of two mates stands
        assert done.error["record"] == {2 * PAIRS: 2 * PAIRS - 1, 200: 200}[missing]

    def test_a_bad_record_has_its_number_in_the_file(self, align: Align, mates: Mates) -> None:
        done = align(changed(self.interleave(mates), 33, 1, lambda x: b"!" + x[1:]), None)
        assert done.error is not None
        assert done.error["record"] == 33


def test_the_whole_pipeline_leaves_nothing_behind_a_bad_file(workflow, config, tmp_path) -> None:
    """Through all stages: the mapper's pipe fails as a whole, and no half result stays."""
    lane = dict(config["reads"][0])
    bad = tmp_path / "bad file_2.fq.gz"
    bad.write_bytes(flipped(gzip.decompress(Path(lane["second"]).read_bytes())))
    run = workflow("wgs")
    done = run.run(config | {"reads": [lane | {"second": str(bad)}]})
    assert done.returncode != 0
    error = json.loads(run.read("input_error.json"))
    assert error["file"] == str(bad)
    assert error["record"] > 1
    assert list(run.directory.glob("results/*")) == []
    assert not (run.directory / ".mapping").exists()


def test_a_path_that_is_a_pattern_is_refused(workflow, config, tmp_path) -> None:
    odd = tmp_path / "run{7}.fq.gz"
    odd.symlink_to(config["reads"][0]["first"])
    config["reads"][0]["first"] = str(odd)
    done = workflow("mapping").run(config)
    assert done.returncode != 0
    assert f"Snakemake takes the braces in {odd} for a wildcard; rename the file" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lane, _: [lane, lane], "reads.0.first and reads.1.first are the same file"),
        (
            lambda lane, copy: [lane, copy | {"first": lane["second"], "second": copy["first"]}],
            "reads.0.second and reads.1.first are the same file",
        ),
        (
            lambda lane, copy: [
                lane | {"read_group": "@RG\tID:x\tSM:a"},
                copy | {"read_group": '"@RG\\tID:y\\tSM:b"'},
            ],
            "names the sample 'a', the read group of reads.1 the sample 'b'",
        ),
        (
            lambda lane, copy: [lane, copy | {"read_group": "@RG\tID:x\tLB:"}],
            "reads.1.read_group: '@RG\\tID:x\\tLB:' is not a read group: the tag LB has no value",
        ),
    ],
    ids=["the same lane", "a file in two lanes", "two samples", "no read group"],
)
def test_lanes_that_cannot_be_are_refused_before_anything_runs(
    workflow, config, copied_lane, change, words: str
) -> None:
    run = workflow("mapping")
    done = run.run(config | {"reads": change(config["reads"][0], copied_lane)})
    assert done.returncode != 0
    assert words in done.stderr
    assert not (run.directory / "results").exists()


def test_a_caller_that_dies_leaves_no_vcf_without_variants(workflow, config, tmp_path) -> None:
    """`mpileup` that ends early hands its header on, and `call` ends with 0."""
    bcftools = tmp_path / "bcftools"
    real = f"{sys.executable} -P -m wesemu.genomics.wheel_tools bcftools"
    bcftools.write_text(
        f'#!/bin/bash\nif [ "$1" = mpileup ]; then {real} "$@" | head -c 3000; exit 1; fi\n'
        f'exec {real} "$@"\n'
    )
    bcftools.chmod(0o755)
    for gvcf in (False, True):
        run = workflow("wgs", f"gvcf {gvcf}")
        done = run.run(config | {"tools": {"bcftools": f"'{bcftools}'"}, "gvcf": gvcf})
        assert done.returncode != 0
        assert list(run.directory.glob("results/calls*")) == []


def test_another_organism_is_complete_with_warnings(workflow, config, tmp_path) -> None:
    reference = tmp_path / "other.fa"
    reference.write_text(">HLA-A*01:01:01:01\n" + "ACCTTTGGAGTC" * 500 + "\n")
    results = workflow("wgs").succeed(config | {"reference": str(reference)})
    flagstat = json.loads((results / "flagstat.json").read_text())["QC-passed reads"]
    assert (flagstat["mapped"], flagstat["primary"]) == (0, 8334)
    with gzip.open(results / "calls.vcf.gz", "rt") as vcf:
        assert vcf.read().splitlines()[-1].startswith("#CHROM")
    summary = json.loads((results / "summary.json").read_text())
    assert summary["variants"]["records"] == 0
    assert summary["coverage"]["mean_depth"] == 0
    mapped, variants = summary["warnings"]
    assert mapped.startswith("Only 0.0 % of the reads map to the reference")
    assert variants.startswith("No variant was called")


def copies(data: bytes) -> list[list[bytes]]:
    """A hundred reads, each under ten names."""
    return [
        [b"@%d.%d\n" % (number, copy), *row[1:]]
        for number, row in enumerate(records(data)[:100])
        for copy in range(10)
    ]


def test_mostly_duplicates_are_complete_with_a_warning(workflow, config, mates, tmp_path) -> None:
    paths = []
    for number, data in enumerate(mates, 1):
        paths.append(tmp_path / f"copies_{number}.fq")
        paths[-1].write_bytes(joined(copies(data)))
    lane = {"first": str(paths[0]), "second": str(paths[1])}
    results = workflow("mapping").succeed(config | {"reads": [lane]})
    summary = json.loads((results / "summary.json").read_text())
    assert summary["duplicates"]["percent"] > 85
    assert "of the mapped reads are duplicates" in summary["warnings"][0]


@pytest.mark.parametrize("fault", ["older", "half"])
def test_a_stale_index_is_noticed_and_made_anew(
    workflow, config, indexed: str, tmp_path, fault: str
) -> None:
    folder = tmp_path / "genome"
    shutil.copytree(Path(indexed).parent, folder)
    (folder / "genome.json").unlink(missing_ok=True)
    fasta = folder / Path(indexed).name
    if fault == "older":  # the same FASTA with one base more, indexed before
        fasta.write_text(fasta.read_text().rstrip() + "A\n")
    else:
        (folder / f"{fasta.name}.bwt").write_bytes(
            (folder / f"{fasta.name}.bwt").read_bytes()[:1000]
        )
    results = workflow("mapping").succeed(config | {"reference": str(fasta)})
    with pysam.AlignmentFile(str(results / "aligned.bam")) as bam:
        length = bam.header["SQ"][1]["LN"]
    assert length == 16_666 + (fault == "older")
    flagstat = json.loads((results / "flagstat.json").read_text())["QC-passed reads"]
    assert flagstat["primary mapped"] == 8334


def test_configurations_that_contradict_themselves_are_refused(workflow, config, tmp_path) -> None:
    """Checked by the schema alone: one process for all."""
    lane = config["reads"][0]
    bad = [
        {"reads": [lane | {"interleaved": True}]},
        {"reads": [{"first": lane["first"]}]},
        {"quality_offset": 59},
        {"optical_distance": -1},
        {"mapper": "bowtie"},
        {"caller": "strelka"},
        {"caller": "haplotypecaller"},  # on the CPU
        {"caller": "freebayes", "gvcf": True},
        {"alignment": "a.bam"},
    ]
    schema = workflow("wgs").snakefile.parent / "schemas" / "config.schema.yaml"
    script = (
        "import sys, yaml\n"
        "from snakemake.utils import validate\n"
        "for config in yaml.safe_load(sys.stdin):\n"
        "    try:\n"
        f"        validate(config, {str(schema)!r})\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__)\n"
        "    else:\n"
        "        print('fine')\n"
    )
    good = [{}, {"gvcf": True}, {"reads": [{"first": "a", "interleaved": True}]}]
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=yaml.safe_dump([config | change for change in bad + good]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["WorkflowError"] * len(bad) + ["fine"] * len(good), done.stdout
