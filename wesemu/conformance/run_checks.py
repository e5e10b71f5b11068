"""Checks of runs: states, GetRunStatus, GetRunLog, tasks, CancelRun."""

import json
from itertools import pairwise

from wesemu.conformance.evidence import (
    MUST,
    SHOULD,
    UNKNOWN,
    UNKNOWN_RUN,
    Evidence,
    Failure,
    Skip,
    cancel_path,
    check,
    expect_object,
    expect_schema,
    expect_status,
    follow_pages,
    nested,
)
from wesemu.conformance.probe import Answer
from wesemu.conformance.schemas import (
    PROGRESS,
    RUN_LOG,
    STATES,
    RunId,
    RunStatusSchema,
    TaskListResponseSchema,
    TaskLogSchema,
    parse_time,
)

# what checks need
_RUN = ("run.accepted",)
_DONE = ("states.complete",)
_TASKS = ("tasks.answers",)


def _log(evidence: Evidence) -> Answer:
    """Return the RunLog of the main run after its end."""
    log = evidence.main.log
    if log is None or log.status != 200 or not isinstance(log.body, dict):
        raise Skip("GetRunLog has no answer that can be read")
    return log


# --- states of a run ---


@check(MUST, "states.known", "State", "the states are those of the enumeration", _RUN)
async def states_legal(evidence: Evidence) -> Answer | None:
    answers = [
        *evidence.main.statuses,
        *evidence.canceled.statuses,
        *(trace.log for trace in (evidence.main, evidence.canceled) if trace.log),
    ]
    for answer in answers:
        state = answer.word("state")
        if state is not None and state not in STATES[evidence.version]:
            raise Failure(f"{state} is not a state of WES {evidence.version}", answer)
    return answers[-1] if answers else None


@check(SHOULD, "states.order", "State", "the states never go back", _RUN)
async def states_order(evidence: Evidence) -> None:
    for trace in (evidence.main, evidence.canceled):
        known = [state for state in trace.states if state in PROGRESS]
        if any(PROGRESS[a] > PROGRESS[b] for a, b in pairwise(known)):
            if "PREEMPTED" in trace.states:
                continue
            raise Failure(f"a run went through {trace.path}")


@check(MUST, "states.complete", "State", "a valid workflow ends with COMPLETE", _RUN)
async def states_complete(evidence: Evidence) -> Answer | None:
    trace = evidence.main
    if trace.last != "COMPLETE":
        raise Failure(
            f"the states are {trace.path}; not COMPLETE after {trace.seconds:.0f} s", trace.log
        )
    return trace.log


@check(MUST, "states.final", "State", "the state does not change after COMPLETE", _DONE)
async def states_final(evidence: Evidence) -> Answer:
    answer = await evidence.probe.ask("GET", "runs", evidence.run_id, "status")
    state = answer.word("state")
    if state is not None and state != "COMPLETE":
        raise Failure(f"the run went from COMPLETE to {state}", answer)
    return answer


# --- GetRunStatus, GetRunLog ---


@check(MUST, "status.fields", "RunStatus", "has run_id, state and their types", _RUN)
async def status_fields(evidence: Evidence) -> Answer:
    for answer in evidence.main.statuses:
        expect_schema(answer, RunStatusSchema)
        if answer.value("run_id") != evidence.run_id:
            raise Failure("run_id is that of another run", answer)
    return evidence.main.statuses[-1]


@check(MUST, "status.unknown-run", "GetRunStatus", "answers 404 or 403 for an unknown run")
async def status_unknown(evidence: Evidence) -> Answer:
    return expect_status(await evidence.probe.ask("GET", "runs", UNKNOWN_RUN, "status"), *UNKNOWN)


@check(MUST, "log.fields", "RunLog", "has run_id, and fields with their types", _RUN)
async def log_fields(evidence: Evidence) -> Answer:
    if evidence.main.log is None:
        raise Skip("the run has no RunLog")
    log = expect_schema(evidence.main.log, RUN_LOG[evidence.version])
    if log.value("run_id") != evidence.run_id:
        raise Failure("run_id is missing, or that of another run", log)
    return log


@check(MUST, "log.state", "RunLog", "has the state of GetRunStatus", _DONE)
async def log_state(evidence: Evidence) -> Answer:
    if (state := _log(evidence).value("state")) != "COMPLETE":
        raise Failure(f"state is {state}; GetRunStatus has COMPLETE", _log(evidence))
    return _log(evidence)


