"""The table of runs: filters by state, workflow and tag, search, and pages of 50."""

import shlex
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlencode

from wesemu.dashboard.pages import STATE_WORDS, WebPage, iso, seconds_of
from wesemu.errors import Forbidden, InvalidRequest, RunNotFound
from wesemu.runs.model import JsonObject, JsonValue, Owner, Run, RunState
from wesemu.runs.queries import RunStatistics
from wesemu.runs.run_figures import elapsed, figures, promised, sla_bases
from wesemu.runs.service import RunService
from wesemu.runs.store import Selection
from wesemu.util.text import whole_number

_PAGE = 50

_GROUPS: Mapping[str, tuple[RunState, ...]] = {
    "active": (RunState.QUEUED, RunState.INITIALIZING, RunState.RUNNING, RunState.CANCELING),
    "complete": (RunState.COMPLETE,),
    "failed": (RunState.EXECUTOR_ERROR, RunState.SYSTEM_ERROR),
    "canceled": (RunState.CANCELED,),
}
"""The filters above the table."""


async def page(
    runs: RunService,
    statistics: RunStatistics,
    owner: Owner,
    query: Mapping[str, str],
    now: datetime,
    url: str,
) -> WebPage:
    """Return one page of the owner's runs. `query`: `state`, `q` (search) and `before` (paging).
    `url` is the server's address.

    Raises InvalidRequest.
    """
    group, search = query.get("state", ""), query.get("q", "").strip()
    before = _before(query.get("before", ""))
    counts = await runs.state_counts(owner)
    found, following = await _find(runs, owner, group, search, before)
    progress = await statistics.progress([run.id for run in found if run.state.active])
    rows: list[JsonValue] = []
    for run in found:
        tasks = progress.get(run.id)
        counted: JsonValue = None if tasks is None else {"done": tasks.done, "total": tasks.total}
        rows.append(row(run, now) | {"progress": counted})
    content: JsonObject = {
        "filters": [_filter(name, counts, group, search) for name in ("", *_GROUPS)],
        "state": group,
        "search": search,
        "runs": rows,
        "next": _url(group, search, before=following) if following is not None else None,
        "first": before is None,
        "server": shlex.quote(url),
    }
    return WebPage("runs.html", "Runs", content)


def row(run: Run, now: datetime) -> JsonObject:
    """Return one run as a row of the table. Times are emulated, in seconds."""
    sla = promised(run)
    took = None if run.started is None else elapsed(run, now)
    content: JsonObject = {
        "id": run.id,
        "name": run.handle,
        "state": run.state.value,
        "word": STATE_WORDS[run.state],
        "active": run.state.active,
        "workflow": run.workflow or figures(run).workflow,
        "sample": _sample(run),
        "level": run.service_level.name.lower() if run.workflow else None,
        "place": run.placement.kind if run.placement else None,
        "created": iso(run.created),
        "elapsed": seconds_of(took),
        "left": None,
        "met": None,
        "price": None,
        "reads": run.counts.total_reads if run.counts else None,
        "bases": sla_bases(run),
    }
    if sla is not None and took is not None:
        content["price"] = f"{sla.price.normalize():f}"
        if run.state is RunState.COMPLETE:
            content["met"] = sla.met(took)
        elif run.state.active:
            content["left"] = (sla.duration - took).total_seconds()
    return content


async def _find(
    runs: RunService, owner: Owner, group: str, search: str, before: int | None
) -> tuple[tuple[Run, ...], int | None]:
    """Return the matching runs and where the next page begins.

    A search is the id or name of a run, a tag (`name=value`), or the name of a workflow.
    """
    if group and group not in _GROUPS:
        raise InvalidRequest(f"{group[:40]!r} is not a filter", field="state")
    states = _GROUPS.get(group, ())
    if search and (run := await run_by_name(runs, owner, search)) is not None:
        shown = not states or run.state in states
        return ((run,) if shown else ()), None
    name, equals, value = search.partition("=")
    selection = Selection(
        states=states,
        tags=((name.strip(), value.strip()),) if equals else (),
        workflows=(search,) if search and not equals else (),
    )
    found = await runs.page(owner, size=_PAGE, before=before, selection=selection)
    return found.runs, found.before


async def run_by_name(runs: RunService, owner: Owner, search: str) -> Run | None:
    """Return the owner's run with this id or name, None if there is none."""
    for find in (runs.get, runs.by_handle):
        try:
            return await find(owner, search)
        except (RunNotFound, Forbidden):
            continue
    return None


def _filter(name: str, counts: Mapping[RunState, int], group: str, search: str) -> JsonValue:
    states = _GROUPS.get(name, tuple(RunState))
    return {
        "name": name or "all",
        "count": sum(counts.get(state, 0) for state in states),
        "url": _url(name, search),
        "chosen": name == group,
    }


def _url(group: str, search: str, before: int | None = None) -> str:
    values = {"state": group, "q": search, "before": "" if before is None else str(before)}
    return f"/ui/?{urlencode({name: value for name, value in values.items() if value})}"


def _before(text: str) -> int | None:
    if not text:
        return None
    number = whole_number(text)
    if number is None:
        raise InvalidRequest(f"{text[:40]!r} is not a page; open /ui/ again", field="before")
    return number


def _sample(run: Run) -> str | None:
    sample = run.request.params.get("sample")
    return sample if isinstance(sample, str) else None
