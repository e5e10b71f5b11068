"""The five operations of AGS (product CS, version 2015-12-15)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from wesemu.client.transport import Transport, number, several, some, text
from wesemu.runs.model import JsonObject

# The emulator's own controls, below `/_wesemu/`.


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


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job of DescribeWorkflows; `created` as "2020-01-15T13:18:52Z"."""

    name: str
    created: str
    status: str


@dataclass(frozen=True, slots=True)
class JobDetail:
    """DescirbeWorkflow: times as "2020-01-15 16:30:25 +0800 CST", durations as "12m25s", sizes in
    bytes; `request` is the echoed one. What follows it are this server's additions, None until
    they are known, as docs/sla.md has them: numbers are decimal, `sla_bases` is what the service
    level goes by, `real_seconds` what the tools took; `pace` is None where it is "real"."""

    name: str
    namespace: str
    status: str
    created: str
    duration: str
    finished: str
    total_reads: int
    total_bases: int
    input_size: int
    output_size: int
    request: JsonObject
    pace: str | None
    sla_bases: str | None
    sla_minutes: str | None
    sla_price_cny: str | None
    sla_predicted_finish: str | None
    sla_met: str | None
    sla_charged_cny: str | None
    real_seconds: str | None
    error: str | None
    raw: JsonObject

    @property
    def ended(self) -> bool:
        return self.status in ("Succeeded", "Failed")


class AgsOperations:
    """AGS, as its clients send it. Each raises ClientError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def start(self, fields: Mapping[str, str]) -> str:
        """StartWorkflow; returns the job's name."""
        body: JsonObject = dict(fields)
        return text(await self._transport.call("POST", "/gs/workflow", body=body), "JobName")

    async def jobs(self, *, limit: int | None = None) -> list[JobLine]:
        """DescribeWorkflows, newest first."""
        query = None if limit is None else {"limit": str(limit)}
        answer = await self._transport.call("GET", "/gs/workflows", query=query)
        return [
            JobLine(text(job, "job_name"), text(job, "create_time"), text(job, "status"))
            for job in several(answer, "jobs")
        ]

    async def job(self, name: str) -> JobDetail:
        """DescirbeWorkflow (the API's own spelling)."""
        answer = await self._transport.call("GET", _path(name))
        echoed = json.loads(text(answer, "user_input_data") or "{}")
        return JobDetail(
            name=text(answer, "job_name"),
            namespace=text(answer, "job_namespace"),
            status=text(answer, "status"),
            created=text(answer, "create_time"),
            duration=text(answer, "duration"),
            finished=text(answer, "finish_time"),
            total_reads=number(answer, "total_reads"),
            total_bases=number(answer, "total_bases"),
            input_size=number(answer, "input_data_size"),
            output_size=number(answer, "output_data_size"),
            request=echoed if isinstance(echoed, dict) else {},
            pace=some(answer, "pace"),
            sla_bases=some(answer, "sla_bases"),
            sla_minutes=some(answer, "sla_minutes"),
            sla_price_cny=some(answer, "sla_price_cny"),
            sla_predicted_finish=some(answer, "sla_predicted_finish"),
            sla_met=some(answer, "sla_met"),
            sla_charged_cny=some(answer, "sla_charged_cny"),
            real_seconds=some(answer, "real_seconds"),
            error=some(answer, "error_message"),
            raw=answer,
        )

    async def cancel(self, name: str) -> None:
        """CancelWorkflow."""
        await self._transport.call("PUT", _path(name), body={"action": "cancel"})

    async def remove(self, name: str) -> None:
        """RemoveWorkflow; the server refuses while the job runs."""
        await self._transport.call("DELETE", _path(name))


def _path(name: str) -> str:
    return f"/gs/workflow/{quote(name, safe='')}"
