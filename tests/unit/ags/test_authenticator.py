"""Signatures of AGS: keys, times, nonces; altered requests are refused."""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from unit.ags.signer import KEY_ID, Headers, sign_acs3, sign_roa

from wesemu.api.ags import auth as module
from wesemu.api.ags.auth import AgsAuthenticator, SignedRequest
from wesemu.api.ags.responses import AgsSignatureRefused
from wesemu.api.base import collect_headers
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import Owner

WIRE = Path(__file__).resolve().parents[4] / "shared" / "data" / "ags-wire"
NOW = datetime(2026, 11, 20, 23, 20, 0, tzinfo=UTC)
BODY = b'{"action": "cancel"}'


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def authenticator(clock: ManualClock) -> AgsAuthenticator:
    return make_authenticator(clock)


def make_authenticator(clock: ManualClock) -> AgsAuthenticator:
    return AgsAuthenticator({KEY_ID: "a secret for tests", "LTAIother": "another"}, clock)


def roa(
    *,
    method: str = "PUT",
    target: str = "/gs/workflow/wgs-gpu-97xfn?RegionId=cn-shenzhen",
    resource: str | None = None,
    body: bytes = BODY,
    more: Headers | None = None,
    date: str | None = "Fri, 20 Nov 2026 23:20:31 GMT",
) -> SignedRequest:
    """As the old SDK signs; `resource` is what it signs, where that is not the target."""
    headers: Headers = [
        ("Accept", "application/json"),
        ("Content-Type", "application/json"),
        ("Content-MD5", base64.b64encode(hashlib.md5(body).digest()).decode()),
        *([("Date", date)] if date else []),
        ("x-acs-version", "2015-12-15"),
        *(more or []),
    ]
    headers.append(("Authorization", sign_roa(method, resource or target, headers)))
    return SignedRequest(method, target, collect_headers(headers), body)


def acs3(
    *,
    target: str = "/gs/workflows?a=~%2A&limit=8",
    query: str = "a=~%2A&limit=8",
    body: bytes = b"",
    nonce: str = "dacb644d",
    unsigned: Headers | None = None,
    drop: str = "",
) -> SignedRequest:
    """As call_api signs; `unsigned` headers are sent without being signed, `drop` is not sent."""
    headers: Headers = [
        ("host", "127.0.0.1:8070"),
        ("x-acs-date", "2026-11-20T23:20:37Z"),
        ("x-acs-signature-nonce", nonce),
        ("x-acs-content-sha256", hashlib.sha256(body).hexdigest()),
    ]
    headers = [(name, value) for name, value in headers if name != drop]
    authorization = sign_acs3("GET", target.partition("?")[0], query, headers, body)
    headers += [("Authorization", authorization), *(unsigned or [])]
    return SignedRequest("GET", target, collect_headers(headers), body)


def altered(request: SignedRequest, **headers: str) -> SignedRequest:
    """With header values replaced; names are written with underscores."""
    changes = {name.replace("_", "-"): value for name, value in headers.items()}
    return replace(request, headers={**request.headers, **changes})


def refusal(authenticator: AgsAuthenticator, request: SignedRequest) -> AgsSignatureRefused:
    with pytest.raises(AgsSignatureRefused) as caught:
        authenticator.check(request)
    return caught.value


def test_a_signed_request_is_its_key_s(authenticator: AgsAuthenticator) -> None:
    assert authenticator.check(roa()) == Owner(KEY_ID)
    assert authenticator.check(acs3()) == Owner(KEY_ID)


@pytest.mark.parametrize(
    ("target", "resource"),
    [
        ("/gs/workflow/a%20b", "/gs/workflow/a b"),
        ("/gs/workflow/a%20b", "/gs/workflow/a%20b"),
        ("/gs/workflows?e=&z=1", "/gs/workflows?e=&z=1"),
        ("/gs/workflows?e=&z=1", "/gs/workflows?e&z=1"),
        ("/gs/workflows?z=a+b%2F%C3%BC&a=1", "/gs/workflows?a=1&z=a b/ü"),
        ("/gs/workflows", "/gs/workflows"),
    ],
)
def test_both_sdk_generations_spell_the_resource_their_way(
    authenticator: AgsAuthenticator, target: str, resource: str
) -> None:
    assert authenticator.check(roa(target=target, resource=resource)) == Owner(KEY_ID)


