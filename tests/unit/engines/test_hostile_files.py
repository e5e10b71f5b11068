"""Files that a workflow has replaced, damaged or filled are read in bounded time."""

import asyncio
import json
import os
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from wesemu.engines import event_log
from wesemu.engines.event_log import EventLog, Tail
from wesemu.engines.execution import DetachedExecution, find, read_exit_code
from wesemu.engines.failures import log_tail, task_failure
from wesemu.engines.launch_spec import LaunchSpec
from wesemu.engines.processes import ProcessHandle, identify
from wesemu.engines.run_process import holder, is_held
from wesemu.engines.snakemake.worker import tool_environment
from wesemu.engines.task_recorder import TaskHistory
from wesemu.runs.model import JsonObject, Resources
from wesemu.runs.ports import EngineError, Progress
from wesemu.runs.run_directory import Workspace, read_json, write_atomically
from wesemu.workflows.planner import _copy_attachments
from wesemu.workflows.results import gpu_failure, input_failure

MIB = 1 << 20
PROGRESS = '{"event": "progress", "done": 1, "total": 2}\n'
ENDED = '{"event": "ended", "exit_code": 0}\n'


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "run")
    workspace.work.mkdir(parents=True)
    return workspace


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_out(path: Path) -> None:
    (path.parents[1] / "secret").write_text("secret")
    path.symlink_to(path.parents[1] / "secret")


def circle(path: Path) -> None:
    path.symlink_to(path)


def folder(path: Path) -> None:
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(600 << 30)


REPLACEMENTS = [fifo, link_out, circle, folder]


@pytest.mark.parametrize(
    "line",
    [
        "x" * (70 * MIB),
        '{"event": "progress", "deep": ' + "[" * 200_000 + "]" * 200_000 + "}",
        "[" * MIB,
        '{"event": ' * 100_000,
        "\0" * MIB,
        "9" * 100_000,
        "null",
    ],
    ids=lambda line: line[:12].encode().hex(),
)
def test_a_line_that_is_no_record_is_skipped(workspace: Workspace, line: str) -> None:
    workspace.events.write_text(f"{PROGRESS}{line}\n{PROGRESS}{line}\n{ENDED}")
    assert [record["event"] for record in event_log.records(workspace)] == [
        *("progress", "progress", "ended")
    ]
    assert event_log.logged_exit_code(workspace) == 0


def test_a_long_history_is_read_in_little_memory(workspace: Workspace) -> None:
    """Each byte is looked at once: what was read of a line is not searched again."""
    with workspace.events.open("w") as file:
        for _ in range(30):
            file.write("y" * MIB)
        file.write("\n")
        for _ in range(50):
            file.write(PROGRESS * 1000)
        for _ in range(30):
            file.write("z" * MIB)
        file.write(f"\n{ENDED}")
    tracemalloc.start()
    try:
        assert sum(1 for _ in event_log.records(workspace)) == 50_001
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 120 * MIB


def test_a_line_that_grows_is_not_read_again(workspace: Workspace) -> None:
    tail, line = Tail(workspace.events), json.dumps({"event": "outputs", "files": ["x" * 5000]})
    with workspace.events.open("w", buffering=1) as file:
        for start in range(0, len(line), 100):
            file.write(line[start : start + 100])
            file.flush()
            assert tail.read() == []
        file.write("\n")
        file.flush()
        [record] = tail.read()
    assert record == json.loads(line)


@pytest.mark.parametrize(
    "failure",
    [
        {"message": 1},
        {"message": "a", "exit_code": "x"},
        {"message": "a", "hint": ["b"]},
        [],
        None,
    ],
)
def test_a_failure_of_other_kinds_is_none(failure: object) -> None:
    assert event_log.to_event({"event": "error", "failure": failure}) is None  # type: ignore[dict-item]


def test_half_of_a_surrogate_pair_becomes_a_question_mark(workspace: Workspace) -> None:
    text = '{"event": "error", "failure": {"message": "a \\ud800 b \\ud83d\\ude00"}}\n'
    workspace.events.write_text(text)
    [record] = event_log.records(workspace)
    event = event_log.to_event(record)
    assert isinstance(event, EngineError)
    assert event.failure.message.encode().decode() == "a ? b \U0001f600"


@pytest.mark.parametrize(
    "details",
    [
        {"ready": 5},
        {"ready": "yesterday"},
        {"cores": "2"},
        {"cores": True},
        {"devices": ["0"]},
        {"devices": 1},
        {"inputs": [1]},
        {"after": {"a": 1}, "read_bytes": 1.5},
        [],
        "cores",
    ],
)
def test_a_task_with_forged_details_is_none(details: object) -> None:
    task: JsonObject = {"id": "1", "name": "a", "state": "RUNNING", "details": details}  # type: ignore[dict-item]
    assert event_log.to_event({"event": "task", "task": task}) is None


def test_a_history_with_holes_does_not_hinder_a_resume() -> None:
    task = {"id": "7", "attempt": 1, "state": "COMPLETE"}
    TaskHistory([{"event": "task", "task": task}, {"event": "task", "task": {**task, "id": "x"}}])


@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_replaced_files_are_not_read_and_not_waited_for(
    workspace: Workspace, replace: Callable[[Path], None]
) -> None:
    for path in (workspace.exit_code, workspace.events, workspace.work / "a.log"):
        replace(path)
    replace(workspace.work / "input_error.json")
    replace(workspace.work / "accelerator_error.json")
    assert read_exit_code(workspace) is None
    assert log_tail(workspace.work / "a.log") == ""
    assert list(event_log.records(workspace)) == []
    assert find(workspace) == (False, None)
    for read in (lambda: input_failure(workspace.work, dict), lambda: gpu_failure(workspace.work)):
        assert read() is None


