"""alibabacloud_cs20151215: the typed operations (ROA) and the generic call_api (ACS3)."""

import asyncio
import json
from collections.abc import Awaitable, Callable
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


def typed(endpoint: str, secret: str = SECRET) -> Any:
    """The client of 4.7.7, the last release with the workflow operations."""
    from alibabacloud_cs20151215.client import Client

    return Client(config(endpoint, secret))


def generic(endpoint: str, secret: str = SECRET) -> Any:
    """What the client of every later release is derived from, and all that it needs of it."""
    from alibabacloud_tea_openapi.client import Client

    return Client(config(endpoint, secret))


def config(endpoint: str, secret: str) -> Any:
    from alibabacloud_tea_openapi.models import Config

    return Config(
        access_key_id=KEY_ID, access_key_secret=secret, endpoint=endpoint, protocol="http"
    )


async def fails(answer: Awaitable[Any]) -> Any:
    """The SDK's exception, with code, message and statusCode."""
    with pytest.raises(Exception, match="code") as caught:
        await answer
    return caught.value


async def test_the_typed_operations_run_a_job_from_start_to_removal(
    endpoint: str, end: Callable[[str], Awaitable[None]], schemes: set[str]
) -> None:
    from alibabacloud_cs20151215.models import CancelWorkflowRequest, StartWorkflowRequest

    sdk = typed(endpoint)
    started = await asyncio.to_thread(sdk.start_workflow, StartWorkflowRequest(**MAPPING))
    name = started.body.job_name
    assert started.status_code == 200
    assert name.startswith("mapping-gpu-")
    await end(name)
    told = await asyncio.to_thread(sdk.descirbe_workflow, name)
    assert told.body.status == "Succeeded"
    assert (told.body.total_reads, told.body.total_bases) == ("4000", "600000")
    assert told.body.create_time == "2020-01-15 16:30:25 +0800 CST"
    assert json.loads(told.body.user_input_data)["mapping_bam_file_name"].endswith("abc.bam")
    listed = await asyncio.to_thread(sdk.describe_workflows)
    assert [job.job_name for job in listed.body.jobs] == [name]
    request = CancelWorkflowRequest(action="cancel")
    cancelled = await asyncio.to_thread(sdk.cancel_workflow, name, request)
    assert cancelled.status_code == 200
    removed = await asyncio.to_thread(sdk.remove_workflow, name)
    assert removed.status_code == 200
    gone = await fails(asyncio.to_thread(sdk.descirbe_workflow, name))
    assert gone.code == "ErrorWorkflowNotFound"
    assert schemes == {"acs"}


async def call_api(
    sdk: Any, method: str, path: str, body: dict[str, str] | None = None, **query: str
) -> Any:
    """As users of 4.7.8 and later call, who have no typed workflow operations."""
    from alibabacloud_tea_openapi.utils_models import OpenApiRequest, Params
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
    return await asyncio.to_thread(sdk.call_api, action, request, RuntimeOptions())


@pytest.mark.parametrize(("make", "scheme"), [(generic, "ACS3-HMAC-SHA256"), (typed, "acs")])
async def test_call_api_runs_a_job_from_start_to_removal(
    endpoint: str,
    end: Callable[[str], Awaitable[None]],
    schemes: set[str],
    make: Callable[[str], Any],
    scheme: str,
) -> None:
    sdk = make(endpoint)
    started = await call_api(sdk, "POST", "/gs/workflow", MAPPING)
    name = started["body"]["JobName"]
    await end(name)
    path = f"/gs/workflow/{name}"
    told = (await call_api(sdk, "GET", path))["body"]
    assert (told["status"], told["sla_minutes"]) == ("Succeeded", "30")
    listed = await call_api(sdk, "GET", "/gs/workflows", limit="8", x="a b/ü+&=~*'", empty="")
    assert [job["job_name"] for job in listed["body"]["jobs"]] == [name]
    await call_api(sdk, "PUT", path, {"action": "cancel"})
    await call_api(sdk, "DELETE", path)
    listed = await call_api(sdk, "GET", "/gs/workflows")
    assert listed["body"] == {"jobs": []}
    assert schemes == {scheme}