def test_neither_nonce_nor_digest_nor_date_is_required_by_itself(
    authenticator: AgsAuthenticator,
) -> None:
    dated: Headers = [("x-acs-date", "2026-11-20T23:20:37Z")]
    assert authenticator.check(roa(date=None, more=dated)) == Owner(KEY_ID)
    assert authenticator.check(acs3(drop="x-acs-signature-nonce")) == Owner(KEY_ID)
    assert authenticator.check(acs3(drop="x-acs-content-sha256")) == Owner(KEY_ID)


def test_a_security_token_is_signed_and_else_ignored(authenticator: AgsAuthenticator) -> None:
    request = roa(more=[("x-acs-security-token", "STSTOKEN")])
    assert authenticator.check(request) == Owner(KEY_ID)
    assert (
        refusal(authenticator, altered(request, x_acs_security_token="X")).code
        == "SignatureDoesNotMatch"
    )


@pytest.mark.parametrize(
    "request_",
    [
        replace(roa(), method="DELETE"),
        replace(roa(), target="/gs/workflow/wgs-gpu-zls6r?RegionId=cn-shenzhen"),
        replace(roa(), target="/gs/workflow/wgs-gpu-97xfn?RegionId=cn-beijing"),
        replace(roa(), target="/gs/workflow/wgs-gpu-97xfn"),
        replace(roa(), target="/gs/workflow/wgs-gpu-97xfn?RegionId=cn-shenzhen&x=1"),
        replace(roa(), body=b'{"action": "resume"}'),
        replace(roa(target="/gs/workflow/a%20b"), target="/gs/workflow/a%2520b"),
        altered(roa(), content_type="text/plain"),
        altered(roa(), date="Fri, 20 Nov 2026 23:20:32 GMT"),
        altered(roa(), x_acs_version="2015-12-16"),
        altered(roa(), x_acs_action="StartWorkflow"),
        altered(roa(), content_md5="AAAA"),
        altered(roa(), authorization=f"acs {KEY_ID}:AAAA"),
        altered(roa(), authorization=f"acs LTAIother:{roa().headers['authorization'][16:]}"),
        replace(acs3(), method="POST"),
        replace(acs3(), target="/gs/workflow?a=~%2A&limit=8"),
        replace(acs3(), target="/gs/workflows?a=~%2A&limit=9"),
        replace(acs3(), body=b"{}"),
        altered(acs3(), host="127.0.0.1:8071"),
        altered(acs3(), x_acs_date="2026-11-20T23:20:38Z"),
        altered(acs3(), x_acs_content_sha256="0" * 64),
        altered(acs3(), authorization=acs3().headers["authorization"][:-1] + "0"),
    ],
)
def test_an_altered_request_is_refused(
    authenticator: AgsAuthenticator, request_: SignedRequest
) -> None:
    refused = refusal(authenticator, request_)
    assert (refused.status, refused.code) == (400, "SignatureDoesNotMatch")
    assert ":" in refused.message


def test_a_mismatch_tells_what_the_server_signed(authenticator: AgsAuthenticator) -> None:
    message = refusal(authenticator, replace(roa(), method="GET")).message
    assert message.startswith(
        "Specified signature is not matched with our calculation. "
        "server string to sign is:GET\napplication/json\n"
    )


def test_a_repeated_header_cannot_smuggle_a_value_in(authenticator: AgsAuthenticator) -> None:
    request = roa()
    headers = collect_headers([*request.headers.items(), ("X-Acs-Version", "2099-01-01")])
    assert refusal(authenticator, replace(request, headers=headers)).code == "SignatureDoesNotMatch"


def test_the_wrong_digest_of_the_body_is_refused_although_signed(
    authenticator: AgsAuthenticator,
) -> None:
    wrong = replace(roa(body=b"{}"), body=BODY)
    assert "does not match Content-MD5:" in refusal(authenticator, wrong).message
    wrong = replace(acs3(), body=BODY)  # so does aliyun-java-sdk-core after `setHttpContent`
    assert "does not match x-acs-content-sha256:" in refusal(authenticator, wrong).message