@check(MUST, "log.request", "RunLog", "has the request that was sent", _RUN)
async def log_request(evidence: Evidence) -> Answer:
    request, sent = _log(evidence).value("request"), evidence.main.sent.fields
    for name in ("workflow_url", "workflow_type", "workflow_type_version"):
        if nested(request, name) != sent[name]:
            raise Failure(f"request.{name} is not {sent[name]}", _log(evidence))
    if nested(request, "workflow_params") != json.loads(sent["workflow_params"]):
        raise Failure("request.workflow_params differs from what was sent", _log(evidence))
    if nested(nested(request, "tags"), "purpose") != "wes conformance":
        raise Failure("request.tags lacks the tag that was sent", _log(evidence))
    return _log(evidence)


@check(SHOULD, "log.outputs", "RunLog", "has outputs after COMPLETE", _DONE)
async def log_outputs(evidence: Evidence) -> Answer:
    if not evidence.workflow.is_own:
        raise Skip("only with the workflows of this program")
    if not _log(evidence).value("outputs"):
        raise Failure("outputs is empty, but the workflow has a result", _log(evidence))
    return _log(evidence)


@check(MUST, "log.times", "Log", "has times in ISO 8601 (RFC 3339), the start before the end", _RUN)
async def log_times(evidence: Evidence) -> Answer:
    run = _log(evidence).value("run_log")
    logs = [run, *_log(evidence).objects("task_logs")]
    for log in logs:
        times = []
        for name in ("start_time", "end_time"):
            if isinstance(text := nested(log, name), str):
                try:
                    times.append(parse_time(text))
                except ValueError as error:
                    raise Failure(f"{name} {error}", _log(evidence)) from None
        if len(times) == 2 and times[0] > times[1]:
            raise Failure("end_time is before start_time", _log(evidence))
    if nested(run, "start_time") is None and nested(run, "end_time") is None:
        raise Skip("run_log has no times")
    return _log(evidence)


@check(SHOULD, "log.streams", "Log", "has URLs of stdout and stderr that can be fetched", _DONE)
async def log_streams(evidence: Evidence) -> Answer:
    for name in ("stdout", "stderr"):
        url = _log(evidence).word("run_log", name)
        if url is None:
            raise Failure(f"run_log has no {name} after the end of the run", _log(evidence))
        answer = await evidence.probe.fetch(url)
        if answer.status not in (200, 204):
            raise Failure(f"{name} cannot be fetched", answer)
    return answer


@check(MUST, "log.unknown-run", "GetRunLog", "answers 404 or 403 for an unknown run")
async def log_unknown(evidence: Evidence) -> Answer:
    return expect_status(await evidence.probe.ask("GET", "runs", UNKNOWN_RUN), *UNKNOWN)


# --- ListTasks, GetTask ---


@check(MUST, "tasks.answers", "ListTasks", "answers with a list of tasks", _RUN, since="1.1.0")
async def tasks_answers(evidence: Evidence) -> Answer:
    answer = expect_object(await evidence.probe.ask("GET", "runs", evidence.run_id, "tasks"))
    if not isinstance(answer.value("task_logs"), list):
        raise Failure("there is no list of task_logs", answer)
    return answer


@check(
    MUST,
    "tasks.fields",
    "TaskListResponse",
    "has the required fields and their types",
    _TASKS,
    since="1.1.0",
)
async def tasks_fields(evidence: Evidence) -> Answer:
    answer = await evidence.probe.ask("GET", "runs", evidence.run_id, "tasks")
    return expect_schema(answer, TaskListResponseSchema)


async def _first_tasks(evidence: Evidence) -> tuple[Answer, list[str]]:
    """Return the first page of tasks with their ids. Raise Skip for a run without tasks."""
    answer = await evidence.probe.ask("GET", "runs", evidence.run_id, "tasks")
    ids = [str(task.get("id")) for task in answer.objects("task_logs")]
    if not ids:
        raise Skip("the run has no tasks")
    return answer, ids


@check(SHOULD, "tasks.order", "ListTasks", "has the order of RunLog", _TASKS, since="1.1.0")
async def tasks_order(evidence: Evidence) -> Answer:
    answer, ids = await _first_tasks(evidence)
    logged = [task.get("id") for task in _log(evidence).objects("task_logs")]
    if not any(logged):
        raise Skip("RunLog has no tasks with ids")
    if logged[: len(ids)] != ids:
        raise Failure("the tasks are not those of RunLog in the same order", answer)
    return answer


