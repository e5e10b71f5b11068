"""Locations: the kind of each is determined by its text."""

import pytest

from wesemu.composition import remote_bucket
from wesemu.errors import InvalidRequest
from wesemu.runs.ports import Publication
from wesemu.storage.remote import RemoteBucketSettings, RemoteKey, WebFile
from wesemu.workflows.locations import BucketKey, FileUrl, Location, Locations, PlainName
from wesemu.workflows.params import WgsParams
from wesemu.workflows.results import check_names

LAB = remote_bucket("lab", RemoteBucketSettings(type="s3"))
LOCATIONS = Locations({"lab": LAB}, http=True)
PIN = "a" * 64


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("https://1.1.1.1/a.fq", WebFile("https://1.1.1.1/a.fq")),
        (f"http://1.1.1.1/a.fq#sha256={PIN}", WebFile("http://1.1.1.1/a.fq", PIN)),
        ("s3://lab/a.fq", RemoteKey(LAB, "a.fq")),
        ("oss://lab/reads/", RemoteKey(LAB, "reads/")),
        (f"oss://lab/a.fq#sha256={PIN.upper()}", RemoteKey(LAB, "a.fq", PIN)),
        ("oss://here/a.fq", BucketKey("oss://here/a.fq")),
        ("file:///data/a.fq", FileUrl("file:///data/a.fq")),
        ("a.fq", PlainName("a.fq")),
        ("/data/a.fq", PlainName("/data/a.fq")),
    ],
)
def test_a_text_has_one_kind(text: str, location: Location) -> None:
    assert LOCATIONS.parse(text) == location


@pytest.mark.parametrize("text", ["s3://other/a.fq", "oss://lab/../a.fq", "http://127.0.0.1/a.fq"])
def test_a_remote_location_that_is_not_allowed_names_its_parameter(text: str) -> None:
    params = WgsParams.model_validate({"reads": [{"first": text, "interleaved": True}]})
    with pytest.raises(InvalidRequest) as refused:
        LOCATIONS.inputs(params)
    assert refused.value.field == "reads.0.first"


def test_the_inputs_are_in_the_order_of_the_request() -> None:
    params = WgsParams.model_validate(
        {
            "reads": [
                {"first": "oss://lab/reads", "second": "oss://lab/reads"},
                {"first": "a.fq", "interleaved": True},
            ],
            "reference": "hg38",
            "targets": "s3://lab/targets.bed",
        }
    )
    inputs = LOCATIONS.inputs(params)
    fields = ["reads.0.first", "reads.0.second", "reads.1.first", "reference", "targets"]
    assert [each.field for each in inputs] == fields
    assert [each.field for each in inputs.remote] == [*fields[:2], "targets"]
    assert [pair.is_remote for pair in inputs.reads] == [True, False]


@pytest.mark.parametrize("text", ["s3://lab/a.bam", f"oss://lab/a.bam#sha256={PIN}"])
def test_a_result_does_not_replace_a_remote_input(text: str) -> None:
    params = WgsParams.model_validate({"reads": [{"first": text, "interleaved": True}]})
    publication = Publication("bam", "results/aligned.bam", None, "oss://lab/a.bam")
    with pytest.raises(InvalidRequest, match="is an input of this run"):
        check_names(LOCATIONS.inputs(params), set(), [publication])