@pytest.mark.parametrize("name", ["x-acs-action", "x-acs-security-token"])
def test_acs3_must_sign_every_x_acs_header(authenticator: AgsAuthenticator, name: str) -> None:
    refused = refusal(authenticator, acs3(unsigned=[(name, "v")]))
    assert (refused.status, refused.code) == (400, "IncompleteSignature")
    assert name in refused.message


def test_the_java_sdk_s_order_of_the_fields_is_read_and_its_host_unsigned(
    authenticator: AgsAuthenticator,
) -> None:
    request = acs3(drop="host", unsigned=[("host", "127.0.0.1:8070")])
    credential, names, signature = request.headers["authorization"].split(",")
    java = altered(request, authorization=f"{credential},{signature},{names}")
    assert authenticator.check(java) == Owner(KEY_ID)


@pytest.mark.parametrize("wrong", ["{0},{1}", "{0},{1},{2},{2}", "{0},{1},x{2}", "{0},{1},{1}"])
def test_acs3_needs_each_field_once(authenticator: AgsAuthenticator, wrong: str) -> None:
    request = acs3()
    fields = request.headers["authorization"].split(",")
    refused = refusal(authenticator, altered(request, authorization=wrong.format(*fields)))
    assert refused.code == "IncompleteSignature"


@pytest.mark.parametrize(
    "authorization", ["", "Bearer x", "acs", "acs id", "ACS3-HMAC-SM3 Credential=a", "acs a:b:c d"]
)
def test_other_authorizations_are_incomplete(
    authenticator: AgsAuthenticator, authorization: str
) -> None:
    refused = refusal(authenticator, altered(roa(), authorization=authorization))
    assert (refused.status, refused.code) == (400, "IncompleteSignature")


def test_an_unknown_key_is_reported_as_by_the_cloud(clock: ManualClock) -> None:
    refused = refusal(AgsAuthenticator({"LTAIother": "x"}, clock), roa())
    assert (refused.status, refused.code) == (404, "InvalidAccessKeyId.NotFound")
    assert refused.message == "Specified access key is not found."


@pytest.mark.parametrize("minutes", [-14, 15])
def test_clocks_may_differ_by_a_quarter_of_an_hour(
    authenticator: AgsAuthenticator, clock: ManualClock, minutes: int
) -> None:
    clock.advance(timedelta(minutes=minutes))
    assert authenticator.check(roa()) == Owner(KEY_ID)
    assert authenticator.check(acs3()) == Owner(KEY_ID)


@pytest.mark.parametrize("minutes", [-15, 16])
def test_a_request_of_another_time_is_expired(
    authenticator: AgsAuthenticator, clock: ManualClock, minutes: int
) -> None:
    clock.advance(timedelta(minutes=minutes))
    for request in (roa(), acs3()):
        refused = refusal(authenticator, request)
        assert (refused.status, refused.code) == (400, "InvalidTimeStamp.Expired")


@pytest.mark.parametrize(
    "date", ["yesterday", "2026-13-01T00:00:00Z", "²", f"Fri, 20 Nov {10**20} 23:20:31 GMT"]
)
def test_a_date_that_is_none_is_refused(authenticator: AgsAuthenticator, date: str) -> None:
    for request in (roa(date=date), altered(acs3(), x_acs_date=date)):
        assert refusal(authenticator, request).code == "IncompleteSignature"


def test_a_request_without_any_date_is_refused(authenticator: AgsAuthenticator) -> None:
    assert "Date" in refusal(authenticator, roa(date=None)).message.title()
    dated: Headers = [("Date", "Fri, 20 Nov 2026 23:20:31 GMT")]
    assert (
        refusal(authenticator, acs3(drop="x-acs-date", unsigned=dated)).code
        == "IncompleteSignature"
    )


def test_a_nonce_counts_once(authenticator: AgsAuthenticator, clock: ManualClock) -> None:
    authenticator.check(acs3(nonce="a"))
    clock.advance(timedelta(minutes=10))
    refused = refusal(authenticator, acs3(nonce="a"))
    assert (refused.status, refused.code) == (400, "SignatureNonceUsed")
    assert authenticator.check(acs3(nonce="b")) == Owner(KEY_ID)


def test_a_refused_request_does_not_use_its_nonce_up(authenticator: AgsAuthenticator) -> None:
    refusal(authenticator, replace(acs3(nonce="a"), method="POST"))
    assert authenticator.check(acs3(nonce="a")) == Owner(KEY_ID)


