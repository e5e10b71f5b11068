"""Every error is one JSON object that both generations of SDKs can read."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from api.ags.conftest import MAPPING, WGS, Client, Start
from structlog.testing import capture_logs

from wesemu.errors import StoreError
from wesemu.runs.model import JsonObject
from wesemu.runs.service import RunService
from wesemu.settings import Settings

pytestmark = pytest.mark.usefixtures("bucket")


async def error(response: ClientResponse, status: int, code: str) -> str:
    """Checks an error answer's shape and returns its message."""
    assert response.status == status
    assert response.content_type == "application/json"
    answer: dict[str, str] = await response.json()
    assert answer["Code"] == answer["code"] == code
    assert answer["Message"] == answer["message"]
    assert answer["RequestId"] == answer["requestId"] == response.headers["x-acs-request-id"]
    assert answer["HostId"]
    return answer["Message"]


async def test_every_answer_carries_a_request_id(client: Client) -> None:
    ids = {(await client.get("/gs/workflows")).headers["x-acs-request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("path", ["/gs", "/gs/", "/gs/workflow/a/b", "/gs/clusters"])
async def test_an_unknown_route_is_answered_in_json(client: Client, path: str) -> None:
    message = await error(await client.get(path), 404, "InvalidAction.NotFound")
    assert message.startswith("Specified api is not found, please check your url and method")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/gs/workflow", {"POST"}),
        ("POST", "/gs/workflows", {"GET", "HEAD"}),
        ("PATCH", "/gs/workflow/x", {"GET", "HEAD", "PUT", "DELETE"}),
    ],
)
async def test_a_wrong_method_is_answered_in_json(
    client: Client, method: str, path: str, allowed: set[str]
) -> None:
    response = await client.request(method, path)
    await error(response, 405, "UnsupportedHTTPMethod")
    assert set(response.headers["Allow"].split(",")) == allowed


async def test_a_body_that_is_too_large_is_answered_in_json(client: Client) -> None:
    response = await client.post("/gs/workflow", data=BytesIO(b" " * (1 << 21)))
    await error(response, 413, "ErrorBodyTooLarge")


@pytest.mark.parametrize(
    ("fault", "told"),
    [(RuntimeError("a secret detail"), False), (StoreError("the index is unreadable"), True)],
)
async def test_a_fault_of_the_server_is_answered_in_json(
    client: Client, monkeypatch: pytest.MonkeyPatch, fault: Exception, told: bool
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(RunService, "page", fail)
    with capture_logs() as logged:
        message = await error(await client.get("/gs/workflows"), 500, "InternalError")
    assert (str(fault) in message) is told
    assert [entry["log_level"] for entry in logged if entry["log_level"] != "debug"] == ["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"nonsense", b"\xff", b"null"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_body_that_is_no_json_object_is_an_invalid_parameter(
    client: Client, start: Start, method: str, body: bytes
) -> None:
    path = "/gs/workflow" if method == "POST" else f"/gs/workflow/{await start(MAPPING)}"
    response = await client.request(method, path, data=body)
    assert "JSON" in await error(response, 400, "InvalidParameter")


@pytest.mark.parametrize(
    ("body", "change", "status", "code", "message"),
    [
        (WGS, {"workflow_type": "rna"}, 400, "InvalidParameter", "workflow_type: 'rna' is no"),
        (WGS, {"wgs_service": "z"}, 400, "InvalidParameter", "wgs_service: "),
        (WGS, {"wgs_vcf_File_name": "a.txt"}, 400, "InvalidParameter", "wgs_vcf_File_name: "),
        (
            WGS,
            {"wgs_vcf_File_name": "../a.vcf"},
            400,
            "InvalidParameter",
            "wgs_vcf_File_name: the key '../a.vcf' has",
        ),
        (
            WGS,
            {"wgs_reference_group": "ID:x"},
            400,
            "InvalidParameter",
            "wgs_reference_group: ",
        ),
        (
            WGS,
            {"WGS_Fastq_First_Name": "../x"},
            400,
            "InvalidParameter",
            "WGS_Fastq_First_Name: the key '../x' has",
        ),
        (
            WGS,
            {"wgs_fastq_second_name": "fastq/a_9.fq.gz"},
            404,
            "ErrorObjectNotFound",
            "wgs_fastq_second_name: the bucket 'genes' has no 'fastq/a_9.fq.gz'",
        ),
        (
            WGS,
            {"wgs_bucket_name": "gene-shenzhen"},
            404,
            "ErrorBucketNotFound",
            "wgs_bucket_name: there is no bucket 'gene-shenzhen'; the buckets are genes",
        ),
        (
            WGS,
            {"wgs_bucket_name": ".."},
            400,
            "InvalidParameter",
            "wgs_bucket_name: '..' is not a bucket name",
        ),
        (
            WGS,
            {"wgs_reference_file": "hg38"},
            404,
            "ErrorReferenceNotFound",
            "wgs_reference_file: there is no reference",
        ),
        (
            MAPPING,
            {"mapping_bam_out_filename": "a_1.fq.gz", "mapping_bam_out_path": "fastq"},
            400,
            "InvalidParameter",
            "mapping_bam_out_filename: ",
        ),
        (
            MAPPING,
            {"mapping_fastq_first_filename": "b_1.fq.gz"},
            404,
            "ErrorObjectNotFound",
            "mapping_fastq_first_filename: the bucket 'genes' has no 'fastq/b_1.fq.gz'",
        ),
        (
            MAPPING,
            {"mapping_bam_out_filename": None},
            400,
            "InvalidParameter",
            "mapping_bam_out_filename: it is missing",
        ),
    ],
)
async def test_a_refused_start_names_the_field_as_it_was_sent(
    client: Client, body: JsonObject, change: JsonObject, status: int, code: str, message: str
) -> None:
    names = {name.lower() for name in change}
    sent = {name: value for name, value in body.items() if name.lower() not in names} | change
    response = await client.post("/gs/workflow", json=sent)
    assert (await error(response, status, code)).startswith(f"The parameter {message}")
    assert (await (await client.get("/gs/workflows")).json()) == {"jobs": []}


async def test_a_refused_start_leaves_nothing_behind(client: Client, settings: Settings) -> None:
    await client.post("/gs/workflow", json=WGS | {"wgs_reference_file": "hg38"})
    assert list((settings.data / "runs").iterdir()) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"wgs_vcf_File_name": ".wesemu/records/a.vcf"},
        {"wgs_gvcf_file_name": ".wesemu/uploads/a.vcf.gz"},
        {"wgs_bam_file_name": ".WESEMU/a.bam"},
        {"wgs_bam_out_path": ".wesemu/", "wgs_bam_out_filename": "a.bam"},
        {"wgs_bam_file_name": "sly/a.bam"},
        {"wgs_fastq_first_name": ".wesemu/uploads/a_1.fq.gz"},
        {"wgs_reference_file": ".wesemu/reference.fa"},
    ],
)
async def test_no_field_names_the_server_s_own_files(
    client: Client, bucket: Path, fields: JsonObject
) -> None:
    (bucket / ".wesemu").mkdir(exist_ok=True)
    (bucket / "sly").symlink_to(bucket / ".wesemu")
    response = await client.post("/gs/workflow", json=WGS | fields)
    message = await error(response, 400, "InvalidParameter")
    assert "kept for the server's own files" in message
    assert any(name in message for name in fields)
