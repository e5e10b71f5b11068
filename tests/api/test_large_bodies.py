"""Large and deep bodies are refused, or read without blocking the event loop."""

import base64
import hashlib
import json
import threading
from io import BytesIO
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

Client = TestClient[web.Request, web.Application]
LARGE = 10_000
WIDE = {f"p{number}": number for number in range(200_000)}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def only_aside(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Large texts that were parsed; doing so in the event loop's thread fails the request."""
    loop, parsed = threading.current_thread(), list[str]()

    def watched(parse: Any) -> Any:
        def act(text: Any, *arguments: Any, **options: Any) -> Any:
            if len(text) > LARGE:
                assert threading.current_thread() is not loop
                parsed.append(parse.__name__)
            return parse(text, *arguments, **options)

        return act

    monkeypatch.setattr(json, "loads", watched(json.loads))
    return parsed


def body(**fields: Any) -> bytes:
    return json.dumps({"workflow_url": "mapping", **fields}).encode()


@pytest.mark.parametrize(
    ("path", "data", "told"),
    [
        ("/ga4gh/wes/v1/runs", body(workflow_params=WIDE), "p0: it is unknown"),
        ("/ga4gh/wes/v1/runs", body(workflow_params=json.dumps(WIDE)), "p0: it is unknown"),
        ("/ga4gh/wes/v1/runs", body()[:-1] + b', "tags": ' + b"[" * 500_000, "nested too deeply"),
        ("/gs/workflow", json.dumps(dict(list(WIDE.items())[:50_000])).encode(), "workflow_type"),
        ("/gs/workflow", b'{"a":' * 200_000, "nested too deeply"),
    ],
    ids=["WES wide", "WES wide text", "WES deep", "AGS wide", "AGS deep"],
)
async def test_json_is_parsed_aside(
    client: Client, only_aside: list[str], path: str, data: bytes, told: str
) -> None:
    response = await client.post(path, data=BytesIO(data), headers=JSON)
    text = await response.text()
    assert (response.status, told in text) == (400, True), text
    assert only_aside


DEEP = b"<Delete>" + b"<a>" * 500_000
WIDE_XML = b"<Delete>" + b"<Object><Key>k</Key></Object>" * 100_000 + b"</Delete>"
NARROW = b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1000 + b"</Delete>"


@pytest.mark.parametrize(
    ("document", "status", "told"),
    [
        (DEEP, 400, "nested too deeply"),
        (WIDE_XML, 400, "too many elements"),
        (b"<Delete><Object>", 400, "not XML from line 1"),
        (NARROW, 200, "DeleteResult"),
    ],
    ids=["deep", "wide", "broken", "as large as may be"],
)
async def test_documents_are_bounded(
    client: Client, document: bytes, status: int, told: str
) -> None:
    digest = base64.b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()
    response = await client.post(
        "/oss/genes?delete", data=BytesIO(document), headers={"Content-MD5": digest}
    )
    text = await response.text()
    assert (response.status, told in text) == (status, True), text


async def test_a_form_of_many_fields_is_refused(client: Client) -> None:
    response = await client.post(
        "/ga4gh/wes/v1/runs",
        data=BytesIO(b"workflow_url=a&" * 250_000),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert response.status == 400
    assert "more than 1000 fields" in (await response.json())["msg"]
