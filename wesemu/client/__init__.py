"""A small typed client of the HTTP APIs: WES, AGS, OSS and the control API (docs/client.md).

Every failure raises `ClientError` with the server's message.
"""

from wesemu.client.ags import AgsOperations, JobDetail, JobLine
from wesemu.client.async_client import AsyncClient, AsyncOutput, AsyncRun
from wesemu.client.buckets import AsyncBucket, ObjectEntry
from wesemu.client.control import ClockReading, ControlOperations, ReceivedRequest
from wesemu.client.sync_client import Bucket, Client, ClientRun, RunOutput
from wesemu.client.transport import ClientError
from wesemu.client.wes import Counts, Log, Output, RunDetail, RunLine, SlaFigures, WesOperations

__all__ = [
    "AgsOperations",
    "AsyncBucket",
    "AsyncClient",
    "AsyncOutput",
    "AsyncRun",
    "Bucket",
    "Client",
    "ClientError",
    "ClientRun",
    "ClockReading",
    "ControlOperations",
    "Counts",
    "JobDetail",
    "JobLine",
    "Log",
    "ObjectEntry",
    "Output",
    "ReceivedRequest",
    "RunDetail",
    "RunLine",
    "RunOutput",
    "SlaFigures",
    "WesOperations",
]
