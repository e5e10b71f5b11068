"""Every error of AGS in each of the three SDKs, with and without access keys."""

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conformance.ags.background import Background, serving
from conformance.ags.conftest import KEY_ID, SECRET
from conformance.ags.refusals import JOBS, MAPPING, REFUSALS, REFUSED_STARTS, on, start
from conformance.ags.sdks import SDKS, Call, Credentials, Sdk, Told
from structlog.testing import capture_logs

from wesemu.errors import (
    Conflict,
    DiskFull,
    Forbidden,
    IssuerUnreachable,
    NotFound,
    StoreError,
    TokenRefused,
)
from wesemu.runs.model import LOCAL_OWNER, Owner
from wesemu.runs.service import RunService

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")

GOOD = Credentials(KEY_ID, SECRET)


@dataclass(frozen=True, slots=True)
class Stage:
    """A server, and the names of jobs on it."""

    server: Background
    keyed: bool
    running: str
    ended: str
    foreign: str

    def set(self, call: Call) -> Call:
        """With the job that a path names by its state."""
        names = {"running": self.running, "ended": self.ended, "foreign": self.foreign}
        as_wgs = self.running.replace("mapping", "wgs")
        return replace(call, path=call.path.format(**names, as_wgs=as_wgs))


@pytest.fixture(scope="module", params=["keys", "no-keys"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    keyed = request.param == "keys"
    data = tmp_path_factory.mktemp("stage") / "data"
    with serving(data, {KEY_ID: SECRET} if keyed else {}) as server:
        mine = Owner(KEY_ID) if keyed else LOCAL_OWNER
        ended = server.job(mine, "done")
        running, foreign = server.job(mine, "wait-1"), server.job(Owner("somebody"), "wait-1")
        yield Stage(server, keyed, running, ended, foreign)


@pytest.fixture(params=SDKS)
def make(request: pytest.FixtureRequest) -> type[Sdk]:
    return SDKS[request.param]


@pytest.fixture
def sdk(stage: Stage, make: type[Sdk]) -> Sdk:
    return make(stage.server.endpoint, GOOD)


def refused(sdk: Sdk, call: Call) -> Told:
    with pytest.raises(Exception, match=r".") as caught:
        sdk.send(call)
    return sdk.told(caught.value)


def check(told: Told, status: int, code: str, message: str) -> None:
    assert (told.status, told.code) == (status, code), told
    assert re.match(message, told.message), told.message
    assert told.request_id


def check_if_keyed(stage: Stage, sdk: Sdk, call: Call, told: tuple[int, str, str]) -> None:
    """A server without keys lets everybody in, whatever they sign with."""
    if stage.keyed:
        check(refused(sdk, call), *told)
    else:
        sdk.send(call)


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_reported(stage: Stage, sdk: Sdk, case: str) -> None:
    call, *expected = REFUSALS[case]
    check(refused(sdk, stage.set(call)), *expected)


@pytest.mark.parametrize(
    ("call", "status", "code", "message"),
    REFUSED_STARTS,
    ids=[f"{number}-{row[3].split(':')[0]}" for number, row in enumerate(REFUSED_STARTS)],
)
def test_a_refused_start_names_the_field(
    sdk: Sdk, call: Call, status: int, code: str, message: str
) -> None:
    check(refused(sdk, call), status, code, f"The parameter {message}")


@pytest.mark.parametrize("name", ["old", "call_api"])
@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"workflow_type":'])
def test_a_body_that_is_no_json_is_refused(stage: Stage, name: str, body: bytes) -> None:
    """The operations of 4.7.7 cannot send such a thing."""
    sdk = SDKS[name](stage.server.endpoint, GOOD)
    for call in (Call("POST", "/gs/workflow", body), stage.set(on("{running}", "PUT", body))):
        check(refused(sdk, call), 400, "InvalidParameter", "the body is not (JSON|UTF-8)")


def test_cancelling_what_has_ended_is_no_error(stage: Stage, sdk: Sdk) -> None:
    sdk.send(stage.set(on("{ended}", "PUT", {"action": "cancel"})))


NO_STANDARD = "The request signature does not conform to Aliyun standards: "
SIGNATURES: dict[str, tuple[int, str, str]] = {
    "unknown key": (404, "InvalidAccessKeyId.NotFound", "Specified access key is not found."),
    "wrong secret": (
        400,
        "SignatureDoesNotMatch",
        "Specified signature is not matched with our calculation. server string to sign is:",
    ),
    "too late": (400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired"),
    "too early": (400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired"),
    "no date": (400, "IncompleteSignature", f"{NO_STANDARD}'tomorrow' is not a date"),
    "nonce used again": (400, "SignatureNonceUsed", "Specified signature nonce was used already"),
    "unsigned": (400, "IncompleteSignature", f"{NO_STANDARD}sign with 'acs'"),
}


@pytest.mark.parametrize(
    ("case", "who"),
    [
        ("unknown key", Credentials("LTAIunknown", SECRET)),
        ("wrong secret", Credentials(KEY_ID, "guessed")),
    ],
)
def test_an_unknown_key_is_reported(
    stage: Stage, make: type[Sdk], case: str, who: Credentials
) -> None:
    sdk = make(stage.server.endpoint, who)
    for call in (JOBS, replace(JOBS, query={"x": "ü: y"})):
        check_if_keyed(stage, sdk, call, SIGNATURES[case])


@pytest.mark.parametrize(("case", "minutes"), [("too late", -16), ("too early", 16)])
def test_a_wrong_clock_is_reported(stage: Stage, sdk: Sdk, case: str, minutes: int) -> None:
    date = datetime.now(UTC) + timedelta(minutes=minutes)
    call = replace(JOBS, headers={"x-acs-date": f"{date:%Y-%m-%dT%H:%M:%SZ}"})
    check_if_keyed(stage, sdk, call, SIGNATURES[case])


def test_a_date_that_cannot_be_parsed_is_reported(stage: Stage, sdk: Sdk) -> None:
    call = replace(JOBS, headers={"x-acs-date": "tomorrow"})
    check_if_keyed(stage, sdk, call, SIGNATURES["no date"])


def test_a_nonce_that_is_used_again_is_refused(stage: Stage, sdk: Sdk) -> None:
    call = replace(JOBS, headers={"x-acs-signature-nonce": f"once-{type(sdk).__name__}"})
    sdk.send(call)
    check_if_keyed(stage, sdk, call, SIGNATURES["nonce used again"])


@pytest.mark.parametrize("name", ["typed", "call_api"])
def test_a_request_without_a_signature_is_refused(stage: Stage, name: str) -> None:
    """Of a client that holds a token of the cloud's instead; the old SDK has no such thing."""
    sdk = SDKS[name](stage.server.endpoint, None)
    check_if_keyed(stage, sdk, JOBS, SIGNATURES["unsigned"])


MISHAPS: list[tuple[Exception, int, str, str]] = [
    (TokenRefused("it is over"), 403, "InvalidToken", "this token is refused: it is over"),
    (Forbidden("not you"), 403, "ErrorCheckAcl", "not you"),
    (NotFound("no such thing"), 404, "ErrorNotFound", "no such thing"),
    (Conflict("not now"), 409, "ErrorConflict", "not now"),
    (IssuerUnreachable("it is down"), 503, "ServiceUnavailable", "it is down"),
    (DiskFull("the disk is full"), 500, "InternalError", "the disk is full"),
    (OSError(errno.ENOSPC, "x"), 500, "InternalError", "the server's disk is full; make room"),
    (StoreError("the index is gone"), 500, "InternalError", "the index is gone"),
    (RuntimeError("a secret"), 500, "InternalError", "Internal error: the server's log has it"),
]
"""What no request can bring about by itself here."""


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    MISHAPS,
    ids=[type(row[0]).__name__ for row in MISHAPS],
)
def test_failures_of_the_server_are_reported(
    stage: Stage,
    sdk: Sdk,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    code: str,
    message: str,
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise error

    for method in ("submit", "page", "remove"):
        monkeypatch.setattr(RunService, method, fail)
    with capture_logs():
        for call in (start(MAPPING), JOBS, on("{ended}", "DELETE")):
            check(refused(sdk, stage.set(call)), status, code, message)


CALLS = {
    "StartWorkflow": start(MAPPING),
    "DescribeWorkflows": JOBS,
    "DescirbeWorkflow": on("{running}", "GET"),
    "CancelWorkflow": on("{ended}", "PUT", {"action": "cancel"}),
    "RemoveWorkflow": on("{running}", "DELETE"),
}
FAULTS = [
    (429, "Throttling", "Too Many Requests"),
    (500, "InternalError", "Internal Server Error"),
    (502, "InternalError", "Bad Gateway"),
    (503, "ServiceUnavailable", "Service Unavailable"),
    (418, "InvalidRequest", "I'm a [Tt]eapot"),
]


@pytest.mark.parametrize(("status", "code", "message"), FAULTS)
def test_an_injected_fault_is_answered_at_once(
    stage: Stage, sdk: Sdk, status: int, code: str, message: str
) -> None:
    """None of the SDKs asks again by itself: the one fault reaches the user."""
    for operation, call in CALLS.items():
        stage.server.order_fault({"operation": operation, "status": status})
        check(refused(sdk, stage.set(call)), status, code, message)


def test_a_connection_that_is_dropped_is_no_answer(stage: Stage, sdk: Sdk) -> None:
    for operation, call in CALLS.items():
        stage.server.order_fault({"operation": operation, "drop": True})
        told = refused(sdk, stage.set(call))
        assert (told.status, told.request_id) == (None, None), operation
        assert told.message
    sdk.send(JOBS)


def test_every_code_of_the_documentation_is_met() -> None:
    """By the rows above: a code that is new needs a row there, and one in the documentation."""
    page = (Path(__file__).parents[3] / "docs" / "ags.md").read_text(encoding="utf-8")
    parts = re.findall(r"^## (?:Errors|Signatures)\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\|.*", "".join(parts), re.MULTILINE)
    documented = {code for row in rows for code in re.findall(r"`([A-Z][A-Za-z.]+)`", row)}
    met = {row[2] for row in (*REFUSALS.values(), *REFUSED_STARTS, *MISHAPS)}
    met |= {row[1] for row in (*SIGNATURES.values(), *FAULTS)}
    assert met == documented
