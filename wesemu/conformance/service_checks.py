"""Checks of a server and its requests: service-info, credentials, RunWorkflow, lists, errors."""

from wesemu.conformance.evidence import (
    DENIED,
    MUST,
    SHOULD,
    Evidence,
    Failure,
    Skip,
    check,
    expect_object,
    expect_refusal,
    expect_schema,
    expect_status,
    follow_pages,
    submit,
)
from wesemu.conformance.probe import Answer
from wesemu.conformance.schemas import (
    SERVICE_INFO,
    STATES,
    ErrorResponseSchema,
    RunId,
    RunListResponseSchema,
    mismatches,
)
from wesemu.conformance.workflows import WorkflowSubmission, supported_engines

# what checks need
_INFO = ("service-info.answers",)
_RUN = ("run.accepted",)
_LIST = ("list.answers",)

_MOST_PAGES = 50
_LARGE_PAGE = "100"
_WRONG_TOKEN = "wes-conformance-wrong"  # noqa: S105


# --- GetServiceInfo ---


@check(MUST, "service-info.answers", "GetServiceInfo", "answers with a JSON object")
async def info_answers(evidence: Evidence) -> Answer:
    return expect_object(evidence.info)


@check(MUST, "service-info.fields", "ServiceInfo", "has the required fields and their types", _INFO)
async def info_fields(evidence: Evidence) -> Answer:
    return expect_schema(evidence.info, SERVICE_INFO[evidence.version])


@check(MUST, "service-info.versions", "ServiceInfo", "lists this version of WES", _INFO)
async def info_versions(evidence: Evidence) -> Answer:
    listed = evidence.info.value("supported_wes_versions")
    if not isinstance(listed, list):
        raise Skip("service-info lists no versions")
    if evidence.version not in listed:
        raise Failure(f"supported_wes_versions lacks {evidence.version}", evidence.info)
    return evidence.info


@check(
    SHOULD,
    "service-info.type",
    "ServiceType",
    "the type is org.ga4gh and wes",
    _INFO,
    since="1.0.1",
)
async def info_type(evidence: Evidence) -> Answer:
    group = evidence.info.value("type", "group")
    artifact = evidence.info.value("type", "artifact")
    if group is None or artifact is None:
        raise Skip("service-info has no type")
    if (group, artifact) != ("org.ga4gh", "wes"):
        raise Failure(f"type is {group}, {artifact}; not org.ga4gh, wes", evidence.info)
    return evidence.info


@check(SHOULD, "service-info.states", "ServiceInfo", "counts runs by state", _INFO)
async def info_states(evidence: Evidence) -> Answer:
    counts = evidence.info.value("system_state_counts")
    if not isinstance(counts, dict):
        raise Skip("service-info has no system_state_counts")
    if unknown := sorted(counts.keys() - STATES[evidence.version]):
        raise Failure(f"system_state_counts has {unknown[0]}, which is not a state", evidence.info)
    return evidence.info


# --- credentials ---


@check(MUST, "auth.missing", "ListRuns", "refuses a request without token with 401 or 403")
async def without_token(evidence: Evidence) -> Answer:
    if not evidence.has_token:
        raise Skip("needs --token")
    return expect_status(await evidence.probe.ask("GET", "runs", token=""), *DENIED)


@check(MUST, "auth.wrong", "ListRuns", "refuses a wrong token with 401 or 403")
async def wrong_token(evidence: Evidence) -> Answer:
    if not evidence.has_token:
        raise Skip("needs --token")
    return expect_status(await evidence.probe.ask("GET", "runs", token=_WRONG_TOKEN), *DENIED)


# --- RunWorkflow ---


@check(MUST, "run.accepted", "RunWorkflow", "accepts a multipart form with attachments")
async def run_accepted(evidence: Evidence) -> Answer:
    return expect_schema(evidence.main.submitted, RunId)


@check(MUST, "run.folders", "RunWorkflow", "keeps the folders in names of attachments", _RUN)
async def run_in_folder(evidence: Evidence) -> Answer:
    trace = evidence.in_folder
    if trace is None:
        raise Skip("only with the workflows of this program")
    if trace.run_id is None:
        raise Failure("an attachment in a folder is refused", trace.submitted)
    if trace.last != "COMPLETE":
        raise Failure(f"the states are {trace.path}; not COMPLETE", trace.log)
    return trace.submitted


