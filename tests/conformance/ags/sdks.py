"""One interface to three SDKs, so each runs the same table of errors."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Credentials:
    key_id: str
    secret: str


@dataclass(frozen=True, slots=True)
class Call:
    """`body` is sent as JSON, bytes as they are."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told:
    """What an SDK's exception tells its user; no status where no answer came."""

    status: int | None
    code: str
    message: str
    request_id: str | None


class Sdk(Protocol):
    """One client: `send` returns the answer, `told` reads the exception that it raises.

    Without credentials, which only the newer ones can be, it signs nothing.
    """

    def __init__(self, endpoint: str, credentials: Credentials | None) -> None: ...

    def send(self, call: Call) -> Any: ...

    def told(self, error: Exception) -> Told: ...


class OldCore:
    """aliyun-python-sdk-core's CommonRequest. It retries nothing of products it does not know."""

    def __init__(self, endpoint: str, credentials: Credentials | None) -> None:
        from aliyunsdkcore.client import AcsClient

        assert credentials is not None
        self._endpoint = endpoint
        self._client = AcsClient(credentials.key_id, credentials.secret, "cn-beijing")

    def send(self, call: Call) -> bytes:
        from aliyunsdkcore.request import CommonRequest

        request = CommonRequest()
        request.set_accept_format("json")
        request.set_method(call.method)
        request.set_protocol_type("http")
        request.set_domain(self._endpoint)
        request.set_version("2015-12-15")
        request.set_uri_pattern(call.path)
        for name, value in {"RegionId": "cn-shenzhen", **call.query}.items():
            request.add_query_param(name, value)
        for name, value in {"Content-Type": "application/json", **call.headers}.items():
            request.add_header(name, value)
        if call.body is not None:
            request.set_content(_bytes(call.body))
        answer: bytes = self._client.do_action_with_exception(request)
        return answer

    def told(self, error: Exception) -> Told:
        seen: Any = error
        if not hasattr(seen, "get_http_status"):
            return Told(None, seen.get_error_code(), seen.get_error_msg(), None)
        return Told(
            seen.get_http_status(),
            seen.get_error_code(),
            seen.get_error_msg(),
            seen.get_request_id(),
        )


class Generic:
    """`call_api`, as users of cs 4.7.8 and later write it; signs with ACS3-HMAC-SHA256."""

    def __init__(self, endpoint: str, credentials: Credentials | None) -> None:
        from alibabacloud_tea_openapi.client import Client

        self._client = Client(_config(endpoint, credentials))

    def send(self, call: Call) -> Any:
        return _call_api(self._client, call)

    def told(self, error: Exception) -> Told:
        return _told(error)


class Typed:
    """cs 4.7.7: its own operation where it has one for the call, else its `call_api`; signs with
    HMAC-SHA1."""

    def __init__(self, endpoint: str, credentials: Credentials | None) -> None:
        from alibabacloud_cs20151215.client import Client

        self._client = Client(_config(endpoint, credentials))

    def send(self, call: Call) -> Any:
        from alibabacloud_cs20151215 import models
        from alibabacloud_tea_util.models import RuntimeOptions

        sdk, options = self._client, (dict(call.headers), RuntimeOptions())
        head, _, name = call.path.rpartition("/")
        match call.method, head, name, call.body:
            case "POST", "/gs", "workflow", dict(body) if _knows(models.StartWorkflowRequest, body):
                request = models.StartWorkflowRequest(**body)
                return sdk.start_workflow_with_options(request, *options)
            case "GET", "/gs", "workflows", None if not call.query:
                return sdk.describe_workflows_with_options(*options)
            case "GET", "/gs/workflow", _, None:
                return sdk.descirbe_workflow_with_options(name, *options)
            case "PUT", "/gs/workflow", _, dict(body) if _knows(models.CancelWorkflowRequest, body):
                request = models.CancelWorkflowRequest(**body)
                return sdk.cancel_workflow_with_options(name, request, *options)
            case "DELETE", "/gs/workflow", _, None:
                return sdk.remove_workflow_with_options(name, *options)
            case _:
                return _call_api(sdk, call)

    def told(self, error: Exception) -> Told:
        return _told(error)


SDKS: dict[str, type[Sdk]] = {"old": OldCore, "typed": Typed, "call_api": Generic}


def _config(endpoint: str, credentials: Credentials | None) -> Any:
    from alibabacloud_credentials.client import Client
    from alibabacloud_credentials.models import Config as Credential
    from alibabacloud_tea_openapi.models import Config

    if credentials is None:
        token = Client(Credential(type="bearer", bearer_token="a token of the cloud's"))
        return Config(credential=token, endpoint=endpoint, protocol="http")
    return Config(
        access_key_id=credentials.key_id,
        access_key_secret=credentials.secret,
        endpoint=endpoint,
        protocol="http",
    )


def _call_api(client: Any, call: Call) -> Any:
    from alibabacloud_tea_openapi.utils_models import OpenApiRequest, Params
    from alibabacloud_tea_util.models import RuntimeOptions

    params = Params(
        action="GenericCall",
        version="2015-12-15",
        protocol="HTTP",
        pathname=call.path,
        method=call.method,
        auth_type="AK",
        style="ROA",
        req_body_type="json",
        body_type="none" if call.method in ("PUT", "DELETE") else "json",
    )
    request = OpenApiRequest(query=dict(call.query), headers=dict(call.headers))
    if isinstance(call.body, bytes):
        request.stream = io.BytesIO(call.body)
    else:
        request.body = call.body
    return client.call_api(params, request, RuntimeOptions())


def _told(error: Exception) -> Told:
    """Of the newer SDKs' exceptions, whose message is "code: 404, … request id: …"."""
    seen: Any = error
    status = getattr(seen, "statusCode", None)
    if status is None:
        return Told(None, str(getattr(seen, "code", "")), str(seen), None)
    request_id = seen.data["RequestId"]
    head, tail = f"code: {status}, ", f" request id: {request_id}"
    assert seen.message.startswith(head)
    assert seen.message.endswith(tail)
    message = seen.message.removeprefix(head).removesuffix(tail)
    return Told(status, seen.code, message, request_id)


def _knows(model: type, body: Mapping[str, Any]) -> bool:
    """Whether a typed request has all fields of a body."""
    return body.keys() <= vars(model()).keys()


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()
