"""Signatures of OSS: valid requests are accepted, altered copies refused."""

import hmac
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from unit.oss.signer import KEY_ID, SECRET, sign_v1, sign_v2, sign_v4

from wesemu.api.oss.auth import OssAuthenticator, read_signature, string_to_sign, verify
from wesemu.api.oss.request import OssRequest
from wesemu.api.oss.responses import OssSignatureRefused
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import Owner

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DATE = "Sun, 01 Mar 2026 12:00:00 GMT"
TIME = "20260301T120000Z"
CANONICAL = "max-keys=10&prefix=a%2Fb%2Bc&uploads"
Headers = dict[str, str]


def call_of(
    method: str, key: str, *parameters: tuple[str, str], bucket: str = "genes"
) -> OssRequest:
    return OssRequest(method, bucket, key, parameters, dict(reversed(parameters)))


def signed(version: int) -> tuple[OssRequest, Headers]:
    """A request with a key, a query and headers that want care."""
    call = call_of("POST", "a/ü +.fq", ("uploads", ""), ("prefix", "a/b+c"), ("max-keys", "10"))
    headers = {
        "host": "127.0.0.1:8070",
        "content-type": "text/plain",
        "content-md5": "1B2M2Y8AsgTpgAmY7PhCfg==",
        "x-oss-meta-sample": "Ä 1",
        "range": "bytes=0-9",
    }
    resource = "/genes/a/ü +.fq"
    match version:
        case 1:
            headers["date"] = DATE
            authorization = sign_v1("POST", f"{resource}?uploads", headers)
        case 2:
            headers["date"] = DATE
            authorization = sign_v2("POST", resource, CANONICAL, headers)
        case _:
            headers |= {"x-oss-date": TIME, "x-oss-content-sha256": "UNSIGNED-PAYLOAD"}
            authorization = sign_v4("POST", resource, CANONICAL, headers)
    return call, {**headers, "authorization": authorization}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def authenticator(clock: ManualClock) -> OssAuthenticator:
    return OssAuthenticator({KEY_ID: SECRET, "other": "secret"}, clock)


def refused(authenticator: OssAuthenticator, call: OssRequest, headers: Mapping[str, str]) -> str:
    with pytest.raises(OssSignatureRefused) as caught:
        authenticator.check(call, headers)
    assert caught.value.status == 403
    return caught.value.code


def test_the_documented_example_of_version_1_verifies() -> None:
    """help.aliyun.com, "Signature version 1", "Example"."""
    headers = {
        "content-md5": "ODBGOERFMDMzQTczRUY3NUE3NzA5QzdFNUYzMDQxNEM=",
        "content-type": "text/html",
        "date": "Thu, 17 Nov 2005 18:49:58 GMT",
        "x-oss-meta-author": "foo@bar.com",
        "x-oss-magic": "abracadabra",
        "authorization": "OSS 44CF9590006BF252F707:26NBxoKdsyly4EDv6inkoDft/yA=",
    }
    call = call_of("PUT", "nelson", bucket="oss-example")
    signature = read_signature(call, headers)
    assert signature is not None
    assert verify(call, headers, signature, "OtxrzxIsfpFjA7SwPzILwy8Bw21TLhquhboDYROV")
    assert not verify(call, headers, signature, "another secret")


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_signed_request_comes_in(authenticator: OssAuthenticator, version: int) -> None:
    assert authenticator.check(*signed(version)) == Owner(KEY_ID)


@pytest.mark.parametrize("name", ["x-oss-dir", "x-oss-rename", "x-oss-delete", "vpcip"])
def test_version_1_signs_parameters_that_only_the_java_sdk_sends(
    authenticator: OssAuthenticator, name: str
) -> None:
    headers = {"date": DATE}
    headers["authorization"] = sign_v1("POST", f"/genes/a?{name}", headers)
    assert authenticator.check(call_of("POST", "a", (name, "")), headers) == Owner(KEY_ID)


