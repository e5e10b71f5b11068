"""Duplicates are marked within a library: its lanes together, other libraries separately."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pysam
import pytest
from support.parabricks import Doubles
from support.sample_s import SAMPLE_S, called

PAIRS = SAMPLE_S.pairs[:600]


@pytest.fixture
def lanes(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A configuration: one lane with the same 600 pairs for each of the read groups."""

    def make(*groups: str | None) -> dict[str, Any]:
        reads = []
        for number, group in enumerate(groups, 1):
            files = SAMPLE_S.write_reads(
                tmp_path / "reads",
                f"lane{number}",
                PAIRS,
                rename=lambda n, name, lane=number: f"M1:7:F:{lane}:1101:{n}:{n} {name}",
            )
            lane = dict(zip(("first", "second"), map(str, files), strict=True))
            reads.append(lane if group is None else lane | {"read_group": group})
        reference = tmp_path / "ref.fa"
        return {"reads": reads, "reference": str(SAMPLE_S.write_reference(reference))}

    return make


def duplicates_by_group(bam: Path) -> Counter[str]:
    with pysam.AlignmentFile(str(bam)) as file:
        return Counter(str(read.get_tag("RG")) for read in file if read.is_duplicate)


def test_lanes_of_one_library_are_compared_and_libraries_are_not(workflow, lanes):
    config = lanes(
        "@RG\tID:a1\tLB:A\tSM:s", "@RG\tID:a2\tLB:A\tSM:s", "@RG\tID:b1\tLB:B\tSM:s", None
    )
    results = workflow("mapping").succeed(config | {"optical_distance": 100})
    found = duplicates_by_group(results / "aligned.bam")
    assert found["a1"] + found["a2"] == 2 * len(PAIRS)
    assert found.keys() <= {"a1", "a2"}
    summary = json.loads((results / "summary.json").read_text())
    assert summary["duplicates"]["reads"] == 2 * len(PAIRS)
    assert summary["duplicates"]["estimated_library_size"] is None
    assert summary["sample"] == "s"
    with pysam.AlignmentFile(str(results / "aligned.bam")) as bam:
        header = bam.header.to_dict()
        assert not any(read.has_tag("LB") for read in bam)
    assert [group["LB"] for group in header["RG"]] == ["A", "A", "B", "s"]
    assert header["HD"]["SO"] == "coordinate"
    command = header["PG"][-1]["CL"]
    assert command.endswith("| samtools markdup -l 1000 -d 100 --barcode-tag LB")
    # each library by itself is marked as it would be alone
    alone = workflow("mapping", "alone").succeed(config | {"reads": config["reads"][:2]})
    assert duplicates_by_group(alone / "aligned.bam") == found


def test_a_lane_without_a_library_is_of_the_samples(workflow, lanes):
    config = lanes("@RG\tID:x\tSM:s", None)
    results = workflow("mapping").succeed(config)
    assert json.loads((results / "summary.json").read_text())["warnings"] == []
    assert sum(duplicates_by_group(results / "aligned.bam").values()) == 2 * len(PAIRS)
    with pysam.AlignmentFile(str(results / "aligned.bam")) as bam:
        assert "--barcode-tag" not in str(bam.header)


def test_wgs_keeps_libraries_apart_too(workflow, lanes):
    config = lanes("@RG\tID:a\tLB:libA\tSM:s", "@RG\tID:b\tLB:libB\tSM:s")
    results = workflow("wgs").succeed(config)
    assert duplicates_by_group(results / "aligned.bam") == {}
    assert json.loads((results / "markdup.json").read_text())["EXAMINED"] == 4 * len(PAIRS)
    calls = called(results / "calls.vcf.gz")
    assert set(calls) == set(SAMPLE_S.sites)
    unmarked = workflow("mapping", "unmarked").succeed(config | {"markdup": False})
    assert duplicates_by_group(unmarked / "aligned.bam") == {}


def test_parabricks_gets_the_libraries(workflow, lanes, tmp_path, monkeypatch):
    """It marks by LB itself."""
    doubles = Doubles(tmp_path / "doubles", monkeypatch)
    doubles.install("pbrun")
    config = lanes(r'"@RG\tID:a\tLB:libA\tSM:s\tPL:MGISEQ2000"', r"@RG\tID:b\tSM:s", None)
    workflow("mapping").succeed(config | {"accelerator": "cuda", "gpus": 1})
    (call,) = doubles.calls
    assert [word for word in call["words"] if word.startswith("@RG")] == [
        r"@RG\tID:a\tLB:libA\tSM:s\tPL:MGISEQ2000\tPU:a",
        r"@RG\tID:b\tSM:s\tLB:s\tPL:ILLUMINA\tPU:b",
        r"@RG\tID:s.L3\tLB:s\tPL:ILLUMINA\tPU:s.L3\tSM:s",
    ]