def test_old_nonces_are_forgotten(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NONCES", 3)
    authenticator = make_authenticator(clock)
    for nonce in "abcde":
        authenticator.check(acs3(nonce=nonce))
    assert [nonce for _, nonce in authenticator._nonces] == ["c", "d", "e"]
    clock.advance(timedelta(minutes=31))
    authenticator.check(roa(date=None, more=fresh(clock.now(), nonce="f")))
    assert [nonce for _, nonce in authenticator._nonces] == ["f"]


def test_a_nonce_is_kept_as_long_as_its_time_stamp_is_accepted(
    authenticator: AgsAuthenticator, clock: ManualClock
) -> None:
    ahead = roa(date=None, more=fresh(clock.now() + timedelta(minutes=15), nonce="a"))
    authenticator.check(ahead)
    clock.advance(timedelta(minutes=30))
    assert refusal(authenticator, ahead).code == "SignatureNonceUsed"


def fresh(moment: datetime, *, nonce: str) -> Headers:
    return [("x-acs-date", f"{moment:%Y-%m-%dT%H:%M:%SZ}"), ("x-acs-signature-nonce", nonce)]


def _captured() -> list[Any]:
    if not WIRE.is_dir():
        reason = "no ../shared/data/ags-wire beside the checkout"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    return [
        pytest.param(path, id=f"{path.parent.name}/{path.stem}")
        for path in sorted(WIRE.glob("*/*.json"))
    ]


def _load(path: Path) -> SignedRequest:
    sent = json.loads(path.read_text())
    headers = collect_headers([(name, value) for name, value in sent["headers"]])
    body = base64.b64decode(sent["body_b64"])
    return SignedRequest(sent["method"], sent["target"], headers, body)


def _recorded_keys(secret: str = "testsecret0000000000000000000") -> AgsAuthenticator:
    return AgsAuthenticator({"LTAItestkey00000": secret}, ManualClock(NOW))


def _alterations(request: SignedRequest) -> Iterator[SignedRequest]:
    yield replace(request, method="PATCH")
    yield replace(request, target=request.target.replace("/gs/workflow", "/gs/w0rkflow"))
    yield replace(request, target=request.target + "%25")
    yield replace(request, target=request.target + ("&" if "?" in request.target else "?") + "y=1")
    if "%20" in request.target:
        yield replace(request, target=request.target.replace("%20", "%2520"))
    acs3 = request.headers["authorization"].startswith("ACS3")
    if acs3 or "content-md5" in request.headers:
        yield replace(request, body=request.body + b" ")
    yield from _header_alterations(request, acs3=acs3)


def _header_alterations(request: SignedRequest, *, acs3: bool) -> Iterator[SignedRequest]:
    covered = {"accept", "content-md5", "content-type", "date"}
    if acs3:
        listed = request.headers["authorization"].partition("SignedHeaders=")[2]
        covered = set(listed.partition(",")[0].split(";"))
    for name, value in request.headers.items():
        if name in covered or name.startswith("x-acs-"):
            yield replace(request, headers=request.headers | {name: value + "x"})
            yield replace(
                request, headers={key: text for key, text in request.headers.items() if key != name}
            )
    yield replace(request, headers=request.headers | {"x-acs-extra": "1"})
    claimed = request.headers["authorization"]
    last = "0" if claimed[-2] != "0" else "1"
    forged = claimed[:-2] + last + claimed[-1]
    yield replace(request, headers=request.headers | {"authorization": forged})


@pytest.mark.parametrize("path", _captured())
def test_every_captured_request_of_the_real_sdks_is_let_in(path: Path) -> None:
    assert _recorded_keys().check(_load(path)) == Owner("LTAItestkey00000")


@pytest.mark.parametrize("path", _captured())
def test_every_altered_copy_of_a_captured_request_is_refused(path: Path) -> None:
    request = _load(path)
    with pytest.raises(AgsSignatureRefused):
        _recorded_keys("another secret").check(request)
    copies = list(_alterations(request))
    assert len(copies) > 8
    for number, copy in enumerate(copies):
        with pytest.raises(AgsSignatureRefused):
            pytest.fail(f"alteration {number} was let in: {_recorded_keys().check(copy)}")
