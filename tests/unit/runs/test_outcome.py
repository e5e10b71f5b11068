"""The outcome of a run: messages about full disks, and tasks that were open."""

import errno
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wesemu.runs.model import RunState, TaskLog, TaskState
from wesemu.runs.outcome import cancel_open_tasks, count_crash, fault, real_seconds
from wesemu.runs.run_directory import Workspace, read_json


def test_a_fault_of_the_disk_names_the_file_and_not_its_folder() -> None:
    path = "/srv/cache/references/.build-x1/ab/genome.fa"
    state, failure = fault(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path))
    assert state is RunState.SYSTEM_ERROR
    assert failure.message == "genome.fa: the disk is full"
    assert fault(OSError("closed"))[1].message == "closed"


@pytest.mark.parametrize("text", ["[" * 1000, "[]", '{"crashes": Infinity}', "no JSON"])
def test_a_count_of_crashes_that_a_workflow_has_written_is_none(tmp_path: Path, text: str) -> None:
    workspace = Workspace(tmp_path)
    workspace.crashes.write_text(text)
    count_crash(workspace)
    assert read_json(workspace.crashes) == {"crashes": 1}


def test_open_tasks_are_canceled_and_never_end_before_their_start() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    waiting = TaskLog(id="1", name="a", state=TaskState.QUEUED)
    running = TaskLog(id="2", name="b", state=TaskState.RUNNING, started=start)
    hour = timedelta(hours=1)
    for now, ended in ((start + hour, start + hour), (start - hour, start)):
        closed = cancel_open_tasks([waiting, running], now)
        assert [task.ended for task in closed] == [None, ended]
        assert {task.state for task in closed} == {TaskState.CANCELED}


def test_a_run_takes_no_negative_time_when_the_clock_is_set_back() -> None:
    start, hour = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1)
    first = TaskLog(id="1", name="a", state=TaskState.CANCELED, started=start)
    again = TaskLog(id="2", name="b", state=TaskState.COMPLETE, ended=start - hour)
    assert real_seconds([first, again]) == 0
    assert real_seconds([first, replace(again, ended=start + hour)]) == 3600
    assert real_seconds([first]) is None
