"""The control API of the server, below `/_wesemu/` (docs/control.md)."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from wesemu.client.transport import (
    ClientError,
    Transport,
    converted,
    nested_list,
    number,
    path_part,
    text,
)
from wesemu.client.wes import pauses
from wesemu.runs.model import JsonObject, JsonValue

_ROOT = "/_wesemu"
_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class ClockReading:
    """`now` is emulated time and `wall` real time, in ISO 8601.

    `speed` is in emulated seconds per real second.
    """

    now: str
    wall: str
    speed: float
    pace: str
    raw: JsonObject


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request that the server received (GET /_wesemu/requests).

    `operation` is the name of the operation, or method and path. `milliseconds` is the time of the
    response. `unread` has the fields of the body that nothing read. `error` is the message of a
    refused request. `client` is the User-Agent.
    """

    operation: str
    method: str
    path: str
    status: int
    milliseconds: float
    owner: str
    client: str
    unread: tuple[str, ...]
    error: str | None
    at: datetime


class ControlOperations:
    """The operations of docs/control.md. Each raises ClientError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def ready(self) -> bool:
        """Return whether runs can start; False also if no server answers."""
        try:
            await self.check_ready()
        except ClientError as error:
            if error.status in (None, _UNAVAILABLE):
                return False
            raise
        return True

    async def check_ready(self) -> None:
        """Raise ClientError with status 503 and the reasons if runs cannot start."""
        await self._transport.call("GET", f"{_ROOT}/ready")

    async def requests(self) -> list[ReceivedRequest]:
        """Return the last requests to the other APIs, oldest first."""
        answer = await self._transport.call("GET", f"{_ROOT}/requests")
        return [_received(each) for each in nested_list(answer, "requests")]

    async def info(self) -> JsonObject:
        """Return version, engines, tools, node and folders of the server (docs/control.md)."""
        return await self._transport.call("GET", f"{_ROOT}/info")

    async def clock(self) -> ClockReading:
        return _reading(await self._transport.call("GET", f"{_ROOT}/clock"))

    async def set_speed(self, speed: float) -> ClockReading:
        body: JsonObject = {"speed": speed}
        return _reading(await self._transport.call("PUT", f"{_ROOT}/clock", body=body))

    async def advance(self, step: Mapping[str, float]) -> ClockReading:
        """Advance the clock by the sum of `days`, `hours`, `minutes` and `seconds`."""
        return _reading(
            await self._transport.call("POST", f"{_ROOT}/clock/advance", body=dict(step))
        )

    async def faults(self) -> list[JsonObject]:
        """Return the faults that have not been injected yet."""
        return nested_list(await self._transport.call("GET", f"{_ROOT}/faults"), "faults")

    async def add_fault(self, fault: JsonObject) -> list[JsonObject]:
        """Add a fault. Return all faults that have not been injected yet."""
        answer = await self._transport.call("POST", f"{_ROOT}/faults", body=fault)
        return nested_list(answer, "faults")

    async def forget_faults(self) -> None:
        await self._transport.call("DELETE", f"{_ROOT}/faults")

    async def reset(self, *, buckets: bool = False) -> int:
        """Remove all runs, and the buckets if asked. Return the number of removed runs."""
        body: JsonObject = {"buckets": buckets}
        answer = await self._transport.call("POST", f"{_ROOT}/reset", body=body, slow=True)
        return number(answer, "runs")

    async def seed(self, seed: int | None) -> None:
        """Set the seed of run ids and job names; None for random ones."""
        await self._transport.call("POST", f"{_ROOT}/seed", body={"seed": seed})

    async def prune(
        self, older_than_days: float, *, keep_outputs: bool = False, dry_run: bool = False
    ) -> JsonObject:
        """Remove old runs. Return `runs` and `freed_bytes`; with `dry_run`, as they would be."""
        body: JsonObject = {
            "older_than_days": older_than_days,
            "keep_outputs": keep_outputs,
            "dry_run": dry_run,
        }
        return await self._transport.call("POST", f"{_ROOT}/prune", body=body, slow=True)

    async def save_snapshot(self, target: Path) -> Path:
        """Write buckets, references, ended runs and emulated time to the file `target`."""
        return await self._transport.download(
            f"{_ROOT}/snapshots", target, "snapshot.tar", method="POST", slow=True
        )

    async def load_snapshot(self, source: Path) -> JsonObject:
        """Replace the server's runs, buckets and time by those of a snapshot.

        Return the numbers of `runs`, `buckets` and `references`.
        """
        return await self._transport.call("PUT", f"{_ROOT}/snapshots", file=source)

    async def references(self) -> list[JsonObject]:
        """Return the registered references, and those that are being added."""
        return nested_list(await self._transport.call("GET", f"{_ROOT}/references"), "references")

    async def add_reference(
        self,
        name: str,
        source: Path | str,
        *,
        mapper: str = "bwa",
        progress: Callable[[JsonObject], None] = lambda reference: None,
    ) -> JsonObject:
        """Register a FASTA as `name`: a file to send, or a location such as oss://bucket/key.

        Wait until it is indexed and return it, in the form of `references`. `progress` gets each
        state before. Raise ClientError if it cannot be indexed.
        """
        path = f"{_ROOT}/references"
        if isinstance(source, str):
            body: JsonObject = {"name": name, "location": source, "mapper": mapper}
            added = await self._transport.call("POST", path, body=body)
        else:
            query = {"name": name, "mapper": mapper}
            added = await self._transport.call("POST", path, query=query, file=source)
        for pause in pauses():
            named = (each for each in await self.references() if text(each, "name") == name)
            reference = next(named, added)
            match state := text(reference, "state"):
                case "ready":
                    return reference
                case "receiving" | "indexing":
                    progress(reference)
                    await asyncio.sleep(pause)
                case "failed":
                    reason = text(reference, "error")
                    raise ClientError(f"the reference {name} was not added: {reason}")
                case _:
                    raise ClientError(
                        f"the server answers that the reference {name} is {state!r}; "
                        "is it a wesemu server?"
                    )
        raise AssertionError("pauses() does not end")

    async def remove_reference(self, name: str) -> None:
        """Remove a registered reference. Runs that still use it fail."""
        await self._transport.call("DELETE", f"{_ROOT}/references/{path_part(name)}")


def _reading(answer: JsonObject) -> ClockReading:
    return ClockReading(
        now=text(answer, "now"),
        wall=text(answer, "wall"),
        speed=converted(answer, "speed", float) if "speed" in answer else 1.0,
        pace=text(answer, "pace"),
        raw=answer,
    )


def _time(reading: ClockReading) -> datetime:
    return converted(reading.raw, "now", datetime.fromisoformat)


def _received(values: JsonObject) -> ReceivedRequest:
    unread = values.get("unread")
    return ReceivedRequest(
        operation=text(values, "operation"),
        method=text(values, "method"),
        path=text(values, "path"),
        status=number(values, "status"),
        milliseconds=converted(values, "milliseconds", float),
        owner=text(values, "owner"),
        client=text(values, "client"),
        unread=tuple(map(str, unread)) if isinstance(unread, list) else (),
        error=text(values, "error") or None,
        at=converted(values, "at", datetime.fromisoformat),
    )


class AsyncClock:
    """The emulated clock. Each method raises ClientError."""

    def __init__(self, control: ControlOperations) -> None:
        self._control = control

    async def now(self) -> datetime:
        """Return emulated time."""
        return _time(await self._control.clock())

    async def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> datetime:
        """Advance emulated time by the sum. Return the new time."""
        steps = {"days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
        wanted = {name: value for name, value in steps.items() if value}
        return _time(await self._control.advance(wanted))

    async def set_speed(self, speed: float) -> None:
        """Set the emulated seconds per real second; 0 stops emulated time."""
        await self._control.set_speed(speed)


class AsyncFaults:
    """Faults to inject. Each method raises ClientError."""

    def __init__(self, control: ControlOperations) -> None:
        self._control = control

    async def add(self, **fault: JsonValue) -> None:
        """Add a fault with the members of POST /_wesemu/faults.

        `operation="StartWorkflow", status=503, times=1` refuses a request,
        `next_run={"fails_at_task": 1}` lets a run fail.
        """
        await self._control.add_fault(fault)

    async def pending(self) -> list[JsonObject]:
        """Return the faults that have not occurred yet."""
        return await self._control.faults()

    async def clear(self) -> None:
        await self._control.forget_faults()