def test_version_4_may_sign_the_header_date(authenticator: OssAuthenticator) -> None:
    """ossutil 1.7 sends no `x-oss-date`."""
    call, headers = signed(4)
    del headers["x-oss-date"]
    headers["date"] = DATE
    headers["authorization"] = sign_v4("POST", "/genes/a/ü +.fq", CANONICAL, headers)
    assert authenticator.check(call, headers) == Owner(KEY_ID)
    other_day = headers["authorization"].replace("/20260301/", "/20260302/")
    assert other_day != headers["authorization"]
    assert refused(authenticator, call, {**headers, "authorization": other_day}) == "AccessDenied"
    assert refused(authenticator, call, {**headers, "date": "today"}) == "AccessDenied"


@pytest.mark.parametrize("version", [1, 2, 4])
@pytest.mark.parametrize(
    "altered",
    [
        {"method": "PUT"},
        {"bucket": "other"},
        {"key": "a/ü +.fq2"},
        {"parameters": (("uploads", "1"), ("prefix", "a/b+c"), ("max-keys", "10"))},
        {"parameters": ()},
        {"parameters": (("uploads", ""), ("acl", ""), ("prefix", "a/b+c"), ("max-keys", "10"))},
    ],
)
def test_an_altered_address_is_refused(
    authenticator: OssAuthenticator, version: int, altered: dict[str, object]
) -> None:
    call, headers = signed(version)
    changed = replace(call, **altered)  # type: ignore[arg-type]
    assert refused(authenticator, changed, headers) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("version", [2, 4])
def test_versions_2_and_4_sign_the_whole_query(
    authenticator: OssAuthenticator, version: int
) -> None:
    call, headers = signed(version)
    changed = replace(call, parameters=(*call.parameters, ("marker", "z")))
    assert refused(authenticator, changed, headers) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("version", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-type", "text/html"),
        ("content-md5", "other"),
        ("x-oss-meta-sample", "B"),
        ("x-oss-new", "added"),
    ],
)
def test_an_altered_header_is_refused(
    authenticator: OssAuthenticator, version: int, name: str, value: str
) -> None:
    call, headers = signed(version)
    assert refused(authenticator, call, {**headers, name: value}) == "SignatureDoesNotMatch"
    without = {other: text for other, text in headers.items() if other != name}
    if name in headers:
        assert refused(authenticator, call, without) == "SignatureDoesNotMatch"


@pytest.mark.parametrize(("version", "name"), [(2, "range"), (4, "host")])
def test_additional_headers_are_signed(
    authenticator: OssAuthenticator, version: int, name: str
) -> None:
    call, headers = signed(version)
    assert refused(authenticator, call, {**headers, name: "x"}) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_signature_of_another_secret_is_refused_with_the_string_to_sign(
    clock: ManualClock, version: int
) -> None:
    other = OssAuthenticator({KEY_ID: "another"}, clock)
    call, headers = signed(version)
    with pytest.raises(OssSignatureRefused) as caught:
        other.check(call, headers)
    assert caught.value.code == "SignatureDoesNotMatch"
    text = caught.value.details["StringToSign"]
    assert text.startswith("OSS4-HMAC-SHA256\n" if version == 4 else "POST\n")
    assert caught.value.details["OSSAccessKeyId"] == KEY_ID


def test_an_unknown_key_is_refused(clock: ManualClock) -> None:
    call, headers = signed(4)
    other = OssAuthenticator({"somebody": SECRET}, clock)
    assert refused(other, call, headers) == "InvalidAccessKeyId"


@pytest.mark.parametrize("authorization", ["", "Bearer x", "OSS x", "OSS4-HMAC-SHA256", "OSS2 a:b"])
def test_requests_without_a_signature_are_refused(
    authenticator: OssAuthenticator, authorization: str
) -> None:
    call = call_of("GET", "a")
    headers = {"authorization": authorization} if authorization else {}
    assert refused(authenticator, call, headers) in ("AccessDenied", "InvalidAccessKeyId")


