"""StartWorkflow: two dialects of fields become one request; errors name the caller's field."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesemu.api.ags.requests import parse_body, translate
from wesemu.errors import BucketNotFound, InvalidRequest, ObjectNotFound, ReferenceNotFound
from wesemu.runs.model import JsonObject
from wesemu.workflows.params import PARAMS

TABLE: JsonObject = {
    "workflow_type": "mapping",
    "service": "s",
    "mapping_oss_region": "cn-shenzhen",
    "mapping_fastq_first_filename": "a_1.fq.gz",
    "mapping_fastq_second_filename": "a_2.fq.gz",
    "mapping_bucket_name": "gene-shenzhen",
    "mapping_fastq_path": "fastq/MGISEQ2000",
    "mapping_reference_path": "reference/hg19",
    "mapping_is_mark_dup": "true",
    "mapping_bam_out_path": "output/bamDirName",
    "mapping_bam_out_filename": "abc.bam",
}
SAMPLE: JsonObject = {
    "cli_version": "v1.0.1-882299b",
    "wgs_bucket_name": "my-test-shenzhen",
    "wgs_fastq_first_name": "MGISEQ/a_1.fq.gz",
    "wgs_fastq_second_name": "MGISEQ/a_2.fq.gz",
    "wgs_oss_region": "cn-shenzhen",
    "wgs_reference_file": "hs37d5",
    "wgs_service": "g",
    "wgs_vcf_File_name": "vcf/a.vcf",
    "workflow_type": "WGS",
}


def test_the_parameter_table_is_understood() -> None:
    request = translate(TABLE).request
    assert request.workflow_url == "mapping"
    assert request.params == {
        "reads": [
            {
                "first": "oss://gene-shenzhen/fastq/MGISEQ2000/a_1.fq.gz",
                "second": "oss://gene-shenzhen/fastq/MGISEQ2000/a_2.fq.gz",
            }
        ],
        "reference": "oss://gene-shenzhen/reference/hg19",
        "bam": "oss://gene-shenzhen/output/bamDirName/abc.bam",
        "markdup": True,
        "service": "s",
    }


def test_the_documented_sample_is_understood() -> None:
    request = translate(SAMPLE).request
    assert request.workflow_url == "wgs"
    assert request.params == {
        "reads": [
            {
                "first": "oss://my-test-shenzhen/MGISEQ/a_1.fq.gz",
                "second": "oss://my-test-shenzhen/MGISEQ/a_2.fq.gz",
            }
        ],
        "reference": "oss://my-test-shenzhen/hs37d5",
        "vcf": "oss://my-test-shenzhen/vcf/a.vcf",
        "service": "g",
    }


def test_a_translated_request_is_what_the_workflows_take() -> None:
    for body in (TABLE, SAMPLE):
        request = translate(body).request
        PARAMS[request.workflow_url].model_validate(request.params)


def test_the_echo_is_in_the_sample_s_dialect_and_the_documented_order() -> None:
    assert list(translate(SAMPLE | {"wgs_bam_file_name": "b.bam"}).request.echo.items()) == [
        ("wgs_oss_region", "cn-shenzhen"),
        ("wgs_fastq_first_name", "MGISEQ/a_1.fq.gz"),
        ("wgs_fastq_second_name", "MGISEQ/a_2.fq.gz"),
        ("wgs_bucket_name", "my-test-shenzhen"),
        ("wgs_vcf_file_name", "vcf/a.vcf"),
        ("wgs_bam_file_name", "b.bam"),
        ("wgs_reference_file", "hs37d5"),
        ("wgs_service", "g"),
    ]
    assert translate(TABLE).request.echo == {
        "mapping_oss_region": "cn-shenzhen",
        "mapping_fastq_first_name": "fastq/MGISEQ2000/a_1.fq.gz",
        "mapping_fastq_second_name": "fastq/MGISEQ2000/a_2.fq.gz",
        "mapping_bucket_name": "gene-shenzhen",
        "mapping_bam_file_name": "output/bamDirName/abc.bam",
        "mapping_reference_file": "reference/hg19",
        "mapping_mark_dup": "true",
        "mapping_service": "s",
    }


@given(data=st.data(), body=st.sampled_from([TABLE, SAMPLE]))
def test_no_name_s_case_matters(data: st.DataObject, body: JsonObject) -> None:
    recased: JsonObject = {
        "".join(
            letter.upper() if data.draw(st.booleans()) else letter.lower() for letter in name
        ): value
        for name, value in body.items()
    }
    assert translate(recased).request == translate(body).request


def test_the_other_kind_s_fields_are_ignored() -> None:
    noise: JsonObject = {name: ["not", "read"] for name in SAMPLE if name.startswith("wgs_")}
    assert translate(TABLE | noise).request == translate(TABLE).request


def test_mapping_may_speak_the_sample_s_dialect() -> None:
    body: JsonObject = {
        name.replace("wgs_", "mapping_"): value
        for name, value in SAMPLE.items()
        if name != "wgs_vcf_File_name"
    }
    body |= {"workflow_type": "mapping", "mapping_bam_file_name": "b.bam", "mapping_mark_dup": "0"}
    params = translate(body).request.params
    assert params["bam"] == "oss://my-test-shenzhen/b.bam"
    assert params["markdup"] is False


def test_a_folder_named_for_both_mates_is_passed_on() -> None:
    folder: JsonObject = {"wgs_fastq_first_name": "S1", "wgs_fastq_second_name": "S1"}
    lane = {"first": "oss://my-test-shenzhen/S1", "second": "oss://my-test-shenzhen/S1"}
    assert translate(SAMPLE | folder).request.params["reads"] == [lane]


def test_a_reference_group_goes_with_the_reads() -> None:
    request = translate(SAMPLE | {"wgs_reference_group": "@RG\tID:x\tSM:NA12878"}).request
    reads = request.params["reads"]
    assert isinstance(reads, list)
    assert isinstance(reads[0], dict)
    assert reads[0]["read_group"] == "@RG\tID:x\tSM:NA12878"


def test_without_a_reference_the_default_is_left_to_the_workflow() -> None:
    body = {name: value for name, value in TABLE.items() if name != "mapping_reference_path"}
    assert "reference" not in translate(body).request.params


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="given twice") as caught:
        parse_body(b'{"service": "s", "service": "g"}')
    assert caught.value.field == "service"


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_value_is_an_absent_one(empty: str | None) -> None:
    request = translate(SAMPLE | {"wgs_bam_file_name": empty, "wgs_reference_file": empty}).request
    assert request.params.keys() == {"reads", "vcf", "service"}


def test_numbers_and_booleans_count_as_their_text() -> None:
    params = translate(TABLE | {"mapping_is_mark_dup": False}).request.params
    assert params["markdup"] is False
    params = translate(TABLE | {"mapping_is_mark_dup": 1}).request.params
    assert params["markdup"] is True
    params = translate(TABLE | {"mapping_bam_out_path": 7}).request.params
    assert params["bam"] == "oss://gene-shenzhen/7/abc.bam"


@pytest.mark.parametrize(
    ("body", "change", "field", "message"),
    [
        (TABLE, {"workflow_type": None}, "workflow_type", "missing"),
        (TABLE, {"workflow_type": "rna"}, "workflow_type", "write mapping or wgs"),
        (TABLE, {"mapping_bucket_name": None}, "mapping_bucket_name", "missing"),
        (TABLE, {"mapping_bucket_name": "a/b"}, "mapping_bucket_name", "not a bucket name"),
        (TABLE, {"mapping_bucket_name": {}}, "mapping_bucket_name", "must be a string"),
        (TABLE, {"mapping_fastq_path": "a\udc00"}, "mapping_fastq_path", "control character"),
        (TABLE, {"mapping_fastq_first_filename": ""}, "mapping_fastq_first_filename", "missing"),
        (TABLE, {"mapping_bam_out_filename": ""}, "mapping_bam_out_filename", "missing"),
        (
            TABLE,
            {"mapping_bam_out_path": "", "mapping_bam_out_filename": ""},
            "mapping_bam_file_name",
            r"missing \(or mapping_bam_out_filename\)",
        ),
        (TABLE, {"mapping_is_mark_dup": "maybe"}, "mapping_is_mark_dup", "neither true nor false"),
        (TABLE, {"mapping_mark_dup": "false"}, "mapping_mark_dup", "not that of"),
        (TABLE, {"Mapping_Bucket_Name": "x"}, "Mapping_Bucket_Name", "not that of"),
        (
            TABLE,
            {"mapping_bam_file_name": "other.bam"},
            "mapping_bam_out_filename",
            "not that of mapping_bam_file_name",
        ),
        (SAMPLE, {"wgs_vcf_File_name": ""}, "wgs_vcf_file_name", "missing"),
        (SAMPLE, {"wgs_fastq_second_name": None}, "wgs_fastq_second_name", "missing"),
    ],
)
def test_what_is_wrong_is_named(
    body: JsonObject, change: JsonObject, field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        translate(body | change)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("body", "param", "field"),
    [
        (TABLE, "reads.0.first", "mapping_fastq_first_filename"),
        (TABLE, "reads.0.second", "mapping_fastq_second_filename"),
        (TABLE, "reference", "mapping_reference_path"),
        (TABLE, "bam", "mapping_bam_out_filename"),
        (TABLE, "bam_index", "mapping_bam_out_filename"),
        (TABLE, "service", "service"),
        (TABLE, "markdup", "mapping_is_mark_dup"),
        (SAMPLE, "reads.0.first", "wgs_fastq_first_name"),
        (SAMPLE, "vcf", "wgs_vcf_File_name"),
        (SAMPLE, "service", "wgs_service"),
        (SAMPLE, "something.else", "something.else"),
    ],
)
def test_errors_of_the_planner_name_the_caller_s_field(
    body: JsonObject, param: str, field: str
) -> None:
    start = translate(body)
    for kind in (InvalidRequest, ObjectNotFound, ReferenceNotFound):
        with pytest.raises(kind) as caught, start.with_caller_fields():
            raise kind("wrong", field=param)
        assert caught.value.field == field


def test_a_missing_bucket_is_the_bucket_field_s_fault() -> None:
    with pytest.raises(BucketNotFound) as caught, translate(SAMPLE).with_caller_fields():
        raise BucketNotFound("no such bucket", field="reads.0.first")
    assert caught.value.field == "wgs_bucket_name"


def test_an_error_without_a_field_stays_without() -> None:
    with pytest.raises(InvalidRequest) as caught, translate(SAMPLE).with_caller_fields():
        raise InvalidRequest("wrong")
    assert caught.value.field is None


def test_a_body_may_begin_with_a_byte_order_mark() -> None:
    assert parse_body(b"\xef\xbb\xbf" + json.dumps(TABLE).encode()) == TABLE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="body is"):
        parse_body(body)


@given(st.binary(max_size=60))
def test_no_body_breaks_the_parser(body: bytes) -> None:
    with suppress(InvalidRequest):
        assert isinstance(parse_body(body), dict)


_VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))


@given(
    st.dictionaries(
        st.sampled_from([*TABLE, *SAMPLE]), st.one_of(_VALUES, st.lists(_VALUES, max_size=2))
    ),
    st.sampled_from(["mapping", "WGS"]),
)
def test_no_request_breaks_the_translation(body: JsonObject, kind: str) -> None:
    with suppress(InvalidRequest):
        request = translate(body | {"workflow_type": kind}).request
        assert json.dumps(request.params, ensure_ascii=False).encode()


def test_a_gvcf_goes_to_the_named_key_and_is_echoed() -> None:
    start = translate(SAMPLE | {"wgs_gvcf_file_name": "vcf/a.g.vcf.gz"})
    bucket = SAMPLE["wgs_bucket_name"]
    assert start.request.params["gvcf"] == f"oss://{bucket}/vcf/a.g.vcf.gz"
    assert start.request.echo["wgs_gvcf_file_name"] == "vcf/a.g.vcf.gz"
    assert start.names["gvcf"] == "wgs_gvcf_file_name"


def test_the_quality_offset_is_a_field_of_ours() -> None:
    started = translate(SAMPLE | {"wesemu_quality_offset": "33"})
    assert started.request.params["quality_offset"] == 33
    assert started.names["quality_offset"] == "wesemu_quality_offset"
    assert list(started.request.echo or {})[-1] == "wesemu_quality_offset"
    assert "quality_offset" not in translate(SAMPLE).request.params


def test_parameters_of_the_calling_are_fields_of_ours() -> None:
    ours = {
        "wesemu_cram_version": "3.1",
        "wesemu_ploidy": "ploidy/male.txt",
        "wesemu_sex": "1",
        "wesemu_targets": "kits/exome.bed",
    }
    started = translate(SAMPLE | ours)
    params = started.request.params
    bucket = SAMPLE["wgs_bucket_name"]
    assert params["cram_version"] == "3.1"
    assert params["ploidy"] == f"oss://{bucket}/ploidy/male.txt"
    assert params["sex"] == "1"
    assert params["targets"] == f"oss://{bucket}/kits/exome.bed"
    assert started.names["targets"] == "wesemu_targets"
    assert ours.items() <= (started.request.echo or {}).items()
    for text, value in (("1", 1), ("0", 0), ("1.5", "1.5"), ("-1", "-1")):
        assert translate(SAMPLE | {"wesemu_ploidy": text}).request.params["ploidy"] == value


def test_a_gvcf_is_enough() -> None:
    """As the joint calling page of AGS asks for one."""
    fields = {name: value for name, value in SAMPLE.items() if "vcf" not in name.lower()}
    start = translate(fields | {"wgs_gvcf_file_name": "gvcf/a.gvcf"})
    assert "vcf" not in start.request.params
    assert start.request.params["gvcf"].endswith("/gvcf/a.gvcf")
    assert "wgs_vcf_file_name" not in (start.request.echo or {})
    with pytest.raises(InvalidRequest, match="wgs_vcf"):
        translate(fields)
