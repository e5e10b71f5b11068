"""The emulator's own controls, below `/_wesemu/`."""

from collections.abc import Mapping
from dataclasses import dataclass

from wesemu.client.transport import Transport
from wesemu.client.values import number, several, text
from wesemu.runs.model import JsonObject

_ROOT = "/_wesemu"


@dataclass(frozen=True, slots=True)
class ClockReading:
    """Emulated time and the machine's, ISO 8601; `speed` in emulated seconds a real second."""

    now: str
    wall: str
    speed: float
    pace: str
    raw: JsonObject


class ControlOperations:
    """What docs/control.md describes. Each raises ClientError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def clock(self) -> ClockReading:
        return _reading(await self._transport.call("GET", f"{_ROOT}/clock"))

    async def set_speed(self, speed: float) -> ClockReading:
        body: JsonObject = {"speed": speed}
        return _reading(await self._transport.call("PUT", f"{_ROOT}/clock", body=body))

    async def advance(self, step: Mapping[str, float]) -> ClockReading:
        """By all of `days`, `hours`, `minutes`, `seconds` together."""
        return _reading(
            await self._transport.call("POST", f"{_ROOT}/clock/advance", body=dict(step))
        )

    async def faults(self) -> list[JsonObject]:
        """Those that have not struck yet."""
        return several(await self._transport.call("GET", f"{_ROOT}/faults"), "faults")

    async def order(self, fault: JsonObject) -> list[JsonObject]:
        """Add a fault; all that have not struck yet."""
        answer = await self._transport.call("POST", f"{_ROOT}/faults", body=fault)
        return several(answer, "faults")

    async def forget_faults(self) -> None:
        await self._transport.call("DELETE", f"{_ROOT}/faults")

    async def reset(self, *, buckets: bool = False) -> int:
        """How many runs were forgotten."""
        body: JsonObject = {"buckets": buckets}
        return number(await self._transport.call("POST", f"{_ROOT}/reset", body=body), "runs")

    async def prune(
        self, older_than_days: float, *, keep_outputs: bool = False, dry_run: bool = False
    ) -> JsonObject:
        """`runs` and `freed_bytes`, of what was pruned or would be."""
        body: JsonObject = {
            "older_than_days": older_than_days,
            "keep_outputs": keep_outputs,
            "dry_run": dry_run,
        }
        return await self._transport.call("POST", f"{_ROOT}/prune", body=body)


def _reading(answer: JsonObject) -> ClockReading:
    return ClockReading(
        now=text(answer, "now"),
        wall=text(answer, "wall"),
        speed=float(text(answer, "speed") or 1),
        pace=text(answer, "pace"),
        raw=answer,
    )