@pytest.mark.parametrize("scheme", ["OSS4-HMAC-SHA256", "OSS2"])
def test_a_long_header_is_read_at_once(authenticator: OssAuthenticator, scheme: str) -> None:
    """The work does not grow with the square of the length, or anybody could stop the server."""
    headers = {"authorization": f"{scheme} {'a' * 800_000}"}
    assert refused(authenticator, call_of("GET", "a"), headers) == "InvalidAccessKeyId"


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_clock_may_be_a_quarter_of_an_hour_off(
    authenticator: OssAuthenticator, clock: ManualClock, version: int
) -> None:
    clock.advance(timedelta(minutes=15))
    assert authenticator.check(*signed(version)) == Owner(KEY_ID)
    clock.advance(timedelta(seconds=1))
    assert refused(authenticator, *signed(version)) == "RequestTimeTooSkewed"


@pytest.mark.parametrize(("version", "name"), [(1, "date"), (2, "date"), (4, "x-oss-date")])
@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-99-99", f"Sun, 01 Mar {10**20} 12:00:00 GMT"]
)
def test_a_date_is_needed(
    authenticator: OssAuthenticator, version: int, name: str, text: str
) -> None:
    call, headers = signed(version)
    assert refused(authenticator, call, {**headers, name: text}) == "AccessDenied"


def test_the_scope_s_date_is_the_request_s(authenticator: OssAuthenticator) -> None:
    call, headers = signed(4)
    headers["authorization"] = headers["authorization"].replace("20260301/", "20260228/")
    assert refused(authenticator, call, headers) == "AccessDenied"


def test_a_presigned_url_holds_for_seven_days_at_most(authenticator: OssAuthenticator) -> None:
    parameters = [
        ("x-oss-signature-version", "OSS4-HMAC-SHA256"),
        ("x-oss-credential", f"{KEY_ID}/20260301/cn-shenzhen/oss/aliyun_v4_request"),
        ("x-oss-date", TIME),
        ("x-oss-signature", "0" * 64),
    ]
    for seconds, code in (("604800", "SignatureDoesNotMatch"), ("604801", "AccessDenied")):
        call = call_of("GET", "a", *parameters, ("x-oss-expires", seconds))
        assert refused(authenticator, call, {}) == code
    for seconds in ("", "soon", "-1", "9" * 30):
        call = call_of("GET", "a", *parameters, ("x-oss-expires", seconds))
        assert refused(authenticator, call, {}) == "AccessDenied"


def test_a_presigned_url_has_one_date(authenticator: OssAuthenticator) -> None:
    scope = f"{KEY_ID}/20260228/cn-shenzhen/oss/aliyun_v4_request"
    call = call_of(
        "GET",
        "a",
        ("x-oss-signature-version", "OSS4-HMAC-SHA256"),
        ("x-oss-credential", scope),
        ("x-oss-date", TIME),
        ("x-oss-expires", "600"),
    )
    signature = read_signature(call, {})
    assert signature is not None
    key = f"aliyun_v4{SECRET}".encode()
    for step in signature.scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    value = hmac.digest(key, string_to_sign(call, {}, signature).encode(), "sha256").hex()
    signed_call = call_of("GET", "a", *call.parameters, ("x-oss-signature", value))
    with pytest.raises(OssSignatureRefused, match="date in Credential"):
        authenticator.check(signed_call, {})


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59"])
def test_a_presigned_url_of_the_end_of_time_is_not_valid_yet(
    authenticator: OssAuthenticator, time: str
) -> None:
    call = call_of(
        "GET",
        "a",
        ("x-oss-signature-version", "OSS4-HMAC-SHA256"),
        ("x-oss-credential", f"{KEY_ID}/99991231/cn-shenzhen/oss/aliyun_v4_request"),
        ("x-oss-date", time),
        ("x-oss-signature", "0" * 64),
        ("x-oss-expires", "600"),
    )
    assert refused(authenticator, call, {}) == "AccessDenied"
