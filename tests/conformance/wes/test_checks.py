"""`wesemu conformance`: each fault of a server fails exactly one check."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from conformance.wes.faulty_server import (
    TOKEN,
    Exchange,
    Fault,
    FaultyServer,
    Recording,
    Replay,
    engine,
    ids,
    reasons,
    recording,
    server,
    server_with_tokens,
)

from wesemu.conformance.checks import CHECKS, CheckOutcome, Report, judge
from wesemu.conformance.evidence import UNKNOWN_RUN, collect
from wesemu.conformance.schemas import VERSIONS
from wesemu.conformance.workflows import choose_workflow

__all__ = ["engine", "recording", "server", "server_with_tokens"]

# --- faults ---


def edit(method: str, path: str, change: Callable[[Any], object], *, main: bool = False) -> Fault:
    """Change the body of each successful answer of an operation; with `main` of the first run."""

    def fault(exchange: Exchange) -> None:
        if exchange.is_call(method, path) and exchange.status == 200:
            if main and f"/{exchange.runs[0]}" not in exchange.path:
                return
            change(exchange.body)

    return fault


def put(*keys: str | int, value: Any) -> Callable[[Any], None]:
    """Set the value at a path of keys."""

    def change(body: Any) -> None:
        for key in keys[:-1]:
            body = body[key]
        body[keys[-1]] = value

    return change


def drop(*keys: str | int) -> Callable[[Any], None]:
    """Remove the value at a path of keys."""

    def change(body: Any) -> None:
        for key in keys[:-1]:
            body = body[key]
        del body[keys[-1]]

    return change


def status(method: str, path: str, code: int) -> Fault:
    """Answer with an error instead of success."""

    def fault(exchange: Exchange) -> None:
        if exchange.is_call(method, path) and exchange.status == 200:
            exchange.answer(code, msg="broken", status_code=code)

    return fault


def accepts(word: str) -> Fault:
    """Accept a submission whose refusal has `word`."""

    def fault(exchange: Exchange) -> None:
        if exchange.is_call("POST", "/runs") and word in str(exchange.body.get("msg")):
            exchange.answer(200, run_id=UNKNOWN_RUN)

    return fault


def knows(path: str, **body: Any) -> Fault:
    """Answer with success for a run that does not exist."""

    def fault(exchange: Exchange) -> None:
        if exchange.status == 404 and re.fullmatch(path, exchange.path):
            exchange.answer(200, **body)

    return fault


def states(*first: str, run: int | None = None) -> Fault:
    """Begin the states that GetRunStatus tells of each run, or of one run, with these."""

    def fault(exchange: Exchange) -> None:
        if not exchange.is_call("GET", STATUS) or exchange.status != 200:
            return
        if run is not None and exchange.runs.index(exchange.body["run_id"]) != run:
            return
        number = exchange.count(exchange.path)
        if number <= len(first):
            exchange.body["state"] = first[number - 1]

    return fault


def replace_state(old: str, new: str, *, run: int | None = None, after: int = 0) -> Fault:
    """Replace a state in GetRunStatus, for one run or all, after it was told `after` times."""

    def fault(exchange: Exchange) -> None:
        if exchange.is_call("GET", STATUS) and exchange.body.get("state") == old:
            number = exchange.runs.index(exchange.body["run_id"])
            if run in (None, number) and exchange.count(f"{number}{old}") > after:
                exchange.body["state"] = new

    return fault


def last_token(value: object) -> Callable[[Any], None]:
    """Replace the token that says that there is no further page."""

    def change(body: Any) -> None:
        body["next_page_token"] = body["next_page_token"] or value

    return change


INFO, LIST, RUN = "/service-info", "/runs", "/runs/[^/]+"
STATUS, TASKS, TASK = f"{RUN}/status", f"{RUN}/tasks", f"{RUN}/tasks/[^/]+"
CANCEL = f"{RUN}/cancel"


def without_first_run(exchange: Exchange) -> None:
    if exchange.is_call("GET", LIST) and exchange.status == 200:
        runs = exchange.body["runs"]
        exchange.body["runs"] = [run for run in runs if run["run_id"] != exchange.runs[0]]


def unstable_order(exchange: Exchange) -> None:
    if exchange.is_call("GET", LIST) and not exchange.query and exchange.count("order") % 2:
        exchange.body["runs"].reverse()


def refuses_fourth_run(exchange: Exchange) -> None:
    """The fourth run that is accepted is the one without workflow_engine."""
    is_fourth = exchange.is_call("POST", LIST) and len(exchange.runs) == 4
    if is_fourth and exchange.status == 200:
        exchange.answer(400, msg="workflow_engine is missing", status_code=400)


def plain_text(exchange: Exchange) -> None:
    if exchange.is_call("GET", STATUS):
        exchange.media_type = "text/plain"


def error_body(change: Callable[[Any], object]) -> Fault:
    def fault(exchange: Exchange) -> None:
        if exchange.status == 404:
            change(exchange.body)

    return fault


def html_error(exchange: Exchange) -> None:
    if exchange.status == 404:
        exchange.body, exchange.media_type = "<h1>Not Found</h1>", "text/html"


def accepts_bad_query(key: str) -> Fault:
    def fault(exchange: Exchange) -> None:
        if exchange.is_call("GET", LIST) and exchange.status == 400 and key in exchange.query:
            exchange.answer(200, runs=[], next_page_token="")

    return fault


FAULTS: list[tuple[str, Fault]] = [
    ("service-info.answers", status("GET", INFO, 500)),
    ("service-info.fields", edit("GET", INFO, drop("auth_instructions_url"))),
    ("service-info.fields", edit("GET", INFO, put("workflow_type_versions", "SMK", value=["9"]))),
    ("service-info.fields", edit("GET", INFO, put("createdAt", value="yesterday"))),
    ("service-info.fields", edit("GET", INFO, drop("supported_wes_versions"))),
    ("service-info.versions", edit("GET", INFO, put("supported_wes_versions", value=["2.0"]))),
    ("service-info.type", edit("GET", INFO, put("type", "group", value="org.example"))),
    ("service-info.states", edit("GET", INFO, put("system_state_counts", value={"DELETED": 1}))),
    ("run.accepted", status("POST", LIST, 500)),
    ("run.accepted", edit("POST", LIST, put("run_id", value=7))),
    ("run.folders", replace_state("COMPLETE", "EXECUTOR_ERROR", run=1)),
    ("run.url-missing", accepts("workflow_url")),
    ("run.type-missing", accepts("workflow_type: it is missing")),
    ("run.type-unknown", accepts("NO-SUCH-TYPE")),
    ("run.params", accepts("workflow_params")),
    ("run.parent-folder", accepts("../")),
    ("run.engine", accepts("no-such-engine")),
    ("run.engine-version", accepts("0.0.0-none")),
    ("run.engine-missing", refuses_fourth_run),
    ("states.known", states("STARTED")),
    ("states.order", states("RUNNING", "QUEUED")),
    ("states.complete", replace_state("COMPLETE", "EXECUTOR_ERROR", run=0)),
    ("states.final", replace_state("COMPLETE", "RUNNING", run=0, after=1)),
    ("status.fields", edit("GET", STATUS, drop("state"))),
    ("status.fields", edit("GET", STATUS, put("run_id", value=UNKNOWN_RUN))),
    ("status.fields", status("GET", STATUS, 500)),
    ("status.unknown-run", knows(STATUS, run_id=UNKNOWN_RUN, state="UNKNOWN")),
    ("log.fields", edit("GET", RUN, put("run_log", "exit_code", value="0"))),
    ("log.fields", edit("GET", RUN, put("run_log", "cmd", value="snakemake"))),
    ("log.fields", edit("GET", RUN, put("task_logs", 0, "cmd", value=None))),
    ("log.fields", edit("GET", RUN, put("outputs", value=[1]))),
    ("log.fields", edit("GET", RUN, drop("run_id"))),
    ("log.fields", status("GET", RUN, 500)),
    ("log.state", edit("GET", RUN, put("state", value="RUNNING"), main=True)),
    ("log.request", edit("GET", RUN, drop("request"))),
    ("log.request", edit("GET", RUN, put("request", "workflow_params", value={}))),
    ("log.request", edit("GET", RUN, put("request", "tags", value={}))),
    ("log.request", edit("GET", RUN, put("request", "workflow_url", value="file:///x"))),
    ("log.outputs", edit("GET", RUN, put("outputs", value={}))),
    ("log.times", edit("GET", RUN, put("run_log", "start_time", value="15/01/2020 08:30"))),
    ("log.times", edit("GET", RUN, put("run_log", "end_time", value="2020-01-15T08:30:25"))),
    ("log.times", edit("GET", RUN, put("run_log", "end_time", value="2019-01-15T08:30:25Z"))),
    ("log.times", edit("GET", RUN, put("task_logs", 0, "end_time", value="2020-13-15T08:30:25Z"))),
    ("log.streams", edit("GET", RUN, put("run_log", "stdout", value="http://127.0.0.1:9/"))),
    ("log.streams", edit("GET", RUN, put("run_log", "stderr", value="/var/log/run"))),
    ("log.streams", edit("GET", RUN, drop("run_log", "stderr"))),
    ("log.unknown-run", knows(RUN, run_id=UNKNOWN_RUN, state="UNKNOWN")),
    ("tasks.answers", status("GET", TASKS, 500)),
    ("tasks.answers", edit("GET", TASKS, put("task_logs", value=None))),
    ("tasks.fields", edit("GET", TASKS, drop("task_logs", 0, "name"))),
    ("tasks.fields", edit("GET", TASKS, last_token(1))),
    ("tasks.order", edit("GET", RUN, lambda body: body["task_logs"].reverse())),
    ("tasks.task", edit("GET", TASK, put("id", value="other"))),
    ("tasks.task", status("GET", TASK, 404)),
    ("tasks.pages", edit("GET", TASKS, put("next_page_token", value=""))),
    ("tasks.unknown", knows(TASK, id="no-such-task", name="x")),
    ("tasks.unknown-run", knows(TASKS, task_logs=[], next_page_token="")),
    ("tasks.url", edit("GET", RUN, put("task_logs_url", value="http://127.0.0.1:9/"))),
    ("cancel.answers", status("POST", CANCEL, 500)),
    ("cancel.answers", edit("POST", CANCEL, put("run_id", value=UNKNOWN_RUN))),
    ("cancel.state", replace_state("CANCELED", "SYSTEM_ERROR")),
    ("cancel.unknown-run", knows(CANCEL, run_id=UNKNOWN_RUN)),
    ("list.answers", status("GET", LIST, 500)),
    ("list.answers", edit("GET", LIST, lambda body: body.update(workflows=body.pop("runs")))),
    ("list.fields", edit("GET", LIST, last_token(None))),
    ("list.fields", edit("GET", LIST, put("runs", 0, "state", value=3))),
    ("list.complete", without_first_run),
    ("list.order", unstable_order),
    ("list.pages", edit("GET", LIST, put("next_page_token", value=""))),
    ("list.token-unknown", accepts_bad_query("page_token")),
    ("list.page-size-invalid", accepts_bad_query("page_size")),
    ("answers.json", plain_text),
    ("errors.fields", error_body(put("status_code", value="404"))),
    ("errors.fields", error_body(put("status_code", value=500))),
    ("errors.fields", html_error),
    ("errors.complete", error_body(drop("msg"))),
]
"""The faults of answers, each with the check that it fails."""


@pytest.mark.parametrize(
    ("check", "fault"),
    FAULTS,
    ids=[f"{check}-{number}" for number, (check, _) in enumerate(FAULTS)],
)
async def test_a_fault_fails_its_check_only(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, check: str, fault: Fault
) -> None:
    monkeypatch.setattr("wesemu.conformance.evidence._FIRST_PAUSE", 0.0)  # nothing has to happen
    probe: Any = Replay(recording, fault)
    info = await probe.ask("GET", "service-info")
    sound = await Replay(recording, lambda exchange: None).ask("GET", "service-info")
    workflow = choose_workflow(sound, "SMK")  # the one in the recording
    assert workflow is not None
    evidence = await collect(probe, "1.1.0", info, workflow, seconds=20.0, has_token=False)
    report = Report("", "1.1.0", "SMK", await judge(evidence))
    assert list(reasons(report)) == [check], reasons(report)
    required = next(each for each in CHECKS if each.id == check).level == "MUST"
    assert report.conforms is not required


def ignores(path: str, name: str) -> Fault:
    """Remove a query parameter, as if the server did not know it."""

    def before(exchange: Exchange) -> None:
        if exchange.is_call("GET", path):
            exchange.query.pop(name, None)

    return before


@pytest.mark.parametrize(
    ("expected", "before"),
    [
        ({"list.page-size", "list.page-size-invalid"}, ignores(LIST, "page_size")),
        ({"tasks.page-size"}, ignores(TASKS, "page_size")),
        ({"tasks.pages"}, ignores(TASKS, "page_token")),
        ({"list.pages", "list.token-unknown"}, ignores(LIST, "page_token")),
    ],
)
async def test_a_query_that_is_ignored_fails_its_checks(
    server: FaultyServer, expected: set[str], before: Fault
) -> None:
    server.before = before
    assert set(reasons(await server.examine())) == expected


async def test_a_page_token_that_can_be_guessed_fails_its_check(server: FaultyServer) -> None:
    tokens: list[str] = []

    def number(exchange: Exchange) -> None:
        if exchange.is_call("GET", LIST) and exchange.body.get("next_page_token"):
            tokens.append(exchange.body["next_page_token"])
            exchange.body["next_page_token"] = str(len(tokens))

    def find(exchange: Exchange) -> None:
        if (token := exchange.query.get("page_token", "")).isdecimal():
            exchange.query["page_token"] = tokens[int(token) - 1]

    server.fault, server.before = number, find
    assert set(reasons(await server.examine())) == {"list.token"}


@pytest.mark.parametrize(("check", "has_token"), [("auth.missing", False), ("auth.wrong", True)])
async def test_a_server_that_reads_no_token_fails_its_check(
    server_with_tokens: FaultyServer, check: str, has_token: bool
) -> None:
    def fault(exchange: Exchange) -> None:
        if exchange.status == 401 and exchange.has_token is has_token:
            exchange.answer(200, runs=[], next_page_token="")

    server_with_tokens.fault = fault
    assert set(reasons(await server_with_tokens.examine(token=TOKEN))) == {check}


def test_every_check_has_a_fault_that_fails_it() -> None:
    others = {"list.page-size", "tasks.page-size", "list.token", "auth.missing", "auth.wrong"}
    assert {check for check, _ in FAULTS} | others == {check.id for check in CHECKS}


def test_checks_need_earlier_ones_only() -> None:
    known: set[str] = set()
    for check in CHECKS:
        assert known.issuperset(check.needs)
        assert check.id not in known
        known.add(check.id)


async def test_wesemu_passes_all_checks_of_every_version(server_with_tokens: FaultyServer) -> None:
    for version in VERSIONS:
        report = await server_with_tokens.examine(version, token=TOKEN)
        assert report.version == version
        assert reasons(report) == {}
        expected = {check.id for check in CHECKS if check.since > version}
        assert ids(report, CheckOutcome.SKIP) == expected
        assert report.conforms


async def test_without_a_token_only_the_checks_of_tokens_are_skipped(server: FaultyServer) -> None:
    assert ids(await server.examine(), CheckOutcome.SKIP) == {"auth.missing", "auth.wrong"}


async def test_the_token_goes_to_the_server_only(server_with_tokens: FaultyServer) -> None:
    """The URL of a log may lead to another server."""
    headers: dict[str, str | None] = {}

    async def log(request: web.Request) -> web.Response:
        headers[request.path] = request.headers.get("Authorization")
        return web.Response(text="hello")

    other = web.Application()
    other.router.add_get("/{name}", log)
    async with TestServer(other) as elsewhere:
        url = str(elsewhere.make_url("/stdout"))
        server_with_tokens.fault = edit("GET", RUN, put("run_log", "stdout", value=url))
        report = await server_with_tokens.examine(token=TOKEN)
    assert reasons(report) == {}
    assert headers == {"/stdout": None}
