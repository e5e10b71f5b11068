"""Refused requests of AGS: the call, the status, the code, and a pattern of the message."""

from dataclasses import replace
from typing import Any

from conformance.ags.sdks import Call

JOBS = Call("GET", "/gs/workflows")
MAPPING = {
    "workflow_type": "mapping",
    "service": "s",
    "mapping_oss_region": "cn-shenzhen",
    "mapping_bucket_name": "genes",
    "mapping_fastq_path": "fastq",
    "mapping_fastq_first_filename": "a_1.fq.gz",
    "mapping_fastq_second_filename": "a_2.fq.gz",
    "mapping_reference_path": "reference/tiny",
    "mapping_is_mark_dup": "true",
    "mapping_bam_out_path": "output",
    "mapping_bam_out_filename": "abc.bam",
}
WGS = {
    "workflow_type": "WGS",
    "wgs_bucket_name": "genes",
    "wgs_fastq_first_name": "fastq/a_1.fq.gz",
    "wgs_fastq_second_name": "fastq/a_2.fq.gz",
    "wgs_reference_file": "reference/tiny",
    "wgs_vcf_File_name": "vcf/a.vcf",
}


def start(body: dict[str, Any], **change: Any) -> Call:
    """StartWorkflow with some fields changed, those that are None left out."""
    fields = {name: value for name, value in (body | change).items() if value is not None}
    return Call("POST", "/gs/workflow", fields)


def on(job: str, method: str, body: Any = None) -> Call:
    return Call(method, f"/gs/workflow/{job}", body)


