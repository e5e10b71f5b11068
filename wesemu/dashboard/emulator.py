"""The page of the emulator: clock, faults, and the last requests of all APIs.

It has the access rules of the control API.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import islice

from aiohttp import web

from wesemu.api.admin.controls import ClockControl
from wesemu.api.admin.routes import AdminAccess
from wesemu.api.base import RequestLog
from wesemu.api.fault_injection import RequestFaults
from wesemu.dashboard.pages import WebPage, iso
from wesemu.errors import InvalidRequest
from wesemu.runs.model import JsonObject, JsonValue
from wesemu.runs.service import ServicePolicy

_REQUESTS = 200
_MOST_SPEED = 1e6
_MOST_MINUTES = 60 * 24 * 365


@dataclass(frozen=True, slots=True)
class Controls:
    """The controls, and who may use them. `pace` is the setting `sla.pace`."""

    access: AdminAccess
    clock: ClockControl
    pace: str
    faults: RequestFaults
    policy: ServicePolicy
    requests: RequestLog


def page(controls: Controls, request: web.Request) -> WebPage:
    """Raises NotFound, Unauthorized or Forbidden as the control API does."""
    controls.access.check(request)
    clock = controls.clock.clock
    newest_first = reversed(tuple(controls.requests))
    content: JsonObject = {
        "now": iso(clock.now()),
        "speed": clock.rate.speed,
        "pace": controls.pace,
        "faults": [*_faults(controls)],
        "requests": [
            {
                "at": iso(received.at),
                "method": received.method,
                "path": received.path,
                "operation": received.operation,
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
    """Do what a form asks: `speed`, `minutes` (advance the clock), or `clear` (faults).

    Raises as `page` does, and InvalidRequest.
    """
    controls.access.check(request)
    if "speed" in form:
        await controls.clock.adjust(speed=_number("speed", form["speed"], _MOST_SPEED))
    elif "minutes" in form:
        minutes = _number("minutes", form["minutes"], _MOST_MINUTES)
        await controls.clock.adjust(step=timedelta(minutes=minutes))
    elif "clear" in form:
        controls.faults.clear()
        controls.policy.clear()
    else:
        raise InvalidRequest("the form asks for nothing; send speed, minutes or clear")


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


def _faults(controls: Controls) -> Iterator[JsonValue]:
    """Yield what each fault waits for, how often, and what it does."""
    for fault, times in controls.faults.pending:
        effects = {
            name: value
            for name, value in asdict(fault).items()
            if name != "operation" and value not in (None, False, 0)
        }
        text = ", ".join(f"{name} {value}" for name, value in effects.items())
        yield {"for": fault.operation, "times": times, "effect": text}
    for waiting in controls.policy.pending:
        effects = {name: value for name, value in asdict(waiting).items() if value}
        text = ", ".join(f"{name} {value}" for name, value in effects.items())
        yield {"for": "the next run", "times": 1, "effect": text}
