"""Lanes and read groups that contradict each other are a 400 from every API."""

import os
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from wesemu.settings import Settings

Client = TestClient[web.Request, web.Application]

AGS = {
    "workflow_type": "wgs",
    "wgs_bucket_name": "genes",
    "wgs_fastq_first_name": "fastq/a_1.fq.gz",
    "wgs_fastq_second_name": "fastq/a_2.fq.gz",
    "wgs_reference_file": "reference/tiny",
    "wgs_vcf_file_name": "out/a.vcf.gz",
}


def lane(one: str, two: str, **more: str) -> dict[str, str]:
    """Of keys in the bucket, or whole locations."""
    first, second = (key if "://" in key else f"oss://genes/fastq/{key}" for key in (one, two))
    return {"first": first, "second": second, **more}


A, B, C = (lane(f"{name}_1.fq.gz", f"{name}_2.fq.gz") for name in "abc")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Lanes `a`, `b` and `c`; `link` and `hard` are other names of a file of `a`; two folders."""
    fastq = settings.data / "buckets" / "genes" / "fastq"
    for name in "bc":
        for mate in (1, 2):
            (fastq / f"{name}_{mate}.fq.gz").write_text(f"{name}{mate}")
    (fastq / "link_1.fq.gz").symlink_to("a_1.fq.gz")
    os.link(fastq / "a_2.fq.gz", fastq / "hard_2.fq.gz")
    for folder in ("lanes", "linked"):
        (fastq / folder).mkdir()
        for mate in (1, 2):
            (fastq / folder / f"x_{mate}.fq.gz").write_text(f"{folder}{mate}")
            other = fastq / folder / f"y_{mate}.fq.gz"
            if folder == "linked":
                other.symlink_to(f"x_{mate}.fq.gz")
            else:
                other.write_text(f"other{mate}")
    values = settings.model_dump() | {"inputs": {"file_roots": [fastq]}}
    return Settings.model_validate(values)


async def submit(client: Client, reads: list[dict[str, str]], **more: str) -> tuple[int, str]:
    params = {"reads": reads, "reference": "oss://genes/reference/tiny", **more}
    form = {"workflow_url": "mapping", "workflow_type": "SMK", "workflow_type_version": "9"}
    body: Mapping[str, Any] = form | {"workflow_params": _json(params)}
    async with client.post("/ga4gh/wes/v1/runs", data=body) as answer:
        told = await answer.json()
        return answer.status, str(told.get("msg", ""))


def _json(value: object) -> str:
    import json

    return json.dumps(value)


def group(line: str, **of: str) -> dict[str, str]:
    return of | {"read_group": line}


@pytest.mark.parametrize(
    ("reads", "entries"),
    [
        ([A, A], ("reads.0.first", "reads.1.first")),
        ([A, B, A], ("reads.0.first", "reads.2.first")),
        ([A, lane("a_1.fq.gz", "b_2.fq.gz")], ("reads.0.first", "reads.1.first")),
        ([A, lane("b_1.fq.gz", "a_1.fq.gz")], ("reads.0.first", "reads.1.second")),
        ([A, lane("a_2.fq.gz", "b_1.fq.gz")], ("reads.0.second", "reads.1.first")),
        ([A, lane("link_1.fq.gz", "b_2.fq.gz")], ("reads.0.first", "reads.1.first")),
        ([A, lane("b_1.fq.gz", "hard_2.fq.gz")], ("reads.0.second", "reads.1.second")),
        ([lane("lanes", "lanes"), lane("lanes/", "lanes/")], ("reads.0.first", "reads.1.first")),
        ([lane("linked", "linked")], ("reads.0.first", "reads.0.first")),
        (
            [lane("lanes", "lanes"), lane("lanes/y_1.fq.gz", "b_2.fq.gz")],
            ("reads.0.first", "reads.1.first"),
        ),
        ([A, lane("FILE/a_1.fq.gz", "b_2.fq.gz")], ("reads.0.first", "reads.1.first")),
        ([A, lane("FILE/./a_1.fq.gz", "b_2.fq.gz")], ("reads.0.first", "reads.1.first")),
    ],
)
async def test_a_file_in_two_lanes_is_refused_with_both_entries(
    client: Client, settings: Settings, reads: list[dict[str, str]], entries: tuple[str, str]
) -> None:
    folder = settings.data / "buckets" / "genes" / "fastq"
    reads = [
        {
            name: value.replace("oss://genes/fastq/FILE", f"file://{folder}")
            for name, value in x.items()
        }
        for x in reads
    ]
    status, message = await submit(client, reads)
    assert status == 400, message
    assert f"{entries[0]} and {entries[1]} are the same file" in message


@pytest.mark.parametrize(
    ("reads", "words"),
    [
        (
            [group("@RG\tID:x", **A), group("@RG\tID:x\tLB:other", **B)],
            "reads.0 and reads.1 have the same read group ID 'x'",
        ),
        (
            [A, B, group(r"@RG\tID:sample.L1", **C)],
            "reads.0 and reads.2 have the same read group ID 'sample.L1'",
        ),
        (
            [group(r"@RG\tID:x.L2", **A), group(r"@RG\tID:x", **lane("lanes", "lanes"))],
            "reads.0 and reads.1 have the same read group ID 'x.L2'",
        ),
        (
            [group(r"@RG\tID:x\tSM:one", **A), B, group(r"@RG\tID:y\tSM:two", **C)],
            "the read group of reads.0 names the sample 'one', the read group of reads.2 the "
            "sample 'two'",
        ),
        ([A, group("@RG\tSM:x", **B)], "reads.1.read_group"),
        ([A, group("@RG\tID:x\tLB:", **B)], "the tag LB has no value"),
        ([A, group("@RG\tID:{a}", **B)], "braces"),
        ([A, group("@RG\tID:x\nSM:y", **B)], "one line"),
    ],
)
async def test_read_groups_that_contradict_each_other_are_refused_with_both_entries(
    client: Client, reads: list[dict[str, str]], words: str
) -> None:
    status, message = await submit(client, reads)
    assert status == 400
    assert words in message


async def test_a_sample_that_differs_from_its_read_group_is_refused(client: Client) -> None:
    status, message = await submit(client, [group("@RG\tID:x\tSM:one", **A)], sample="two")
    assert status == 400
    assert "the parameter sample names the sample 'two'" in message


async def test_lanes_that_agree_are_accepted(client: Client) -> None:
    groups = [r"@RG\tID:1\tSM:s\tLB:l", r'"@RG\tID:2\tSM:s\tLB:l"', "@RG\tID:3\tLB:m"]
    reads = [group(line, **one) for line, one in zip(groups, (A, B, C), strict=True)]
    assert (await submit(client, [*reads, lane("lanes", "lanes")]))[0] == 200


@pytest.mark.parametrize(
    "line",
    [
        "@RG\tSM:x",
        r"@RG\tID:\tSM:x",
        r"@RG\tID:x\tID:y",
        r"@RG\tID:{a}",
        "@RG\tID:x\nSM:y",
        r"@RG\tID:x\nSM:y",
        r"@RG\tID:é",
        "@RG ID:x",
        r'"@RG\tID:x',
    ],
)
async def test_ags_refuses_what_is_no_read_group(client: Client, line: str) -> None:
    for kind in ("wgs", "mapping"):
        body = {name.replace("wgs_", f"{kind}_"): value for name, value in AGS.items()}
        body |= {"workflow_type": kind, f"{kind}_bam_file_name": "out/a.bam"}
        async with client.post(
            "/gs/workflow", json=body | {f"{kind}_reference_group": line}
        ) as answer:
            told = await answer.json()
        assert (answer.status, told["Code"]) == (400, "InvalidParameter")
        assert f"{kind}_reference_group" in told["Message"]


async def test_ags_s_own_quotes_are_removed(client: Client, settings: Settings) -> None:
    body = AGS | {"wgs_reference_group": r'"@RG\tID:TEST\tSM:12878\tPL:MGISEQ2000"'}
    async with client.post("/gs/workflow", json=body) as answer:
        assert answer.status == 200, await answer.text()
        name = (await answer.json())["JobName"]
    async with client.get(f"/gs/workflow/{name}") as answer:
        echoed = (await answer.json())["user_input_data"]
    assert r"\"@RG\\tID:TEST" in echoed
