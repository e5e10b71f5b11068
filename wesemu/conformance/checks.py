"""All checks, and their run against a server."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import aiohttp
from yarl import URL

from wesemu.client.transport import ClientError, server_url, socket_path
from wesemu.conformance import run_checks as run
from wesemu.conformance import service_checks as service
from wesemu.conformance.evidence import (
    ConformanceCheck,
    Evidence,
    Failure,
    Level,
    Skip,
    clean_up,
    collect,
)
from wesemu.conformance.probe import Answer, ProbeLimits, WesProbe
from wesemu.conformance.schemas import VERSIONS
from wesemu.conformance.workflows import (
    SampleWorkflow,
    choose_workflow,
    supported_types,
    supported_versions,
)
from wesemu.errors import InvalidRequest

CHECKS = (
    service.info_answers,
    service.info_fields,
    service.info_versions,
    service.info_type,
    service.info_states,
    service.without_token,
    service.wrong_token,
    service.run_accepted,
    service.run_in_folder,
    service.without_url,
    service.without_type,
    service.unknown_type,
    service.bad_params,
    service.parent_folder,
    service.without_engine,
    service.unknown_engine,
    service.unknown_engine_version,
    run.states_legal,
    run.states_order,
    run.states_complete,
    run.status_fields,
    run.status_unknown,
    run.log_fields,
    run.log_state,
    run.log_request,
    run.log_outputs,
    run.log_times,
    run.log_streams,
    run.log_unknown,
    run.tasks_answers,
    run.tasks_fields,
    run.tasks_order,
    run.tasks_one,
    run.tasks_page_size,
    run.tasks_pages,
    run.tasks_unknown,
    run.tasks_unknown_run,
    run.tasks_url,
    run.cancel_answers,
    run.cancel_stops,
    run.cancel_unknown,
    service.list_answers,
    service.list_fields,
    service.list_contains,
    service.list_stable,
    service.list_page_size,
    service.list_pages,
    service.list_opaque,
    service.list_bad_token,
    service.list_bad_size,
    # these judge everything that came before
    run.states_final,
    service.media_types,
    service.errors_shape,
    service.errors_fields,
)

_API = "ga4gh/wes/v1"


class CheckOutcome(StrEnum):
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`reason` explains a failure or a skip. `exchange` is the decisive request and its answer."""

    check: ConformanceCheck
    outcome: CheckOutcome
    reason: str = ""
    exchange: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all checks, in their order. `url` is the root of the API."""

    url: str
    version: str
    workflow_type: str
    results: Sequence[CheckResult]

    def count(self, outcome: CheckOutcome, level: Level | None = None) -> int:
        return sum(
            result.outcome is outcome and level in (None, result.check.level)
            for result in self.results
        )

    @property
    def conforms(self) -> bool:
        """Whether no required check failed."""
        return not self.count(CheckOutcome.FAIL, Level.MUST)


async def examine(
    server: str,
    *,
    version: str | None = None,
    token: str | None = None,
    workflow: SampleWorkflow | None = None,
    workflow_type: str | None = None,
    seconds: float = 120.0,
    limits: ProbeLimits | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Report:
    """Run all checks against a server. `server` is the root of its API, or the server itself.

    `version` is by default what service-info says. `workflow` replaces the own workflows; it gets
    the server's first version of its type if it has none. `workflow_type` chooses an own workflow.
    Each run may take `seconds`. `announce` gets a line about what is tested.

    Raise ClientError if no server answers, and InvalidRequest if there is no workflow for it.
    """
    socket = socket_path(server)
    connector = aiohttp.UnixConnector(socket) if socket is not None else None
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        root = server_url(server).with_query(None).with_fragment(None)
        limits = limits or ProbeLimits()
        # the runs need their own time
        limits = replace(limits, total=limits.total + seconds)
        probe, info = await _find_api(session, root, token, limits)
        version = version or _version_of(info)
        chosen = workflow or choose_workflow(info, workflow_type)
        if chosen is not None and not chosen.version:
            version_of_type = next(iter(supported_versions(info, chosen.type)), "1.0")
            chosen = replace(chosen, version=version_of_type)
        if chosen is None:
            wanted = workflow_type or ", ".join(supported_types(info))
            raise InvalidRequest(
                f"there is no test workflow for {wanted}; name one of your own with --workflow and "
                "--workflow-type"
            )
        shown = str(probe.base.with_user(None))
        announce(f"testing {shown} as WES {version} with a workflow of type {chosen.type}")
        evidence = await collect(
            probe, version, info, chosen, seconds=seconds, has_token=bool(token)
        )
        results = await judge(evidence)
        await clean_up(evidence)
        return Report(shown, version, chosen.type, results)


async def judge(evidence: Evidence) -> Sequence[CheckResult]:
    """Run all checks in their order."""
    results: dict[str, CheckResult] = {}
    for check in CHECKS:
        results[check.id] = await _judge_one(check, evidence, results)
    return tuple(results.values())


async def _judge_one(
    check: ConformanceCheck, evidence: Evidence, earlier: dict[str, CheckResult]
) -> CheckResult:
    if VERSIONS.index(evidence.version) < VERSIONS.index(check.since):
        return CheckResult(check, CheckOutcome.SKIP, f"not in WES {evidence.version}")
    for needed in check.needs:
        if earlier[needed].outcome is not CheckOutcome.PASS:
            return CheckResult(check, CheckOutcome.SKIP, f"needs {needed}")
    try:
        answer = await check.judge(evidence)
    except Failure as failure:
        return CheckResult(check, CheckOutcome.FAIL, str(failure), _short(failure.answer))
    except Skip as skip:
        return CheckResult(check, CheckOutcome.SKIP, str(skip))
    return CheckResult(check, CheckOutcome.PASS, exchange=_short(answer))


def _short(answer: Answer | None) -> str:
    return "" if answer is None else answer.short


async def _find_api(
    session: aiohttp.ClientSession, url: URL, token: str | None, limits: ProbeLimits
) -> tuple[WesProbe, Answer]:
    """Return a probe of the API at `url` or at WES's usual path below it, and its service-info."""
    below = url / _API
    found: tuple[WesProbe, Answer] | None = None
    problem = ""
    for base in (below, url) if url.path.rstrip("/") == "" else (url, below):
        probe = WesProbe(session, base, token, limits)
        info = await probe.ask("GET", "service-info")
        if info.status == 200 and isinstance(info.body, dict):
            return probe, info
        if info.status is not None and found is None:
            found = probe, info
        problem = problem or info.problem or ""
    if found is None:
        raise ClientError(f"no server answers at {url.with_user(None)}: {problem}")
    return found


def _version_of(info: Answer) -> str:
    """Return the version in service-info's `type`, or else the newest that the server supports."""
    own = info.value("type", "version")
    listed = info.value("supported_wes_versions")
    supported = [each for each in VERSIONS if isinstance(listed, list) and each in listed]
    return own if isinstance(own, str) and own in VERSIONS else [VERSIONS[-1], *supported][-1]