@check(MUST, "tasks.task", "GetTask", "answers with the task", _TASKS, since="1.1.0")
async def tasks_one(evidence: Evidence) -> Answer:
    _, ids = await _first_tasks(evidence)
    answer = await evidence.probe.ask("GET", "runs", evidence.run_id, "tasks", ids[0])
    expect_schema(answer, TaskLogSchema)
    if answer.value("id") != ids[0]:
        raise Failure(f"id is not {ids[0]}", answer)
    return answer


@check(
    MUST,
    "tasks.page-size",
    "ListTasks",
    "has at most page_size tasks on a page",
    _TASKS,
    since="1.1.0",
)
async def tasks_page_size(evidence: Evidence) -> Answer:
    _, ids = await _first_tasks(evidence)
    path = ("runs", evidence.run_id, "tasks")
    answer = expect_status(await evidence.probe.ask("GET", *path, query={"page_size": "1"}), 200)
    if (number := len(answer.objects("task_logs"))) > 1:
        raise Failure(f"page_size is 1, and the page has {number} tasks", answer)
    if len(ids) == 1:
        raise Skip("the run has one task only")
    return answer


@check(
    MUST,
    "tasks.pages",
    "ListTasks",
    "continues at next_page_token",
    (*_TASKS, "tasks.page-size"),
    since="1.1.0",
)
async def tasks_pages(evidence: Evidence) -> Answer:
    _, ids = await _first_tasks(evidence)
    path = ("runs", evidence.run_id, "tasks")
    paged, page, are_several = await follow_pages(evidence, path, "task_logs", "id", len(ids))
    if not are_several and len(paged) < len(ids):
        raise Failure("the first page has no next_page_token, but there are more tasks", page)
    if paged != ids:
        raise Failure("the pages do not have the tasks of the whole list", page)
    return page


@check(
    MUST,
    "tasks.unknown",
    "GetTask",
    "answers 404 or 403 for an unknown task",
    _TASKS,
    since="1.1.0",
)
async def tasks_unknown(evidence: Evidence) -> Answer:
    path = ("runs", evidence.run_id, "tasks", "no-such-task")
    return expect_status(await evidence.probe.ask("GET", *path), *UNKNOWN)


@check(
    MUST,
    "tasks.unknown-run",
    "ListTasks",
    "answers 404 or 403 for an unknown run",
    _TASKS,
    since="1.1.0",
)
async def tasks_unknown_run(evidence: Evidence) -> Answer:
    return expect_status(await evidence.probe.ask("GET", "runs", UNKNOWN_RUN, "tasks"), *UNKNOWN)


@check(
    SHOULD, "tasks.url", "RunLog", "has a task_logs_url that can be fetched", _TASKS, since="1.1.0"
)
async def tasks_url(evidence: Evidence) -> Answer:
    url = _log(evidence).word("task_logs_url")
    if url is None:
        raise Skip("RunLog has no task_logs_url")
    return expect_status(await evidence.probe.fetch(url), 200)


# --- CancelRun ---


@check(MUST, "cancel.answers", "CancelRun", "answers with the run's id", _RUN)
async def cancel_answers(evidence: Evidence) -> Answer:
    trace = evidence.canceled
    if trace.canceled is None:
        raise Skip(f"no run could be canceled; its states are {trace.path}")
    expect_schema(trace.canceled, RunId)
    if trace.canceled.value("run_id") != trace.run_id:
        raise Failure("run_id is that of another run", trace.canceled)
    return trace.canceled


@check(MUST, "cancel.state", "CancelRun", "ends the run as CANCELED", _RUN)
async def cancel_stops(evidence: Evidence) -> Answer | None:
    trace = evidence.canceled
    if trace.canceled is None or trace.canceled.status != 200:
        raise Skip("no run was canceled")
    if trace.last == "COMPLETE" and not evidence.workflow.is_own:
        raise Skip("the run completed before it could be canceled")
    if trace.last != "CANCELED":
        raise Failure(
            f"the states are {trace.path}; not CANCELED {trace.seconds:.0f} s after the start",
            trace.canceled,
        )
    return trace.canceled


@check(MUST, "cancel.unknown-run", "CancelRun", "answers 404 or 403 for an unknown run")
async def cancel_unknown(evidence: Evidence) -> Answer:
    method, *path = cancel_path(evidence.version, UNKNOWN_RUN)
    return expect_status(await evidence.probe.ask(method, *path), *UNKNOWN)