@check(
    MUST, "run.url-missing", "RunRequest", "refuses a request without workflow_url with 400", _RUN
)
async def without_url(evidence: Evidence) -> Answer:
    fields = evidence.main.sent.changed(workflow_url=None).fields
    return await expect_refusal(evidence, WorkflowSubmission(fields, ()))


@check(
    MUST, "run.type-missing", "RunRequest", "refuses a request without workflow_type with 400", _RUN
)
async def without_type(evidence: Evidence) -> Answer:
    return await expect_refusal(evidence, evidence.main.sent.changed(workflow_type=None))


@check(
    MUST, "run.type-unknown", "RunWorkflow", "refuses an unsupported workflow_type with 400", _RUN
)
async def unknown_type(evidence: Evidence) -> Answer:
    return await expect_refusal(evidence, evidence.main.sent.changed(workflow_type="NO-SUCH-TYPE"))


@check(
    MUST, "run.params", "RunWorkflow", "refuses workflow_params that are not JSON with 400", _RUN
)
async def bad_params(evidence: Evidence) -> Answer:
    return await expect_refusal(evidence, evidence.main.sent.changed(workflow_params="{no JSON"))


@check(
    SHOULD, "run.parent-folder", "RunWorkflow", "refuses an attachment named ../FILE with 400", _RUN
)
async def parent_folder(evidence: Evidence) -> Answer:
    sent = evidence.main.sent
    files = (*sent.attachments, ("../wes-conformance.txt", b"must be refused\n"))
    return await expect_refusal(evidence, WorkflowSubmission(sent.fields, files))


@check(
    MUST,
    "run.engine",
    "RunWorkflow",
    "refuses an unknown workflow_engine with 400",
    _RUN,
    since="1.1.0",
)
async def unknown_engine(evidence: Evidence) -> Answer:
    return await expect_refusal(
        evidence, evidence.main.sent.changed(workflow_engine="no-such-engine")
    )


@check(
    MUST,
    "run.engine-version",
    "RunWorkflow",
    "refuses an unknown workflow_engine_version with 400",
    _RUN,
    since="1.1.0",
)
async def unknown_engine_version(evidence: Evidence) -> Answer:
    names = supported_engines(evidence.info)
    if not names:
        raise Skip("service-info lists no engines")
    sent = evidence.main.sent.changed(
        workflow_engine=evidence.workflow.engine or names[0], workflow_engine_version="0.0.0-none"
    )
    return await expect_refusal(evidence, sent)


@check(
    MUST,
    "run.engine-missing",
    "RunRequest",
    "accepts a request without workflow_engine",
    _RUN,
    since="1.1.0",
)
async def without_engine(evidence: Evidence) -> Answer:
    sent = evidence.main.sent.changed(workflow_engine=None)
    return expect_status(await submit(evidence, sent), 200)


# --- ListRuns ---


@check(MUST, "list.answers", "ListRuns", "answers with a list of runs")
async def list_answers(evidence: Evidence) -> Answer:
    answer = expect_object(await evidence.probe.ask("GET", "runs"))
    if not isinstance(answer.value("runs"), list):
        raise Failure("there is no list of runs", answer)
    return answer


@check(MUST, "list.fields", "RunListResponse", "has the fields with their types", _LIST)
async def list_fields(evidence: Evidence) -> Answer:
    return expect_schema(await evidence.probe.ask("GET", "runs"), RunListResponseSchema)


@check(MUST, "list.complete", "ListRuns", "has a run that the server executed", (*_LIST, *_RUN))
async def list_contains(evidence: Evidence) -> Answer:
    token = ""
    for _ in range(_MOST_PAGES):
        query = {"page_size": _LARGE_PAGE} | ({"page_token": token} if token else {})
        page = expect_status(await evidence.probe.ask("GET", "runs", query=query), 200)
        for run in page.objects("runs"):
            if run.get("run_id") == evidence.run_id:
                return page
        token = page.word("next_page_token") or ""
        if not token:
            raise Failure(f"the list lacks the run {evidence.run_id}", page)
    raise Skip(f"the run is not on the first {_MOST_PAGES} pages")


