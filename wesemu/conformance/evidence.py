"""Evidence for the checks: the server's answers about itself and about three runs.

The runs are watched at the same time. One is canceled. The second part of the module has helpers
that the checks use.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from wesemu.conformance.probe import Answer, WesProbe, form_data
from wesemu.conformance.schemas import ENDED, Shape, mismatches
from wesemu.conformance.workflows import SampleWorkflow, WorkflowSubmission
from wesemu.runs.model import JsonValue

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_MOST_UNREADABLE = 5
"""A run whose state cannot be read so often in a row is not watched any more."""


@dataclass(slots=True)
class RunTrace:
    """What was seen of one run until its end, or until the time was over.

    `states` are those of GetRunStatus, or of GetRunLog where GetRunStatus has none. `log` is the
    last RunLog, `canceled` the answer to CancelRun, `seconds` the time of watching.
    """

    sent: WorkflowSubmission
    submitted: Answer
    statuses: list[Answer] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    log: Answer | None = None
    canceled: Answer | None = None
    seconds: float = 0.0

    @property
    def run_id(self) -> str | None:
        return self.submitted.word("run_id") if self.submitted.status == 200 else None

    @property
    def last(self) -> str | None:
        return self.states[-1] if self.states else None

    @property
    def path(self) -> str:
        """The changes of the state, for people."""
        changes = [
            state
            for before, state in zip(["", *self.states], self.states, strict=False)
            if state != before
        ]
        return " → ".join(changes) or "unknown"


@dataclass(slots=True)
class Evidence:
    """The answers so far, and `probe` for further requests.

    `main`, `in_folder` and `canceled` are runs of `workflow`; `in_folder` has its input in a folder
    and is None for a user's workflow. `accepted` collects the runs of other requests.
    """

    version: str
    probe: WesProbe
    info: Answer
    workflow: SampleWorkflow
    has_token: bool
    main: RunTrace
    canceled: RunTrace
    in_folder: RunTrace | None = None
    accepted: list[str] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        return self.main.run_id or ""


def cancel_path(version: str, run_id: str) -> tuple[str, ...]:
    """Return the method and the path of CancelRun."""
    if version == "0.3.0":
        return "DELETE", "runs", run_id
    return "POST", "runs", run_id, "cancel"


async def collect(
    probe: WesProbe,
    version: str,
    info: Answer,
    workflow: SampleWorkflow,
    *,
    seconds: float,
    has_token: bool,
) -> Evidence:
    """Submit the runs and watch them for at most `seconds`."""
    main = await _submit(probe, workflow.submission(version))
    in_folder = None
    if workflow.is_own:
        in_folder = await _submit(
            probe, workflow.submission(version, greeting="inputs/greeting.txt")
        )
    long = workflow.submission(version, seconds=sleep_seconds(seconds))
    canceled = await _submit(probe, long)
    async with asyncio.TaskGroup() as group:
        for trace in filter(None, (main, in_folder)):
            group.create_task(_watch(probe, trace, seconds), name="watch a run")
        group.create_task(
            _watch(probe, canceled, seconds, cancel=version, at_once=not workflow.is_own),
            name="watch the canceled run",
        )
    return Evidence(version, probe, info, workflow, has_token, main, canceled, in_folder)


def sleep_seconds(seconds: float) -> int:
    """Return how long the run to cancel sleeps. It ends within `seconds` even if not canceled."""
    return max(2, int(seconds / 4))


async def clean_up(evidence: Evidence) -> None:
    """Cancel what still runs."""
    traces = filter(None, (evidence.main, evidence.in_folder, evidence.canceled))
    left = [trace.run_id for trace in traces if trace.run_id and trace.last not in ENDED]
    for run_id in [*left, *evidence.accepted]:
        method, *path = cancel_path(evidence.version, run_id)
        await evidence.probe.ask(method, *path)


async def _submit(probe: WesProbe, sent: WorkflowSubmission) -> RunTrace:
    form = form_data(sent.fields, sent.attachments)
    return RunTrace(sent, await probe.ask("POST", "runs", form=form))


async def _watch(
    probe: WesProbe, trace: RunTrace, seconds: float, *, cancel: str = "", at_once: bool = False
) -> None:
    """Follow a run until its end. With a version in `cancel`, cancel it once it runs."""
    if trace.run_id is None:
        return
    loop = asyncio.get_running_loop()
    start, pause, unreadable = loop.time(), _FIRST_PAUSE, 0
    while True:
        state = await _observe(probe, trace, trace.run_id)
        unreadable = 0 if state else unreadable + 1
        trace.seconds = loop.time() - start
        is_over = state in ENDED or trace.seconds > seconds or unreadable >= _MOST_UNREADABLE
        if is_over or probe.given_up:
            break
        is_due = at_once or state == "RUNNING" or trace.seconds > seconds / 2
        if cancel and trace.canceled is None and is_due:
            method, *path = cancel_path(cancel, trace.run_id)
            trace.canceled = await probe.ask(method, *path)
            pause = _FIRST_PAUSE
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    trace.log = await probe.ask("GET", "runs", trace.run_id)


async def _observe(probe: WesProbe, trace: RunTrace, run_id: str) -> str | None:
    """Return the state of a run, or None if no response has it."""
    answer = await probe.ask("GET", "runs", run_id, "status")
    trace.statuses.append(answer)
    state = answer.word("state") if answer.status == 200 else None
    if state is None:
        trace.log = await probe.ask("GET", "runs", run_id)
        state = trace.log.word("state") if trace.log.status == 200 else None
    if state is not None:
        trace.states.append(state)
    return state


# --- checks, and how they judge ---


class Level(StrEnum):
    """MUST: the specification requires it. SHOULD: it recommends it, or clients rely on it."""

    MUST = "MUST"
    SHOULD = "SHOULD"


MUST, SHOULD = Level.MUST, Level.SHOULD

Judge = Callable[[Evidence], Awaitable[Answer | None]]
"""Returns the answer that shows the demand to be met, or raises Failure or Skip."""


@dataclass(frozen=True, slots=True)
class ConformanceCheck:
    """One demand of the specification.

    `section` is an operation or a schema. `needs` are the ids of checks without which this one
    shows nothing: so one fault of a server fails one check. `since` is the first version of the
    specification that has the demand.
    """

    level: Level
    id: str
    section: str
    title: str
    judge: Judge
    needs: Sequence[str] = ()
    since: str = "0.3.0"


def check(
    level: Level,
    id: str,  # noqa: A002
    section: str,
    title: str,
    needs: Sequence[str] = (),
    since: str = "0.3.0",
) -> Callable[[Judge], ConformanceCheck]:
    """Make a ConformanceCheck of a function that judges."""
    return lambda judge: ConformanceCheck(level, id, section, title, judge, needs, since)


UNKNOWN_RUN = "5f0c1d5e-7f3a-4c55-9d2e-0a6f1b8c9e00"
"""The id of no run."""

DENIED = (401, 403)
UNKNOWN = (404, 403)


class Failure(Exception):
    """The server does not meet the demand. `answer` shows it."""

    def __init__(self, reason: str, answer: Answer | None = None) -> None:
        super().__init__(reason)
        self.answer = answer


class Skip(Exception):
    """The answers do not show whether the server meets the demand."""


def expect_status(answer: Answer, *expected: int) -> Answer:
    """Return an answer with one of these statuses. Raise Failure."""
    if answer.status is None:
        raise Failure(answer.problem or "there is no answer", answer)
    if answer.status not in expected:
        wanted = " or ".join(map(str, expected))
        raise Failure(f"the status is {answer.status}, not {wanted}", answer)
    return answer


def expect_object(answer: Answer) -> Answer:
    """Return an answer with status 200 and a JSON object. Raise Failure."""
    expect_status(answer, 200)
    if not isinstance(answer.body, dict):
        raise Failure(answer.problem or "the answer is not a JSON object", answer)
    return answer


def expect_schema(answer: Answer, schema: type[Shape]) -> Answer:
    """Return an answer with status 200 and this schema. Raise Failure."""
    if wrong := mismatches(schema, expect_object(answer).body):
        raise Failure(wrong, answer)
    return answer


async def expect_refusal(evidence: Evidence, sent: WorkflowSubmission) -> Answer:
    """Submit a run that the server has to refuse with 400. Raise Failure."""
    return expect_status(await submit(evidence, sent), 400)


async def submit(evidence: Evidence, sent: WorkflowSubmission) -> Answer:
    """Submit a run that nothing watches. It is canceled at the end if the server accepts it."""
    trace = await _submit(evidence.probe, sent)
    if trace.run_id is not None:
        evidence.accepted.append(trace.run_id)
    return trace.submitted


async def follow_pages(
    evidence: Evidence, path: tuple[str, ...], items: str, key: str, most: int
) -> tuple[list[str], Answer, bool]:
    """Follow the pages of a list with one item each, at most `most` of them.

    Return the values of `key`, the last page, and whether a page had a token. Raise Failure if an
    item is on two pages.
    """
    ids: list[str] = []
    tokens: list[str] = []
    for _ in range(most):
        query = {"page_size": "1"} | ({"page_token": tokens[-1]} if tokens else {})
        page = expect_status(await evidence.probe.ask("GET", *path, query=query), 200)
        found = [str(item.get(key)) for item in page.objects(items)]
        if repeated := set(found) & set(ids):
            raise Failure(f"{repeated.pop()} is on two pages", page)
        ids += found
        if (token := page.word("next_page_token")) is None:
            break
        tokens.append(token)
    return ids, page, bool(tokens)


def nested(value: JsonValue, key: str) -> JsonValue:
    """Return the value under `key`, None if there is none."""
    return value.get(key) if isinstance(value, dict) else None
