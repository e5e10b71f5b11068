"""events.jsonl: written records are read, also from a log that a crash has damaged."""

import os
import resource
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesemu.engines import event_log as events
from wesemu.engines.event_log import EventLog, Tail
from wesemu.runs.model import RunFailure, TaskDetails, TaskLog, TaskState
from wesemu.runs.ports import EngineError, Progress, RunStarted, TaskChanged
from wesemu.runs.run_directory import Workspace

TASK = TaskLog(
    id="3",
    name="map",
    state=TaskState.COMPLETE,
    wildcards={"sample": "s1"},
    command="bwa mem 'ü' | cat",
    threads=4,
    started=datetime(2026, 1, 1, 12, tzinfo=UTC),
    ended=datetime(2026, 1, 1, 13, tzinfo=UTC),
    exit_code=0,
    stdout="tasks/3-1/stdout",
    stderr="tasks/3-1/stderr",
    cpu_seconds=1.5,
    peak_memory=1 << 30,
    details=TaskDetails(
        ready=datetime(2026, 1, 1, 11, tzinfo=UTC),
        cores=4,
        memory_mb=1000,
        devices=(0, 1),
        read_bytes=512,
        written_bytes=0,
        inputs=("s1.fq", "é"),
        outputs=("s1.bam",),
        after=("1",),
    ),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_records_become_the_events_of_the_port(workspace: Workspace) -> None:
    failure = RunFailure("it broke", task="map", exit_code=1)
    journal = EventLog(workspace)
    journal.write("launched", launch=1)
    journal.write("planned", total=7)
    journal.task(TASK, key="abc")
    journal.write("progress", done=1, total=7)
    journal.error(failure)
    journal.close()
    found = [events.to_event(record) for record in events.history(workspace)]
    assert found == [
        None,
        RunStarted(7),
        TaskChanged(TASK),
        Progress(1, 7),
        EngineError(failure),
    ]


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1)])
def test_times_do_not_jump_with_the_clock(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    class SetClock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + jump

    journal = EventLog(workspace)
    before = journal.now()
    monkeypatch.setattr(events, "datetime", SetClock)
    assert timedelta() <= journal.now() - before < timedelta(hours=1)
    journal.close()


def test_no_task_ends_before_its_start_when_the_clock_is_set_back(workspace: Workspace) -> None:
    assert TASK.started is not None
    journal = EventLog(workspace)
    journal.task(replace(TASK, ended=TASK.started - timedelta(hours=1)))
    journal.close()
    [found] = [events.to_event(record) for record in events.history(workspace)]
    assert found == TaskChanged(replace(TASK, ended=TASK.started))


def test_half_a_line_is_read_once_it_is_whole(workspace: Workspace) -> None:
    tail = Tail(workspace.events)
    assert tail.read() == []
    workspace.events.write_text('{"event": "a"}\n{"event"')
    assert [record["event"] for record in tail.read()] == ["a"]
    with workspace.events.open("a") as file:
        file.write(': "b"}\n')
    assert [record["event"] for record in tail.read()] == ["b"]


def test_a_line_cut_off_by_a_crash_costs_only_itself(workspace: Workspace) -> None:
    workspace.events.write_text('{"event": "a"}\n{"event": "pro')
    events.repair_tail(workspace)
    journal = EventLog(workspace)
    journal.write("b")
    journal.close()
    assert [record["event"] for record in events.history(workspace)] == ["a", "b"]


@given(
    st.lists(st.sampled_from(["", "[]", "null", "{}", '{"event": 1}', "\x00", '{"event": "x"}']))
)
def test_foreign_lines_are_skipped(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    workspace = Workspace(tmp_path_factory.mktemp("run"))
    workspace.events.write_text("".join(f"{line}\n" for line in lines))
    assert all(events.to_event(record) is None for record in events.history(workspace))


def test_a_large_history_is_read_in_pieces(workspace: Workspace) -> None:
    line = '{"event": "a", "filler": "' + "x" * 100_000 + '"}\n'
    workspace.events.write_text(line * 50)
    tail = Tail(workspace.events)
    first = tail.read()
    assert 0 < len(first) < 50
    assert len(events.history(workspace)) == 50


def test_open_tasks_are_closed(workspace: Workspace) -> None:
    journal = EventLog(workspace)
    for task, state in (("1", TaskState.QUEUED), ("2", TaskState.RUNNING)):
        journal.task(TaskLog(id=task, name="map", state=state, started=TASK.started))
    journal.task(TASK)
    events.close_tasks(journal, events.history(workspace))
    journal.close()
    tasks = events.last_tasks(events.history(workspace))
    assert {key: task.state for key, task in tasks.items()} == {
        ("1", 1): TaskState.CANCELED,
        ("2", 1): TaskState.CANCELED,
        ("3", 1): TaskState.COMPLETE,
    }


def test_nobody_has_to_listen_to_the_bell(workspace: Workspace) -> None:
    events.create_notification_fifo(workspace)
    journal = EventLog(workspace)
    for _ in range(70_000):
        journal.notify()
    journal.write("still")
    journal.close()
    assert [record["event"] for record in events.history(workspace)] == ["still"]


def test_a_journal_that_was_replaced_is_not_waited_for(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    os.mkfifo(workspace.events)
    assert events.history(workspace) == []
    workspace.events.unlink()
    workspace.events.symlink_to("/dev/zero")
    assert events.history(workspace) == []


def test_a_record_that_a_full_disk_cuts_off_does_not_spoil_the_next(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the file's size stands for the disk: both cut a write short, then refuse."""
    journal = EventLog(workspace)
    journal.write("launched", launch=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (workspace.events.stat().st_size + 20, before[1]))
    try:
        journal.write("planned", total=7)
        journal.write("progress", done=0, total=7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    journal.write("ended", exit_code=1)
    journal.close()
    assert [record["event"] for record in events.history(workspace)] == ["launched", "ended"]
    assert capsys.readouterr().err.count("writing an event failed") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives blocks ahead of a file's end")
def test_the_history_owns_room_for_its_end_while_it_is_written(workspace: Workspace) -> None:
    journal = EventLog(workspace)
    journal.write("launched", launch=1)
    written = workspace.events.stat()
    journal.close()
    closed = workspace.events.stat()
    assert written.st_size == closed.st_size
    assert written.st_blocks * 512 >= 1 << 16
    assert closed.st_blocks * 512 <= 1 << 13
