"""Identity of processes, holders of locks, and the end of process trees."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wesemu.engines import processes
from wesemu.engines.processes import (
    MARK,
    ProcessHandle,
    descendants,
    end_all,
    end_marked,
    identify,
    marked,
    members,
    start_when_possible,
)
from wesemu.engines.run_process import RunLock, holder, is_held


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A shell with a child, marked, in a process group of its own."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 300; true"],
        env={**os.environ, MARK: str(tmp_path)},
        process_group=0,
    )
    yield process
    end_all(lambda: marked(tmp_path))
    process.wait()


def test_identity_is_of_one_process(sleeper: "subprocess.Popen[bytes]") -> None:
    known = ProcessHandle(sleeper.pid, identify(sleeper.pid) or "")
    assert known.alive
    assert not ProcessHandle(sleeper.pid, "an earlier one").alive
    assert identify(os.getpid()) != known.identity
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not known.alive, "a zombie is not alive"
    sleeper.wait()
    assert not known.alive


def test_marked_processes_are_found_and_ended(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    assert sleeper.pid in marked(tmp_path)
    assert sleeper.pid in members(sleeper.pid)
    assert sleeper.pid in descendants(os.getpid())
    assert marked(tmp_path / "other") == []
    end_all(lambda: marked(tmp_path))
    assert sleeper.wait() == -signal.SIGKILL
    assert marked(tmp_path) == []


def test_a_child_without_a_mark_ends_with_its_group(tmp_path: Path) -> None:
    """A process has no readable environment while it executes another program."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"env -u {MARK} sleep 300 & echo $!; wait"],
        env={**os.environ, MARK: str(tmp_path)},
        process_group=0,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout as output:
        child = int(output.readline())
        while (Path("/proc") / str(child) / "comm").read_text() != "sleep\n":
            pass
        assert child not in marked(tmp_path)
        end_marked(tmp_path)
        assert identify(child) is None
        assert process.wait() == -signal.SIGKILL


def test_a_zombie_is_no_member_of_its_group(sleeper: "subprocess.Popen[bytes]") -> None:
    """So that ending a group does not wait for its parent, who may be the one who ends it."""
    end_all(lambda: members(sleeper.pid))
    assert os.getpgid(sleeper.pid) == sleeper.pid, "it is there still, not reaped"
    assert members(sleeper.pid) == []


HOLD = """
import sys
from pathlib import Path
from wesemu.engines.run_process import RunLock
lock = RunLock.take(Path(sys.argv[1]))
print("held" if lock else "refused", flush=True)
sys.stdin.read()
"""


def test_one_process_holds_the_lock_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    assert not is_held(path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_held(path)
        assert RunLock.take(path) is None
        assert holder(path) == ProcessHandle(process.pid, identify(process.pid) or "")
        process.kill()
    assert not is_held(path)
    lock = RunLock.take(path)
    assert lock is not None
    assert holder(path) == ProcessHandle(os.getpid(), identify(os.getpid()) or "")
    lock.close()


def test_a_foreign_lock_file_has_no_holder(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text("not JSON")
    assert holder(tmp_path / "run.lock") is None
    assert holder(tmp_path / "absent") is None


def test_process_of_the_session_without_an_environment_is_found(tmp_path: Path) -> None:
    """A process that is executing another program shows an empty environment for a moment."""
    process = subprocess.Popen(["sleep", "300"], env={}, start_new_session=True)
    try:
        assert process.pid not in marked(tmp_path)
        assert process.pid not in marked(tmp_path, session=os.getsid(0))
        assert process.pid in marked(tmp_path, session=process.pid)
    finally:
        process.kill()
        process.wait()
    assert process.pid not in marked(tmp_path, session=process.pid)


def test_a_start_waits_while_the_limit_of_processes_is_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "_FORK_PAUSE_SECONDS", 0)
    failures = [BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")] * 2

    def start() -> int:
        if failures:
            raise failures.pop()
        return 7

    assert start_when_possible(start) == 7
    failures += [BlockingIOError(errno.EAGAIN, "")]
    monkeypatch.setattr(processes, "_FORK_SECONDS", -1)
    with pytest.raises(BlockingIOError, match="limit of processes is reached; raise it"):
        start_when_possible(start)