def test_a_lock_that_is_a_fifo_is_not_waited_for(workspace: Workspace) -> None:
    fifo(workspace.lock)
    assert not is_held(workspace.lock)
    assert holder(workspace.lock) is None


def test_huge_files_are_read_from_their_end_or_not_at_all(workspace: Workspace) -> None:
    log = workspace.work / "a.log"
    huge(log)
    with log.open("ab") as file:
        file.write(b"\nthe last words\n")
    assert log_tail(log).endswith("the last words")
    huge(workspace.exit_code)
    assert read_exit_code(workspace) is None
    huge(workspace.work / "input_error.json")
    with pytest.raises(ValueError, match="longer than"):
        read_json(workspace.work / "input_error.json")
    (workspace.work / "deep.json").write_text("[" * 1_000_000)
    with pytest.raises(ValueError, match="too deeply"):
        read_json(workspace.work / "deep.json")


@pytest.mark.parametrize("replace", REPLACEMENTS[:3])
def test_what_the_server_and_the_runs_process_write_replaces_what_lies_there(
    workspace: Workspace, replace: Callable[[Path], None]
) -> None:
    replace(workspace.root / ".error.json.tmp")
    write_atomically(workspace.error, b"{}")
    assert workspace.error.read_bytes() == b"{}"
    for path in (workspace.events, workspace.stdout, workspace.stderr, workspace.exit_code):
        replace(path)
    event_log.remove_irregular_files(workspace)
    EventLog(workspace).close()
    assert not workspace.stderr.is_symlink()
    secret = workspace.root.parent / "secret"
    assert not secret.exists() or secret.read_text() == "secret"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a folder with a file that no workflow may change."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "python").write_text("untouched")
    return outside


@pytest.mark.parametrize("link", ["python", "bin/python", "bin"])
def test_attachments_replace_links_of_an_earlier_launch(
    workspace: Workspace, outside: Path, link: str
) -> None:
    for name in ("python", "bin/python"):
        (workspace.attachments / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace.attachments / name).write_text("#!attached")
    _copy_attachments(workspace)
    place = workspace.work / link
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(outside / "python" if place.name == "python" else outside)
    _copy_attachments(workspace)
    assert [each.read_text() for each in outside.iterdir()] == ["untouched"]
    for name in ("python", "bin/python"):
        assert (workspace.work / name).read_text() == "#!attached"
        assert os.access(workspace.work / name, os.X_OK)


@pytest.mark.parametrize("link", ["tmp/bin", "tmp/bin/python"])
def test_the_interpreter_on_path_replaces_links_of_an_earlier_launch(
    workspace: Workspace, outside: Path, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(outside))
    place = workspace.root / link
    place.parent.mkdir(parents=True)
    place.symlink_to(outside / "python" if place.name == "python" else outside)
    spec = LaunchSpec("snakemake", "9", "cli", Path("Snakefile"), Resources(), 1.0)
    first, *_ = tool_environment(workspace, spec)["PATH"].split(os.pathsep)
    assert [each.read_text() for each in outside.iterdir()] == ["untouched"]
    command = [f"{first}/python", "-c", "print(1)"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"1\n"


@pytest.mark.parametrize(
    "log", ["work/logs/python", "work/link", "work/../../outside/python", "/etc/passwd"]
)
def test_the_log_of_a_failed_rule_is_no_file_outside_the_run(
    workspace: Workspace, outside: Path, log: str
) -> None:
    (workspace.work / "logs").symlink_to(outside)
    (workspace.work / "link").symlink_to(outside / "python")
    (workspace.work / "own").mkdir()
    (workspace.work / "own" / "log").write_text("the reason")
    failure = task_failure("a", "", 1, "", workspace.root, [log, "work/own/log"])
    assert failure.message == "rule a ended with exit status 1: the reason"
    assert failure.stderr == "work/own/log"


def test_progress_is_still_progress() -> None:
    assert event_log.to_event(json.loads(PROGRESS)) == Progress(1, 2)


async def test_a_file_in_place_of_the_fifo_does_not_hinder_a_server_that_follows_the_run(
    workspace: Workspace,
) -> None:
    event_log.notification_fifo(workspace).touch()
    identity = await asyncio.to_thread(identify, os.getpid())
    assert identity is not None
    execution = DetachedExecution(workspace, grace_seconds=1)
    await execution.follow(ProcessHandle(os.getpid(), identity))
    assert not execution.ended
    execution.close()


@pytest.mark.parametrize(
    "member",
    [
        {"threads": 1 << 63},
        {"exit_code": -(10**30)},
        {"peak_memory": 10**30},
        {"attempt": 10**30},
        {"started": "0001-01-01T00:00:00+14:00"},
        {"ended": "9999-12-31T23:59:59-14:00"},
        {"started": "2026-01-01T00:00:00"},
    ],
    ids=str,
)
def test_a_task_that_the_index_cannot_store_is_no_event(member: JsonObject) -> None:
    task: JsonObject = {"id": "1", "attempt": 1, "name": "a", "state": "RUNNING"}
    assert event_log.to_event({"event": "task", "task": task}) is not None
    assert event_log.to_event({"event": "task", "task": task | member}) is None
