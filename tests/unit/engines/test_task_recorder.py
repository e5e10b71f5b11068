"""Jobs keep their numbers over launches; attempts and progress continue."""

import os
from pathlib import Path
from typing import TypeGuard

import pytest

from wesemu.engines.event_log import EventLog, history, to_event
from wesemu.engines.snakemake.cli_worker import CliMessages
from wesemu.engines.task_recorder import RunCanceled, TaskFacts, TaskHistory, TaskRecorder, job_key
from wesemu.runs.model import JsonObject
from wesemu.runs.ports import EngineError, Event
from wesemu.runs.run_directory import Workspace


def record(task: str, state: str, key: str | None = None) -> JsonObject:
    """`task` is `<id>-<attempt>`."""
    keyed: JsonObject = {"key": key} if key else {}
    number, attempt = task.split("-")
    members: JsonObject = {"id": number, "attempt": int(attempt), "state": state}
    return {"event": "task", "task": members, **keyed}


def test_first_launch_takes_snakemakes_numbers() -> None:
    known = TaskHistory([])
    assert known.add(1, "one")
    assert not known.add(1, "one")
    assert known.add(7, "seven")
    assert (known.id(7), known.attempt(7, 1)) == ("7", 1)
    assert (known.id(7), known.attempt(7, 2)) == ("7", 2)
    known.complete(1)
    assert (known.done, known.total) == (1, 2)


def test_later_launches_go_on_counting() -> None:
    earlier = [
        record("1-1", "QUEUED", "last"),
        record("2-1", "QUEUED", "first"),
        record("2-1", "RUNNING"),
        record("2-1", "COMPLETE"),
        record("3-1", "QUEUED", "middle"),
        record("3-1", "RUNNING"),
        record("3-1", "CANCELED"),
    ]
    known = TaskHistory(earlier)
    assert (known.done, known.total) == (1, 1)
    known.add(1, "middle")
    known.add(2, "last")
    known.add(3, "new")
    assert (known.id(1), known.attempt(1, 1)) == ("3", 2)
    assert (known.id(2), known.attempt(2, 1)) == ("1", 1), "it was never started"
    assert (known.id(3), known.attempt(3, 1)) == ("4", 1), "the number 3 is taken"
    assert (known.done, known.total) == (1, 4)
    known.complete(1)
    assert (known.done, known.total) == (2, 4)


def test_a_finished_job_that_is_run_again_counts_once() -> None:
    known = TaskHistory([record("1-1", "QUEUED", "a"), record("1-1", "COMPLETE")])
    known.add(1, "a")
    assert (known.done, known.total) == (0, 1)
    assert (known.id(1), known.attempt(1, 1)) == ("1", 2)
    known.complete(1)
    assert (known.done, known.total) == (1, 1)


def test_keys_tell_wildcards_and_outputs_apart() -> None:
    keys = {
        job_key("map", {"sample": "a"}, ["a.bam"]),
        job_key("map", {"sample": "b"}, ["a.bam"]),
        job_key("map", {"sample": "a"}, ["b.bam"]),
        job_key("sort", {"sample": "a"}, ["a.bam"]),
    }
    assert len(keys) == 4
    assert job_key("m", {"a": "1", "b": "2"}, []) == job_key("m", {"b": "2", "a": "1"}, [])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    workspace.tasks.mkdir()
    return workspace


def step(name: str, *after: str) -> TaskFacts:
    return TaskFacts(name, name, job_key(name, {}, []), after=after)


def test_ids_of_dependencies_are_those_of_all_launches(workspace: Workspace) -> None:
    earlier = [record("4-1", "QUEUED", job_key("first", {}, []))]
    recorder = TaskRecorder(workspace, EventLog(workspace), earlier)
    assert recorder.begin(step("first")).task.id == "4"
    second = recorder.begin(step("second", "first", "done by an earlier launch")).task
    assert (second.id, second.details.after) == ("5", ("4",))
    recorder.event_log.close()


def test_a_command_may_have_names_that_are_not_utf8(workspace: Workspace) -> None:
    recorder = TaskRecorder(workspace, EventLog(workspace), [])
    attempt = recorder.begin(step("a"))
    attempt.note_command(os.fsdecode(b"cat caf\xe9"))
    assert (attempt.folder / "cmd").read_bytes() == b"cat caf\xe9\n"
    recorder.event_log.close()


def test_only_tasks_that_stay_failed_are_failures(workspace: Workspace) -> None:
    recorder = TaskRecorder(workspace, EventLog(workspace), [])
    for name, succeeded in (("a", False), ("b", False), ("a", True)):
        recorder.begin(step(name))
        recorder.end(name, succeeded=succeeded)
    assert [(attempt.task.name, attempt.task.attempt) for attempt in recorder.failed()] == [
        ("b", 1)
    ]
    recorder.cancel()
    with pytest.raises(RunCanceled):
        recorder.begin(step("c"))
    recorder.event_log.close()


def test_of_the_command_lines_jobs_only_those_that_stay_failed_are_failures(
    workspace: Workspace,
) -> None:
    messages = CliMessages(workspace, EventLog(workspace), [])

    def say(event: str, jobid: int) -> None:
        info = {"rule_name": f"rule{jobid}", "wildcards": {}, "input": [], "output": ["x"]}
        info |= {"shellcmd": "true", "log": [], "threads": 1}
        number = {"job_id": jobid, "jobid": jobid}
        messages.handle({"event": event, "time": 0.0, **number, **info})

    for jobid, last in ((1, "job_finished"), (2, "job_error")):
        for event in ("job_info", "job_error", "job_info", last):
            say(event, jobid)
    messages.ended(1)
    failed = [event.failure.task for event in map(to_event, history(workspace)) if is_error(event)]
    assert failed == ["rule2"]


def test_a_signal_is_the_reason_and_not_the_head_of_snakemake_s_log(workspace: Workspace) -> None:
    (workspace.root / "stderr.log").write_text("Assuming unrestricted shared filesystem usage.\n")
    CliMessages(workspace, EventLog(workspace), []).ended(137)
    [failure] = [event.failure for event in map(to_event, history(workspace)) if is_error(event)]
    assert failure.message == "Snakemake itself was ended by signal 9"


def is_error(event: Event | None) -> TypeGuard[EngineError]:
    return isinstance(event, EngineError)