@check(SHOULD, "list.order", "ListRuns", "has a stable order", _LIST)
async def list_stable(evidence: Evidence) -> Answer:
    orders = []
    for _ in range(2):
        answer = expect_status(await evidence.probe.ask("GET", "runs"), 200)
        orders.append([run.get("run_id") for run in answer.objects("runs")])
    both = set(orders[0]) & set(orders[1])
    first, second = ([run for run in order if run in both] for order in orders)
    if first != second:
        raise Failure("two answers have the same runs in different orders", answer)
    return answer


@check(MUST, "list.page-size", "ListRuns", "has at most page_size runs on a page", _LIST)
async def list_page_size(evidence: Evidence) -> Answer:
    answer = expect_status(await evidence.probe.ask("GET", "runs", query={"page_size": "1"}), 200)
    if (number := len(answer.objects("runs"))) > 1:
        raise Failure(f"page_size is 1, and the page has {number} runs", answer)
    return answer


@check(
    MUST,
    "list.pages",
    "ListRuns",
    "continues at next_page_token",
    (*_LIST, *_RUN, "list.page-size"),
)
async def list_pages(evidence: Evidence) -> Answer:
    own = {evidence.main.run_id, evidence.canceled.run_id} - {None}
    ids, page, are_several = await follow_pages(evidence, ("runs",), "runs", "run_id", 3)
    if len(ids) >= len(own):
        return page
    if are_several:
        raise Failure("the pages do not have all runs", page)
    raise Failure("the first page has no next_page_token, but there are more runs", page)


@check(SHOULD, "list.token", "RunListResponse", "has opaque page tokens", _LIST)
async def list_opaque(evidence: Evidence) -> Answer:
    page = await evidence.probe.ask("GET", "runs", query={"page_size": "1"})
    token = page.word("next_page_token")
    if token is None:
        raise Skip("there is a single page")
    if token.isdecimal() or token in [run.get("run_id") for run in page.objects("runs")]:
        raise Failure(f"the token {token[:40]!r} is a number or a run's id", page)
    return page


@check(MUST, "list.token-unknown", "ListRuns", "refuses an unknown page_token with 400", _LIST)
async def list_bad_token(evidence: Evidence) -> Answer:
    query = {"page_token": "no-such-token"}
    return expect_status(await evidence.probe.ask("GET", "runs", query=query), 400)


@check(
    MUST,
    "list.page-size-invalid",
    "ListRuns",
    "refuses a page_size that is not a number with 400",
    _LIST,
)
async def list_bad_size(evidence: Evidence) -> Answer:
    query = {"page_size": "many"}
    return expect_status(await evidence.probe.ask("GET", "runs", query=query), 400)


# --- all answers so far ---


@check(MUST, "answers.json", "all operations", "answers have the Content-Type application/json")
async def media_types(evidence: Evidence) -> Answer | None:
    answers = [answer for answer in evidence.probe.answers if answer.status == 200]
    for answer in answers:
        if answer.problem is None and answer.media_type != "application/json":
            raise Failure(f"Content-Type is {answer.media_type or 'missing'}", answer)
    return answers[-1] if answers else None


def _errors(evidence: Evidence) -> list[Answer]:
    answers = [answer for answer in evidence.probe.answers if (answer.status or 0) >= 400]
    if not answers:
        raise Skip("there was no error")
    return answers


@check(
    MUST,
    "errors.fields",
    "ErrorResponse",
    "errors are JSON objects with the types of ErrorResponse",
)
async def errors_shape(evidence: Evidence) -> Answer:
    answers = _errors(evidence)
    for answer in answers:
        if answer.problem is not None:
            raise Failure(answer.problem, answer)
        if wrong := mismatches(ErrorResponseSchema, answer.body):
            raise Failure(wrong, answer)
        if answer.value("status_code") not in (None, answer.status):
            raise Failure("status_code is not the HTTP status", answer)
    return answers[-1]


@check(
    SHOULD,
    "errors.complete",
    "ErrorResponse",
    "errors have msg and status_code",
    ("errors.fields",),
)
async def errors_fields(evidence: Evidence) -> Answer:
    answers = _errors(evidence)
    for answer in answers:
        for name in ("msg", "status_code"):
            if answer.value(name) is None:
                raise Failure(f"{name} is missing", answer)
    return answers[-1]
