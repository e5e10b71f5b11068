"""alibabacloud_cs20151215: the typed operations (ROA) and the generic call_api (ACS3)."""

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest
from conformance.ags.conftest import KEY_ID, SECRET

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")

MAPPING = {
    "workflow_type": "mapping",
    "service": "p",
    "mapping_oss_region": "cn-shenzhen",
    "mapping_bucket_name": "genes",
    "mapping_fastq_path": "fastq",
    "mapping_fastq_first_filename": "a_1.fq.gz",
    "mapping_fastq_second_filename": "a_2.fq.gz",
    "mapping_reference_path": "reference/tiny",
    "mapping_is_mark_dup": "true",
    "mapping_bam_out_path": "output/bamDirName",
    "mapping_bam_out_filename": "abc.bam",
}


def make(endpoint: str, *, secret: str = SECRET, acs3: bool = False) -> Any:
    from alibabacloud_cs20151215.client import Client
    from alibabacloud_tea_openapi.models import Config

    return Client(
        Config(
            access_key_id=KEY_ID,
            access_key_secret=secret,
            endpoint=endpoint,
            protocol="http",
            signature_algorithm="ACS3-HMAC-SHA256" if acs3 else None,
        )
    )


def start_request(**changes: str) -> Any:
    from alibabacloud_cs20151215.models import StartWorkflowRequest

    return StartWorkflowRequest(**MAPPING | changes)


async def fails(answer: Awaitable[Any]) -> Any:
    """The SDK's exception, with code, message and statusCode."""
    with pytest.raises(Exception, match="code") as caught:
        await answer
    return caught.value


@pytest.mark.parametrize("acs3", [False, True])
async def test_the_typed_operations_run_a_job_from_start_to_removal(
    endpoint: str, acs3: bool
) -> None:
    from alibabacloud_cs20151215.models import CancelWorkflowRequest

    sdk = make(endpoint, acs3=acs3)
    started = await asyncio.to_thread(sdk.start_workflow, start_request())
    name = started.body.job_name
    assert started.status_code == 200
    assert name.startswith("mapping-gpu-")
    told = None
    while told is None or told.body.status not in ("Succeeded", "Failed"):
        told = await asyncio.to_thread(sdk.descirbe_workflow, name)
    assert told.body.status == "Succeeded"
    assert (told.body.total_reads, told.body.total_bases) == ("4000", "600000")
    assert told.body.create_time == "2020-01-15 16:30:25 +0800 CST"
    assert json.loads(told.body.user_input_data)["mapping_bam_file_name"].endswith("abc.bam")
    listed = await asyncio.to_thread(sdk.describe_workflows)
    assert [job.job_name for job in listed.body.jobs] == [name]
    cancelled = await asyncio.to_thread(
        sdk.cancel_workflow, name, CancelWorkflowRequest(action="cancel")
    )
    assert cancelled.status_code == 200
    removed = await asyncio.to_thread(sdk.remove_workflow, name)
    assert removed.status_code == 200
    gone = await fails(asyncio.to_thread(sdk.descirbe_workflow, name))
    assert gone.code == "ErrorWorkflowNotFound"


async def call_api(
    endpoint: str, method: str, path: str, body: dict[str, str] | None = None, **query: str
) -> Any:
    """As users of 4.7.8 and later call: the generic operation of the SDK's core, signed ACS3."""
    from alibabacloud_tea_openapi.models import Params
    from alibabacloud_tea_openapi.utils_models import OpenApiRequest
    from alibabacloud_tea_util.models import RuntimeOptions

    action = Params(
        action="GenericCall",
        version="2015-12-15",
        protocol="HTTP",
        pathname=path,
        method=method,
        auth_type="AK",
        style="ROA",
        req_body_type="json",
        body_type="none" if method in ("PUT", "DELETE") else "json",
    )
    request = OpenApiRequest(query=query, body=body)
    return await asyncio.to_thread(
        make(endpoint, acs3=True).call_api, action, request, RuntimeOptions()
    )


async def test_call_api_runs_a_job_from_start_to_removal(endpoint: str) -> None:
    started = await call_api(endpoint, "POST", "/gs/workflow", MAPPING)
    name = started["body"]["JobName"]
    path = f"/gs/workflow/{name}"
    told = {"status": ""}
    while told["status"] not in ("Succeeded", "Failed"):
        told = (await call_api(endpoint, "GET", path))["body"]
    assert told["status"] == "Succeeded"
    assert told["sla_minutes"] == "30"
    listed = await call_api(endpoint, "GET", "/gs/workflows", limit="8", x="a b/ü+&=", empty="")
    assert [job["job_name"] for job in listed["body"]["jobs"]] == [name]
    await call_api(endpoint, "PUT", path, {"action": "cancel"})
    await call_api(endpoint, "DELETE", path)
    listed = await call_api(endpoint, "GET", "/gs/workflows")
    assert listed["body"] == {"jobs": []}


@pytest.mark.parametrize("acs3", [False, True])
async def test_refusals_reach_the_user(endpoint: str, acs3: bool) -> None:
    sdk = make(endpoint, acs3=acs3)
    request = start_request(mapping_bucket_name="gene-shenzhen")
    refused = await fails(asyncio.to_thread(sdk.start_workflow, request))
    assert (refused.statusCode, refused.code) == (404, "ErrorBucketNotFound")
    assert "The parameter mapping_bucket_name: there is no bucket" in refused.message
    sdk = make(endpoint, secret="guessed", acs3=acs3)
    refused = await fails(asyncio.to_thread(sdk.describe_workflows))
    assert (refused.statusCode, refused.code) == (400, "SignatureDoesNotMatch")


async def test_an_unknown_route_keeps_its_status_and_code(endpoint: str) -> None:
    refused = await fails(call_api(endpoint, "GET", "/gs/nothing"))
    assert (refused.statusCode, refused.code) == (404, "InvalidAction.NotFound")
