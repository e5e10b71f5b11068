"""The five operations of AGS (product CS, version 2015-12-15)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from wesemu.client.transport import (
    ClientError,
    Transport,
    converted,
    nested_list,
    number,
    optional_text,
    path_part,
    text,
)
from wesemu.runs.model import JsonObject


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job of DescribeWorkflows. `created` has the form "2020-01-15T13:18:52Z"."""

    name: str
    created: str
    status: str


@dataclass(frozen=True, slots=True)
class JobDetail:
    """The answer of DescirbeWorkflow (the API's own spelling).

    Times have the form "2020-01-15 16:30:25 +0800 CST", durations "12m25s"; sizes are in bytes.
    `request` is the request that the server echoes. The fields after it are additions of wesemu
    (docs/sla.md), None while unknown. Numbers are decimal text. `sla_bases` determines the
    promised time and price, `real_seconds` is the run time of the tools. `pace` is None for the
    pace "real".
    """

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
    """The five operations of AGS. Each raises ClientError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def start(self, fields: Mapping[str, str]) -> str:
        """StartWorkflow. Return the name of the job."""
        body: JsonObject = dict(fields)
        name = text(await self._transport.call("POST", "/gs/workflow", body=body), "JobName")
        if not name:
            raise ClientError(
                "the server answers without the name of a job; is it a wesemu server?"
            )
        return name

    async def jobs(self, *, limit: int | None = None) -> list[JobLine]:
        """DescribeWorkflows, newest first."""
        query = None if limit is None else {"limit": str(limit)}
        answer = await self._transport.call("GET", "/gs/workflows", query=query)
        return [
            JobLine(text(job, "job_name"), text(job, "create_time"), text(job, "status"))
            for job in nested_list(answer, "jobs")
        ]

    async def job(self, name: str) -> JobDetail:
        """DescirbeWorkflow. Return the job with its figures."""
        answer = await self._transport.call("GET", _path(name))
        echoed = converted(answer, "user_input_data", json.loads)
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
            pace=optional_text(answer, "pace"),
            sla_bases=optional_text(answer, "sla_bases"),
            sla_minutes=optional_text(answer, "sla_minutes"),
            sla_price_cny=optional_text(answer, "sla_price_cny"),
            sla_predicted_finish=optional_text(answer, "sla_predicted_finish"),
            sla_met=optional_text(answer, "sla_met"),
            sla_charged_cny=optional_text(answer, "sla_charged_cny"),
            real_seconds=optional_text(answer, "real_seconds"),
            error=optional_text(answer, "error_message"),
            raw=answer,
        )

    async def cancel(self, name: str) -> None:
        """CancelWorkflow. An ended job stays unchanged."""
        await self._transport.call("PUT", _path(name), body={"action": "cancel"})

    async def remove(self, name: str) -> None:
        """RemoveWorkflow. The server refuses while the job runs."""
        await self._transport.call("DELETE", _path(name))


def _path(name: str) -> str:
    return f"/gs/workflow/{path_part(name)}"
