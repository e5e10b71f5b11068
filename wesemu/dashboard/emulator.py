"""The page of the emulator: clock, faults, resets, snapshots, and the last requests of all APIs.

It has the access rules of the control API.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from wesemu.api.admin.controls import ClockControl, FaultHandlers, ResetHandlers
from wesemu.api.admin.data import SnapshotHandlers, receive
from wesemu.api.admin.models import FaultBody
from wesemu.api.admin.routes import AdminAccess
from wesemu.api.base import RequestLog
from wesemu.api.fault_injection import BUCKET_OPERATIONS, OPERATIONS, operation_name
from wesemu.api.wes.multipart import FormReader
from wesemu.dashboard.pages import WebPage, iso
from wesemu.errors import InvalidRequest
from wesemu.runs.model import JsonObject, JsonValue
from wesemu.util.text import validation_reason, whole_number

_REQUESTS = 200
_MOST_SPEED = 1e6
_MOST_MINUTES = 60 * 24 * 365
_LARGEST_SNAPSHOT = 1 << 50
_WHOLE_NUMBERS = ("times", "status", "late_minutes", "fails_at_task")
_SWITCHES = ("drop", "after", "misses_sla", "runs_out_of_disk")
_OF_RUNS = ("misses_sla", "late_minutes", "fails_at_task", "runs_out_of_disk")


@dataclass(frozen=True, slots=True)
class Controls:
    """The controls, and who may use them. `pace` is the setting `sla.pace`."""

    access: AdminAccess
    clock: ClockControl
    pace: str
    faults: FaultHandlers
    resets: ResetHandlers
    snapshots: SnapshotHandlers
    requests: RequestLog


def page(controls: Controls, request: web.Request) -> WebPage:
    """Return the page of the emulator.

    Raises NotFound, Unauthorized or Forbidden under the access rules of the control API.
    """
    controls.access.check(request)
    clock = controls.clock.clock
    newest_first = reversed(tuple(controls.requests))
    content: JsonObject = {
        "now": iso(clock.now()),
        "speed": clock.rate.speed,
        "pace": controls.pace,
        "faults": [*_waiting(controls.faults)],
        "applied": [*_applied(controls.faults)],
        "operations": [*OPERATIONS, *BUCKET_OPERATIONS],
        "requests": [
            {
                "at": iso(received.at),
                "method": received.method,
                "path": received.path,
                "operation": received.operation or _operation(received.method, received.path),
                "status": received.status,
                "milliseconds": received.milliseconds,
                "owner": received.owner,
                "unread": [*received.unread],
                "error": received.error,
            }
            for received in islice(newest_first, _REQUESTS)
        ],
    }
    return WebPage("emulator.html", "Emulator", content)


async def apply(controls: Controls, request: web.Request, form: Mapping[str, str]) -> None:
    """Do what a form asks: `speed`, `minutes` (advance the clock), `fault` (add one), `clear` (all
    faults), or `reset` (everything, or the runs only).

    Raises as `page` does, and InvalidRequest.
    """
    controls.access.check(request)
    if "speed" in form:
        await controls.clock.adjust(speed=_number("speed", form["speed"], _MOST_SPEED))
    elif "minutes" in form:
        minutes = _number("minutes", form["minutes"], _MOST_MINUTES)
        await controls.clock.adjust(step=timedelta(minutes=minutes))
    elif "fault" in form:
        controls.faults.add(_fault(form))
    elif "clear" in form:
        controls.faults.clear_all()
    elif "reset" in form:
        await controls.resets.start_over(buckets=form["reset"] == "everything")
    else:
        raise InvalidRequest("the form asks for nothing; send speed, minutes, fault or clear")


async def save_snapshot(controls: Controls, request: web.Request) -> web.StreamResponse:
    controls.access.check(request)
    return await controls.snapshots.save(request)


async def load_snapshot(controls: Controls, request: web.Request) -> None:
    """Load the file `snapshot` of a multipart form. Raises as `page` does, and InvalidRequest."""
    controls.access.check(request)
    form = FormReader.of(request, upload=_LARGEST_SNAPSHOT, parts=1)
    async for part in form:
        if part.name == "snapshot" and part.filename:
            size = request.content_length or 0
            await controls.snapshots.load_file(partial(receive, part.chunks, size=size))
            return
    raise InvalidRequest("choose the file of a snapshot", field="snapshot")


def _operation(method: str, path: str) -> str:
    """Return the name of an AGS or WES operation, or ""."""
    name = operation_name(method, path)
    return name if name in OPERATIONS else ""


def _number(name: str, text: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= most:
        raise InvalidRequest(
            f"it is {text[:40]!r}; write a number above 0, at most {most:g}", field=name
        )
    return number


def _fault(form: Mapping[str, str]) -> FaultBody:
    """Return the fault of a filled form; empty fields are left out. Raises InvalidRequest."""
    given: dict[str, Any] = {}
    for name, text in ((name, text.strip()) for name, text in form.items() if name != "fault"):
        if not text:
            continue
        if name in _SWITCHES:
            given[name] = text == "true"
        elif name in _WHOLE_NUMBERS:
            if (number := whole_number(text)) is None:
                raise InvalidRequest(f"it is {text[:40]!r}; write a whole number", field=name)
            given[name] = number
        elif name == "delay":
            given[name] = _number(name, text, 3600)
        else:
            given[name] = text
    if form["fault"] == "run":
        given["next_run"] = {name: given.pop(name) for name in _OF_RUNS if name in given}
    try:
        return FaultBody.model_validate(given)
    except ValidationError as error:
        field, reason = validation_reason(error)
        raise InvalidRequest(reason, field=field or None) from error


def _waiting(faults: FaultHandlers) -> Iterator[JsonValue]:
    """Yield what each fault waits for, how often, and what it does."""
    for fault, times in faults.calls.pending:
        yield {"for": fault.operation, "times": times, "effect": _effect(fault)}
    for waiting, times in faults.policy.pending:
        yield {"for": "the next run", "times": times, "effect": _effect(waiting)}


def _applied(faults: FaultHandlers) -> Iterator[JsonValue]:
    """Yield the last requests and runs that a fault was applied to, the newest first."""
    for run_id, fault in reversed(faults.policy.applied):
        yield {"at": None, "what": f"run {run_id}", "run": run_id, "effect": _effect(fault)}
    for each in reversed(faults.calls.applied):
        what = f"{each.method} {each.path}"
        yield {"at": iso(each.at), "what": what, "run": None, "effect": _effect(each.fault)}


def _effect(fault: Any) -> str:
    """Name the members of a `RequestFault` or an `InjectedFault` that say what happens."""
    effects = {
        name.replace("_", " "): value
        for name, value in asdict(fault).items()
        if name != "operation" and value not in (None, False, 0)
    }
    return ", ".join(
        name if value is True else f"{name} {value}" for name, value in effects.items()
    )