NO_API = "Specified api is not found, please check your url and method: POST /gs/workflow, "
NOT_MINE = "you have no workflow 'mapping-gpu-.{5}'; DescribeWorkflows lists yours"
REFUSALS: dict[str, tuple[Call, int, str, str]] = {
    "unknown path": (Call("GET", "/gs/nothing"), 404, "InvalidAction.NotFound", NO_API),
    "unknown product": (Call("GET", "/gs"), 404, "InvalidAction.NotFound", NO_API),
    "wrong method": (Call("POST", "/gs/workflows", {}), 405, "UnsupportedHTTPMethod", NO_API),
    "body too large": (
        start(MAPPING, mapping_bam_out_path="x" * (1 << 20)),
        413,
        "ErrorBodyTooLarge",
        ".",
    ),
    "body no object": (
        Call("POST", "/gs/workflow", ["mapping"]),
        400,
        "InvalidParameter",
        "the body is JSON, but not an object",
    ),
    "limit": (
        replace(JOBS, query={"limit": "many"}),
        400,
        "InvalidParameter",
        "The parameter limit: write a number",
    ),
    "describe an unknown job": (
        on("mapping-gpu-zzzzz", "GET"),
        404,
        "ErrorWorkflowNotFound",
        "you have no workflow 'mapping-gpu-zzzzz'; DescribeWorkflows lists yours",
    ),
    "describe under another type": (
        on("{as_wgs}", "GET"),
        404,
        "ErrorWorkflowNotFound",
        "you have no workflow 'wgs-gpu-",
    ),
    "cancel an unknown job": (
        on("wgs-gpu-zzzzz", "PUT", {"action": "cancel"}),
        404,
        "ErrorWorkflowNotFound",
        "you have no workflow 'wgs-gpu-zzzzz'",
    ),
    "remove an unknown job": (
        on("nothing", "DELETE"),
        404,
        "ErrorWorkflowNotFound",
        "you have no workflow 'nothing'",
    ),
    "describe another's job": (on("{foreign}", "GET"), 404, "ErrorWorkflowNotFound", NOT_MINE),
    "cancel another's job": (
        on("{foreign}", "PUT", {"action": "cancel"}),
        404,
        "ErrorWorkflowNotFound",
        NOT_MINE,
    ),
    "remove another's job": (on("{foreign}", "DELETE"), 404, "ErrorWorkflowNotFound", NOT_MINE),
    "remove a running job": (
        on("{running}", "DELETE"),
        409,
        "ErrorWorkflowRunning",
        "the workflow 'mapping-gpu-.{5}' is (Pending|Running); cancel it or wait for its end",
    ),
    "another action": (
        on("{running}", "PUT", {"action": "pause"}),
        400,
        "InvalidParameter",
        "The parameter action: the only action is 'cancel'",
    ),
    "no action": (
        on("{running}", "PUT", {}),
        400,
        "InvalidParameter",
        "The parameter action: the only action is 'cancel'",
    ),
    "another action for a job that has ended": (
        on("{ended}", "PUT", {"action": "pause"}),
        400,
        "InvalidParameter",
        "The parameter action: the only action is 'cancel'",
    ),
}
"""Everything else that is refused; `{running}` and the like are jobs of the stage."""
REFUSED_STARTS: list[tuple[Call, int, str, str]] = [
    (start(MAPPING, workflow_type=None), 400, "InvalidParameter", "workflow_type: it is missing"),
    (start(MAPPING, workflow_type="rna"), 400, "InvalidParameter", "workflow_type: 'rna' is not "),
    (start(MAPPING, service="z"), 400, "InvalidParameter", "service: must be 's', 'g'"),
    (
        start(MAPPING, mapping_is_mark_dup="maybe"),
        400,
        "InvalidParameter",
        "mapping_is_mark_dup: 'maybe' is neither true nor false",
    ),
    (
        start(MAPPING, mapping_bucket_name=None),
        400,
        "InvalidParameter",
        "mapping_bucket_name: it is missing",
    ),
    (
        start(MAPPING, mapping_bucket_name="genes/fastq"),
        400,
        "InvalidParameter",
        "mapping_bucket_name: 'genes/fastq' is not a bucket name",
    ),
    (
        start(MAPPING, mapping_bucket_name=".."),
        400,
        "InvalidParameter",
        r"mapping_bucket_name: '\.\.' is not a bucket name",
    ),
    (
        start(MAPPING, mapping_bucket_name="gene-shenzhen"),
        404,
        "ErrorBucketNotFound",
        "mapping_bucket_name: there is no bucket 'gene-shenzhen'; the buckets are genes",
    ),
    (
        start(MAPPING, mapping_fastq_second_filename=None),
        400,
        "InvalidParameter",
        "mapping_fastq_second_filename: it is missing",
    ),
    (
        start(MAPPING, mapping_fastq_first_filename="../../../x"),
        400,
        "InvalidParameter",
        "mapping_fastq_first_filename: the key ",
    ),
    (
        start(MAPPING, mapping_fastq_first_filename="b_1.fq.gz"),
        404,
        "ErrorObjectNotFound",
        "mapping_fastq_first_filename: the bucket 'genes' has no 'fastq/b_1.fq.gz'",
    ),
    (
        start(MAPPING, mapping_fastq_path=["fastq"]),
        400,
        "InvalidParameter",
        "mapping_fastq_path: it must be a string",
    ),
    (
        start(MAPPING, mapping_fastq_path="fast\nq"),
        400,
        "InvalidParameter",
        "mapping_fastq_path: it holds a control character",
    ),
    (
        start(MAPPING, mapping_reference_path="hg38"),
        404,
        "ErrorReferenceNotFound",
        "mapping_reference_path: there is no reference",
    ),
    (
        start(MAPPING, mapping_bam_out_filename=None),
        400,
        "InvalidParameter",
        "mapping_bam_out_filename: it is missing",
    ),
    (
        start(MAPPING, mapping_bam_out_filename="a.txt"),
        400,
        "InvalidParameter",
        "mapping_bam_out_filename: 'oss://genes/output/a.txt' must end with .bam or .cram",
    ),
    (
        start(MAPPING, mapping_bam_out_path="fastq", mapping_bam_out_filename="a_1.fq.gz"),
        400,
        "InvalidParameter",
        "mapping_bam_out_filename: ",
    ),
    (start(MAPPING, wesemu_bases="many"), 400, "InvalidParameter", "wesemu_bases: "),
    (
        start(MAPPING, wesemu_quality_offset="59"),
        400,
        "InvalidParameter",
        "wesemu_quality_offset: ",
    ),
    (start(MAPPING, wesemu_node="moon"), 400, "InvalidParameter", "wesemu_node: "),
    (start(MAPPING, wesemu_gpus="1000"), 400, "InvalidParameter", "wesemu_gpus: "),
    (start(WGS, wgs_vcf_File_name=None), 400, "InvalidParameter", "wgs_vcf_file_name: it is mis"),
    (
        start(WGS, wgs_vcf_File_name="a.txt"),
        400,
        "InvalidParameter",
        "wgs_vcf_File_name: 'oss://genes/a.txt' must end with .vcf.gz or .vcf$",
    ),
    (
        start(WGS, wgs_gvcf_file_name="a.vcf"),
        400,
        "InvalidParameter",
        "wgs_gvcf_file_name: 'oss://genes/a.vcf' must end with .gvcf or .g.vcf or .gvcf.gz",
    ),
    (
        start(MAPPING, mapping_reference_path=None),
        404,
        "ErrorReferenceNotFound",
        "mapping_reference_path: there is no reference 'hs37d5' .the default.",
    ),
    (
        start(WGS, wgs_reference_file=None),
        404,
        "ErrorReferenceNotFound",
        "wgs_reference_file: there is no reference 'hs37d5' .the default.",
    ),
    (start(WGS, wgs_reference_group="ID:x"), 400, "InvalidParameter", "wgs_reference_group: "),
]
"""Field by field; messages begin "The parameter …"."""
