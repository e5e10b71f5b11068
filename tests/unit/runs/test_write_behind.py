"""Tasks and tags that wait for an index without space."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from support.waiting import soon

from wesemu.errors import DiskFull
from wesemu.runs.model import (
    LOCAL_OWNER,
    Resources,
    Run,
    RunId,
    RunRequest,
    RunState,
    TaskLog,
    TaskState,
)
from wesemu.runs.notifications import RunNotifier, TagWriteBehind, TaskWriteBehind
from wesemu.runs.sla import ServiceLevel

RUN = Run(
    id=RunId("run"),
    sequence=1,
    handle="abcde",
    owner=LOCAL_OWNER,
    state=RunState.RUNNING,
    workflow="",
    service_level=ServiceLevel.SILVER,
    request=RunRequest("x.smk"),
    resources=Resources(cores=1),
    created=datetime(2026, 1, 1, tzinfo=UTC),
)
TASK = TaskLog(id="1", name="map", state=TaskState.RUNNING)


class FullStore:
    """An index on a full disk."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def put_tasks(self, run_id: RunId, tasks: list[TaskLog]) -> None:
        self.asked.set()
        raise DiskFull("no room")

    async def amend(self, run_id: RunId, **values: Any) -> None:
        self.asked.set()
        raise DiskFull("no room")


@pytest.mark.parametrize("kind", ["tasks", "tags"])
async def test_a_full_disk_does_not_hold_up_the_shut_down(kind: str) -> None:
    store, changes = FullStore(), RunNotifier()

    async def follow() -> None:
        if kind == "tasks":
            async with TaskWriteBehind(store, changes, RUN.id) as tasks:  # type: ignore[arg-type]
                tasks.add(TASK)
                await asyncio.Event().wait()
        async with TagWriteBehind(store, changes, RUN) as tags:  # type: ignore[arg-type]
            tags.add({"a": "b"})
            await asyncio.Event().wait()

    following = asyncio.create_task(follow())
    async with soon():
        await store.asked.wait()
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
