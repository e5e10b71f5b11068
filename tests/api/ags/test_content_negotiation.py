"""XML for clients that ask for it, JSON for all others."""

import json
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

import pytest
from aiohttp import ClientResponse
from api.ags.conftest import MAPPING, WGS, Client, Reach, Start

from wesemu.runs.model import JsonObject

pytestmark = pytest.mark.usefixtures("bucket")

XML = {"Accept": "application/xml"}


async def parsed(response: ClientResponse, root: str) -> Element:
    """The answer's document, which is well-formed and without namespaces."""
    assert response.content_type == "application/xml"
    assert response.charset == "utf-8"
    body = await response.read()
    assert body.startswith(b"<?xml ")
    document = ET.fromstring(body)
    assert document.tag == root
    assert not any("}" in element.tag for element in document.iter())
    return document


def members(element: Element) -> dict[str, str]:
    assert len({child.tag for child in element}) == len(element)
    return {child.tag: child.text or "" for child in element}


async def test_a_job_is_the_same_in_xml_and_json(client: Client, reach: Reach) -> None:
    body = MAPPING | {"mapping_reference_group": r"@RG\tID:<a>&amp;\tSM:U]]>"}
    response = await client.post("/gs/workflow", json=body, headers=XML)
    name = members(await parsed(response, "StartWorkflowResponse"))["JobName"]
    await reach(name)

    in_json = await (await client.get("/gs/workflows")).json()
    response = await client.get("/gs/workflows", headers=XML)
    jobs = await parsed(response, "DescribeWorkflowsResponse")
    assert [members(job) for job in jobs.iterfind("jobs/job")] == in_json["jobs"]
    assert len(jobs) == 1

    in_json = await (await client.get(f"/gs/workflow/{name}")).json()
    response = await client.get(f"/gs/workflow/{name}", headers=XML)
    told = members(await parsed(response, "DescirbeWorkflowResponse"))
    assert told == in_json
    assert told["status"] == "Succeeded"
    echoed = json.loads(told["user_input_data"])
    assert echoed["mapping_reference_group"] == body["mapping_reference_group"]


async def test_json_is_utf_8_without_escapes(client: Client, start: Start) -> None:
    """aliyun-java-sdk-core reads `\\u00fc` as `u00fc`."""
    name = await start(MAPPING | {"mapping_bam_out_path": "ü/𝄞"})
    told = await (await client.get(f"/gs/workflow/{name}")).read()
    assert "ü/𝄞/abc.bam".encode() in told
    response = await client.post("/gs/workflow", json={"\ud800ü": "1", "\ud800Ü": "2"})
    assert (response.status, response.charset) == (400, "utf-8")
    assert "The parameter \\ud800Ü: its value is not that of".encode() in await response.read()


async def test_several_jobs_are_elements_of_one_list(client: Client, start: Start) -> None:
    names = [await start(MAPPING), await start(WGS)]
    root = await parsed(await client.get("/gs/workflows", headers=XML), "DescribeWorkflowsResponse")
    (jobs,) = root
    assert (jobs.tag, {job.tag for job in jobs}) == ("jobs", {"job"})
    assert [job.findtext("job_name") for job in jobs] == names[::-1]


async def test_empty_answers_stay_empty(client: Client, start: Start, reach: Reach) -> None:
    name = await start(WGS)
    cancel = await client.put(f"/gs/workflow/{name}", json={"action": "cancel"}, headers=XML)
    await reach(name)
    remove = await client.delete(f"/gs/workflow/{name}", headers=XML)
    for response in (cancel, remove):
        assert (response.status, await response.read()) == (200, b"")
        # aliyun-java-sdk-core reads the type only if no Content-Length says that the body is empty
        assert response.content_type == "application/json"
        assert "Content-Length" not in response.headers


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/gs/nowhere", None, 404, "InvalidAction.NotFound"),
        ("PATCH", "/gs/workflow", None, 405, "UnsupportedHTTPMethod"),
        ("GET", "/gs/workflow/wgs-gpu-bbbbb", None, 404, "ErrorWorkflowNotFound"),
        ("POST", "/gs/workflow", {"workflow_type": "<\u0001\ud800&"}, 400, "InvalidParameter"),
    ],
)
async def test_errors_are_xml_too(
    client: Client, method: str, path: str, body: JsonObject | None, status: int, code: str
) -> None:
    response = await client.request(method, path, json=body, headers=XML)
    assert response.status == status
    told = members(await parsed(response, "Error"))
    assert told["Code"] == told["code"] == code
    assert told["Message"] == told["message"] != ""
    assert told["RequestId"] == told["requestId"] == response.headers["x-acs-request-id"]
    assert told["HostId"]


@pytest.mark.parametrize(
    ("accept", "query", "is_xml"),
    [
        (None, "", False),
        ("*/*", "", False),
        ("application/json", "", False),
        ("application/octet-stream", "", False),
        ("application/xml", "", True),
        ("text/xml; charset=utf-8", "", True),
        ("Application/XML;Q=0.5", "", True),
        ("text/html, application/xml;q=0.9, */*;q=0.8", "", True),
        ("application/json, application/xml", "", False),
        ("application/xml, application/json", "", True),
        ("application/json;q=0.3, application/xml;q=0.4", "", True),
        ("application/xml;q=0, */*", "", False),
        ("application/json", "?Format=XML", True),
        (None, "?format=xml", True),
        ("application/xml", "?Format=JSON", False),
        ("application/xml", "?Format=yaml", True),
        (";;,q=,application/xml;q=nan", "", True),
    ],
)
async def test_who_gets_xml(client: Client, accept: str | None, query: str, is_xml: bool) -> None:
    headers = {} if accept is None else {"Accept": accept}
    kind = "application/xml" if is_xml else "application/json"
    for path, status in (("/gs/workflows", 200), ("/gs/nowhere", 404)):
        response = await client.get(f"{path}{query}", headers=headers)
        assert (response.status, response.content_type) == (status, kind)
