"""Alibaba Cloud's two APIs: the five operations of AGS, and objects in buckets.

AGS is the product CS, version 2015-12-15. Objects are sent and read by plain requests to `/oss/`
(docs/oss.md).
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree as ET

from wesemu.client.transport import ClientError, Transport, nested_list, number, optional_text, text
from wesemu.runs.model import JsonObject

# Operations of AGS


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
        return text(await self._transport.call("POST", "/gs/workflow", body=body), "JobName")

    async def jobs(self, *, limit: int | None = None) -> list[JobLine]:
        """DescribeWorkflows, newest first."""
        query = None if limit is None else {"limit": str(limit)}
        answer = await self._transport.call("GET", "/gs/workflows", query=query)
        return [
            JobLine(text(job, "job_name"), text(job, "create_time"), text(job, "status"))
            for job in nested_list(answer, "jobs")
        ]

    async def job(self, name: str) -> JobDetail:
        """DescirbeWorkflow."""
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
        """CancelWorkflow."""
        await self._transport.call("PUT", _path(name), body={"action": "cancel"})

    async def remove(self, name: str) -> None:
        """RemoveWorkflow. The server refuses while the job runs."""
        await self._transport.call("DELETE", _path(name))


def _path(name: str) -> str:
    return f"/gs/workflow/{quote(name, safe='')}"


# Objects in buckets


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One object of a listing. `size` is in bytes, `modified` in UTC."""

    key: str
    size: int
    modified: datetime


class AsyncBucket:
    """One bucket. It need not exist yet. Each method raises ClientError.

    Requests carry the client's bearer token and no signature. A server whose only credentials are
    access keys refuses them: use an OSS SDK there.
    """

    def __init__(self, transport: Transport, name: str) -> None:
        self._transport = transport
        self.name = name

    async def create(self) -> None:
        """Create the bucket. An existing bucket stays unchanged."""
        await self._transport.send("PUT", self._path())

    async def put(self, key: str, content: bytes | str | Path) -> str:
        """Write an object: bytes, text as UTF-8, or the file at a Path. Return its location."""
        await self._transport.send("PUT", self._path(key), data=encoded(content))
        return self.url(key)

    async def get(self, key: str) -> bytes:
        """Return the content of an object."""
        return b"".join([chunk async for chunk in self._transport.chunks(self._path(key))])

    async def download(self, key: str, target: Path | str) -> Path:
        """Write an object to the file `target`, or into the folder `target`. Return the file."""
        return await self._transport.download(self._path(key), Path(target), key)

    async def list(self, prefix: str = "") -> list[ObjectEntry]:
        """Return the objects whose keys start with `prefix`, in the order of the keys."""
        return [entry async for entry in self._entries(prefix)]

    async def delete(self, key: str) -> None:
        """Remove an object. A missing object is not an error."""
        await self._transport.send("DELETE", self._path(key))

    def url(self, key: str) -> str:
        """Return the location of an object, as runs take it."""
        return f"oss://{self.name}/{key}"

    async def _entries(self, prefix: str) -> AsyncIterator[ObjectEntry]:
        query = {"list-type": "2", "max-keys": "1000", "prefix": prefix}
        while True:
            page = _parse(await self._transport.send("GET", self._path(), query=query))
            for entry in page.iter("Contents"):
                yield ObjectEntry(
                    _text(entry, "Key"),
                    int(_text(entry, "Size")),
                    datetime.fromisoformat(_text(entry, "LastModified")),
                )
            query["continuation-token"] = _text(page, "NextContinuationToken")
            if not query["continuation-token"]:
                return

    def _path(self, key: str = "") -> str:
        return f"/oss/{quote(self.name, safe='')}/{quote(key)}"


def encoded(content: bytes | str | Path) -> bytes | Path:
    """Return text as UTF-8, and other content unchanged."""
    return content.encode() if isinstance(content, str) else content


async def bucket_names(transport: Transport) -> list[str]:
    """Return the names of all buckets. Raise ClientError."""
    names: list[str] = []
    query = {"max-keys": "1000", "marker": ""}
    while True:
        page = _parse(await transport.send("GET", "/oss/", query=query))
        names += [_text(bucket, "Name") for bucket in page.iter("Bucket")]
        query["marker"] = _text(page, "NextMarker")
        if not query["marker"]:
            return names


def _parse(content: bytes) -> ET.Element:
    try:
        return ET.fromstring(content)  # noqa: S314 - the caller chose this server
    except ET.ParseError as error:
        raise ClientError(
            "the server answered a listing with something that is not XML; is it a wesemu server?"
        ) from error


def _text(element: ET.Element, tag: str) -> str:
    return element.findtext(tag) or ""
