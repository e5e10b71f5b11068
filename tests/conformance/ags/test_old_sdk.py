"""aliyun-python-sdk-core's CommonRequest, as AGS's own documentation uses it (ROA, HMAC-SHA1)."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from conformance.ags.conftest import KEY_ID, SECRET

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")

BODY = """{"cli_version":"v1.0.1-882299b","wgs_bucket_name":"genes",
"wgs_fastq_first_name":"fastq/a_1.fq.gz","wgs_fastq_second_name":"fastq/a_2.fq.gz",
"wgs_oss_region":"cn-shenzhen","wgs_reference_file":"reference/tiny","wgs_service":"g",
"wgs_vcf_File_name":"vcf/MGISEQ_NA12878_hs37d5_13.vcf","workflow_type":"WGS"}"""


class OldSdk:
    """Sends one CommonRequest at a time, off the event loop."""

    def __init__(self, endpoint: str, secret: str = SECRET) -> None:
        from aliyunsdkcore.client import AcsClient

        self.endpoint = endpoint
        self.client = AcsClient(KEY_ID, secret, "cn-beijing")

    def request(self, method: str, path: str, body: str | None = None) -> Any:
        from aliyunsdkcore.request import CommonRequest

        request = CommonRequest()
        request.set_accept_format("json")
        request.set_method(method)
        request.set_protocol_type("http")
        request.set_domain(self.endpoint)
        request.set_version("2015-12-15")
        request.add_query_param("RegionId", "cn-shenzhen")
        request.add_header("Content-Type", "application/json")
        request.set_uri_pattern(path)
        if body is not None:
            request.set_content(body.encode("utf-8"))
        return request

    async def send(self, method: str, path: str, body: str | None = None) -> bytes:
        request = self.request(method, path, body)
        answer: bytes = await asyncio.to_thread(self.client.do_action_with_exception, request)
        return answer

    async def fails(self, method: str, path: str, body: str | None = None) -> Any:
        from aliyunsdkcore.acs_exception.exceptions import ServerException

        with pytest.raises(ServerException) as caught:
            await self.send(method, path, body)
        return caught.value


@pytest.fixture
def sdk(endpoint: str) -> OldSdk:
    return OldSdk(endpoint)


async def test_the_documented_sample_runs_a_job_from_start_to_removal(
    sdk: OldSdk, end: Callable[[str], Awaitable[None]], schemes: set[str]
) -> None:
    name = json.loads(await sdk.send("POST", "/gs/workflow", BODY))["JobName"]
    assert re.fullmatch(r"wgs-gpu-[a-z0-9]{5}", name)
    await end(name)
    told = json.loads(await sdk.send("GET", f"/gs/workflow/{name}"))
    assert told["status"] == "Succeeded"
    assert json.loads(told["user_input_data"])["wgs_service"] == "g"
    jobs = json.loads(await sdk.send("GET", "/gs/workflows"))["jobs"]
    assert [job["job_name"] for job in jobs] == [name]
    assert await sdk.send("PUT", f"/gs/workflow/{name}", '{"action": "cancel"}') == b""
    assert await sdk.send("DELETE", f"/gs/workflow/{name}") == b""
    gone = await sdk.fails("GET", f"/gs/workflow/{name}")
    assert (gone.get_http_status(), gone.get_error_code()) == (404, "ErrorWorkflowNotFound")
    assert name in gone.get_error_msg()
    assert gone.get_request_id()
    assert schemes == {"acs"}


async def test_the_sdk_may_ask_for_xml(sdk: OldSdk) -> None:
    async def send(method: str, path: str, body: str | None = None) -> ET.Element:
        request = sdk.request(method, path, body)
        request.set_accept_format("XML")
        return ET.fromstring(await asyncio.to_thread(sdk.client.do_action, request))

    started = await send("POST", "/gs/workflow", BODY)
    assert started.tag == "StartWorkflowResponse"
    listed = await send("GET", "/gs/workflows")
    assert listed.findtext("jobs/job/job_name") == started.findtext("JobName")


async def test_odd_paths_and_parameters_are_signed_alike(sdk: OldSdk) -> None:
    for path in ("/gs/workflow/a b", "/gs/workflow/a%20b", "/gs/workflow/ü"):
        refused = await sdk.fails("GET", path)
        assert refused.get_error_code() == "ErrorWorkflowNotFound", path
    request = sdk.request("GET", "/gs/workflows")
    for name, value in {"empty": "", "x": "a b/ü+&=", "y": "~*'"}.items():
        request.add_query_param(name, value)
    answer = await asyncio.to_thread(sdk.client.do_action_with_exception, request)
    assert json.loads(answer) == {"jobs": []}
