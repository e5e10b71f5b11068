"""Which rules run again after a change, by plain Snakemake in the same directory.

An outdated result that stays is the worst fault of a workflow. So every key of the configuration
has a case here, or is in the list of keys that change no result.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.parabricks import Doubles
from support.sample_s import SAMPLE_S

from wesemu.genomics.tools import resolve

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = ROOT / "pipelines"
Config = dict[str, Any]

# statistics: the part of the summary that it writes is temporary
CALLS = {"call_slice", "gather", "statistics", "summary"}
ALIGNMENTS = {"map"} | CALLS
REFERENCE = {"prepare_reference"} | ALIGNMENTS


class EndedRun:
    """A run that has ended."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def rules(self, config: Config) -> set[str]:
        """Return the rules that Snakemake would run again with `config`."""
        done = self._run.run(config, "-n")
        assert done.returncode == 0, done.stderr
        _, _, table = done.stdout.partition("Job stats:")
        rules = re.findall(r"^(\w+) +\d+$", table.partition("Reasons:")[0], re.MULTILINE)
        return set(rules) - {"all", "total"}


def program(path: Path, first_line: str, command: str) -> str:
    """A program whose version is in a file beside it, and which is `command` otherwise."""
    path.with_suffix(".version").write_text(first_line + "\n")
    path.write_text(
        "#!/bin/sh\n"
        'case "$*" in --version|version|"") cat "${0%.sh}.version"; exit ;; esac\n'
        f'exec {command} "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Two lanes of sample S, samtools and bcftools as programs that can change."""
    folder = tmp_path_factory.mktemp("rerun")
    lanes = []
    for name, pairs in (("a", SAMPLE_S.pairs[:600]), ("b", SAMPLE_S.pairs[600:])):
        (folder / name).mkdir()
        first, second = SAMPLE_S.write_reads(folder / name, pairs=pairs)
        lanes.append({"first": str(first), "second": str(second)})
    reference = SAMPLE_S.write_reference(folder / "ref.fa")
    wheel = f"{sys.executable} -P -m wesemu.genomics.wheel_tools"
    tools = {
        name: program(folder / f"{name}.sh", f"{name} 1.24", f"{wheel} {name}")
        for name in ("samtools", "bcftools")
    }
    if native := shutil.which("bwa"):
        tools["bwa"] = program(folder / "bwa.sh", "Version: 0.7.17", native)
    return {
        "reads": lanes,
        "reference": str(reference),
        "tools": tools,
        "slice_size_mb": 0.004,
        "quality_offset": 33,
    }


@pytest.fixture(scope="module")
def ended(base: Config, shared_workflow: Callable[[str], Any]) -> EndedRun:
    run = shared_workflow("wgs")
    run.succeed(base)
    return EndedRun(run)


def swapped(base: Config) -> Config:
    return base | {"reads": base["reads"][::-1]}


def mates_swapped(base: Config) -> Config:
    one, two = base["reads"]
    return base | {"reads": [{"first": one["second"], "second": one["first"]}, two]}


def lane(base: Config, **more: object) -> Config:
    one, two = base["reads"]
    return base | {"reads": [one | more, two]}


def other_tool(base: Config, name: str, line: str, **more: object) -> Config:
    """A program that only a dry run can use."""
    folder = Path(base["reference"]).parent
    path = program(folder / f"other-{name}.sh", line, "false")
    return base | {"tools": base["tools"] | {name: path}} | more


def ploidy_file(base: Config) -> Config:
    path = Path(base["reference"]).with_name("ploidy.txt")
    path.write_text("c1 1 100 M 1\n")
    return base | {"ploidy": str(path)}


def targets_file(base: Config) -> Config:
    path = Path(base["reference"]).with_name("targets.bed")
    path.write_text("c1\t400\t1300\n")
    return base | {"targets": str(path)}


def rules_on_gpu() -> set[str]:
    calls = {"gpu_call", "gpu_variants", "statistics", "summary"}
    return {"fq2bam", "count_duplicates"} | calls


CASES: Mapping[str, tuple[Callable[[Config], Config], set[str]]] = {
    "nothing": (lambda base: base, set()),
    "sample": (lambda base: base | {"sample": "other"}, ALIGNMENTS),
    "reads, a lane less": (lambda base: base | {"reads": base["reads"][:1]}, ALIGNMENTS),
    "reads, the order of lanes": (swapped, ALIGNMENTS),
    "reads, the order of mates": (mates_swapped, ALIGNMENTS),
    "reads, a read group": (lambda base: lane(base, read_group="@RG\\tID:x\\tLB:y"), ALIGNMENTS),
    "quality_offset": (lambda base: base | {"quality_offset": 64}, ALIGNMENTS),
    "markdup": (lambda base: base | {"markdup": False}, ALIGNMENTS),
    "optical_distance": (lambda base: base | {"optical_distance": 100}, ALIGNMENTS),
    "mapper": (
        lambda base: other_tool(base, "minimap2", "2.26-r1175", mapper="minimap2"),
        ALIGNMENTS,
    ),
    "mapper, with an index of its own": (
        lambda base: other_tool(base, "bwa-mem2", "2.2.1", mapper="bwa-mem2"),
        REFERENCE,
    ),
    "mapper, out of a wheel": (lambda base: base | {"mapper": "bwa-mem3"}, REFERENCE),
    "bam_level": (lambda base: base | {"bam_level": 1}, ALIGNMENTS),
    "own_mapper": (
        lambda base: (
            base | {"own_mapper": {"name": "mine", "command": "m {reference} {read_group} {reads}"}}
        ),
        ALIGNMENTS - {"map"} | {"own_map"},
    ),
    "accelerator": (lambda base: base | {"accelerator": "cuda"}, rules_on_gpu()),
    "tools, another bwa": (lambda base: other_tool(base, "bwa", "Version: 0.7.19"), REFERENCE),
    "tools, another samtools": (
        lambda base: other_tool(base, "samtools", "samtools 1.99"),
        REFERENCE,
    ),
    "tools, another bcftools": (lambda base: other_tool(base, "bcftools", "bcftools 1.99"), CALLS),
    "tools, one that is not used": (lambda base: other_tool(base, "freebayes", "1.3.6"), set()),
    "alignment": (lambda base: base | {"alignment": "aligned.cram"}, {"cram"}),
    "cram_version": (lambda base: base | {"cram_version": "3.1"}, set()),
    "caller": (
        lambda base: other_tool(base, "freebayes", "version:  v1.3.6", caller="freebayes"),
        CALLS,
    ),
    "vcf": (lambda base: base | {"vcf": "calls.vcf"}, CALLS),
    "gvcf": (lambda base: base | {"gvcf": True}, CALLS),
    "ploidy": (lambda base: base | {"ploidy": 1}, CALLS),
    "ploidy, a file": (lambda base: ploidy_file(base), CALLS | {"ploidy"}),
    "sex": (lambda base: ploidy_file(base) | {"sex": "M"}, CALLS | {"ploidy"}),
    "targets": (lambda base: targets_file(base), CALLS | {"targets", "target_coverage"}),
    "slice_size_mb": (lambda base: base | {"slice_size_mb": 0.003}, CALLS),
    "reports": (
        lambda base: base | {"reports": ["multiqc", "snakemake"]},
        {"multiqc", "run_report"},
    ),
    "threads": (lambda base: base | {"threads": 1}, set()),
    "sort_memory_mb": (lambda base: base | {"sort_memory_mb": 100}, set()),
    "gpus": (lambda base: base | {"gpus": 3}, set()),
    "gpu_memory_mb": (lambda base: base | {"gpu_memory_mb": 1000}, set()),
    "gpu_driver": (lambda base: base | {"gpu_driver": "1"}, set()),
    "parabricks": (lambda base: base | {"parabricks": {"low_memory": "always"}}, set()),
    "index_format": (lambda base: base | {"index_format": "csi"}, ALIGNMENTS),
    "reference_records": (lambda base: base | {"reference_records": "records"}, set()),
    # elsewhere in this module: the files' contents
    "reference": (lambda base: base, set()),
}

SAME_INDEX = ("mapper, out of a wheel", "tools, another bwa")
"""Where bwa-mem3 maps in place of bwa, the reference has both indexes."""


def keys_of(schema: Path) -> set[str]:
    return set(yaml.safe_load(schema.read_text()).get("properties", {}))


def test_every_key_of_the_configuration_has_a_case():
    keys = keys_of(PIPELINES / "mapping/workflow/schemas/mapping.schema.yaml")
    keys |= keys_of(PIPELINES / "wgs/workflow/schemas/config.schema.yaml")
    assert keys - {name.partition(",")[0] for name in CASES} == set()


@pytest.mark.parametrize("name", CASES)
def test_a_changed_key_runs_the_rules_that_it_changes(ended: EndedRun, base: Config, name: str):
    change, expected = CASES[name]
    if name == "reports":
        pytest.importorskip("multiqc")
    if name in SAME_INDEX and resolve().mapper("bwa").name == "bwa-mem3":
        expected = expected - {"prepare_reference"}
    assert ended.rules(change(base)) == expected


@contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """With the times of the old file, as `cp -p` and `rsync -a` leave them."""
    kept, times = path.read_bytes(), path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    yield
    path.write_bytes(kept)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_reads_replaced_under_the_same_name_and_time_are_mapped_again(ended, base):
    lanes = [Path(each["first"]) for each in base["reads"]]
    with replaced(lanes[0], lanes[1].read_bytes()):
        assert ended.rules(base) == ALIGNMENTS
    assert ended.rules(base) == set()


def test_a_reference_replaced_under_the_same_name_and_time_is_indexed_again(ended, base):
    fasta = Path(base["reference"])
    letters = fasta.read_bytes()
    with replaced(
        fasta, letters[:-2] + b"A\n" if letters[-2:] != b"A\n" else letters[:-2] + b"C\n"
    ):
        assert ended.rules(base) == REFERENCE
    assert ended.rules(base) == set()


def test_a_list_of_alternate_contigs_that_appears_counts(ended, base):
    alternates = Path(base["reference"] + ".alt")
    alternates.write_text("c2\t0\t*\n")
    try:
        assert ended.rules(base) == REFERENCE
    finally:
        alternates.unlink()


@pytest.mark.parametrize(
    ("tool", "line", "expected"),
    [
        ("bcftools", "bcftools 1.99", CALLS),
        ("samtools", "samtools 1.99", REFERENCE),
        pytest.param("bwa", "Version: 0.7.99", REFERENCE, marks=pytest.mark.native),
    ],
)
def test_another_version_of_a_tool_in_the_same_place_counts(ended, base, tool, line, expected):
    if tool not in base["tools"]:
        pytest.skip(f"no {tool} on PATH")
    version = Path(base["tools"][tool]).with_suffix(".version")
    with replaced(version, f"{line}\n".encode()):
        assert ended.rules(base) == expected


@pytest.mark.parametrize("make", [ploidy_file, targets_file])
def test_ploidy_and_targets_replaced_under_the_same_name_and_time_count(
    base, shared_workflow, make
):
    config = make({name: base[name] for name in ("reads", "reference")})
    run = shared_workflow("wgs")
    run.succeed(config)
    ended = EndedRun(run)
    file = Path(config.get("ploidy") or config["targets"])
    assert ended.rules(config) == set()
    with replaced(file, file.read_bytes().replace(b"1", b"2", 1).replace(b"00", b"01")):
        assert ended.rules(config) >= {"summary", make.__name__.partition("_")[0]}
        assert "map" not in ended.rules(config)


def test_mapping_alone_does_the_same(base, shared_workflow):
    run = shared_workflow("mapping")
    config = {name: base[name] for name in ("reads", "reference")} | {"alignment": "aligned.cram"}
    run.succeed(config)
    ended = EndedRun(run)
    everything = {"map", "statistics", "cram"}
    for more in ({"sample": "other"}, {"markdup": False}, {"cram_version": "3.1"}):
        assert ended.rules(config | more) == everything, more
    for more in ({}, {"threads": 1}, {"sort_memory_mb": 100}):
        assert ended.rules(config | more) == set(), more


def test_on_gpus_their_number_and_kind_change_nothing_and_the_version_does(
    base, shared_workflow, tmp_path, monkeypatch
):
    Doubles(tmp_path / "doubles", monkeypatch).install("pbrun")
    config = {name: base[name] for name in ("reads", "reference")}
    config |= {"accelerator": "cuda", "gpus": 1}
    run = shared_workflow("wgs")
    run.succeed(config)
    ended = EndedRun(run)
    for more in (
        {"gpus": 2},
        {"gpu_memory_mb": 40_000, "gpu_driver": "570.1"},
        {"parabricks": {"low_memory": "always", "threads": 2}},
    ):
        assert ended.rules(config | more) == set(), more
    only_mapping = {"fq2bam", "count_duplicates"}
    assert ended.rules(config | {"caller": "deepvariant"}) == rules_on_gpu() - only_mapping
    assert ended.rules(config | {"markdup": False}) == rules_on_gpu() - {"count_duplicates"}


def test_every_rule_has_the_parameter_that_snakemake_compares():
    """A rule without it would keep results that are no longer right."""
    missing = []
    for file in (*PIPELINES.glob("mapping/**/*.smk"), *PIPELINES.glob("wgs/**/*.smk")):
        _, *rules = re.split(r"^ *(?:use )?rule (?=\w+)", file.read_text(), flags=re.MULTILINE)
        missing += [rule.split(":")[0] for rule in rules if " depends_on=" not in rule]
    assert missing == []
