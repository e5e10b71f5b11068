"""Exit statuses by error."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wesemu.cli.output import CommandRefused, ExitStatus, describe_os_error, status_of
from wesemu.errors import (
    DataDirectoryLocked,
    InputError,
    InvalidRequest,
    RunNotFound,
    ToolMissing,
    WesemuError,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("no"), ExitStatus.USAGE),
        (InputError("no", file="a.fa"), ExitStatus.USAGE),
        (RunNotFound("no"), ExitStatus.REFUSED),
        (DataDirectoryLocked("no"), ExitStatus.MACHINE),
        (ToolMissing("no"), ExitStatus.MACHINE),
        (CommandRefused("no", ExitStatus.UNREACHABLE), ExitStatus.UNREACHABLE),
    ],
)
def test_every_error_has_its_status(error: WesemuError, status: ExitStatus) -> None:
    assert status_of(error) is status


def test_a_file_error_is_a_sentence() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/x")
    assert describe_os_error(error) == "/x: permission is denied"


def test_a_full_disk_is_said() -> None:
    assert describe_os_error(OSError(errno.ENOSPC, "No space", "/x")) == "the disk is full: /x"
    assert describe_os_error(OSError(errno.ENOSPC, "No space")) == "the disk is full"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_said(unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wesemu.cli", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert (done.returncode, done.stderr) == (ExitStatus.MACHINE, b"wesemu: the disk is full\n")


BUFFERED = """
import sys
from wesemu.cli import app
from wesemu.cli.output import CommandRefused
def print_result(text):
    sys.stdout.write(text)  # as `wesemu logs`, without a flush
    if sys.argv[1:]:
        raise CommandRefused(sys.argv[1])
app.print_result = print_result
app.execute(["--version"])
"""


def _run_buffered(stdout: int, *error: str) -> tuple[int, bytes]:
    done = subprocess.run(
        [sys.executable, "-c", BUFFERED, *error],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    return done.returncode, done.stderr


def test_a_full_disk_behind_the_buffer_of_stdout_is_said() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = _run_buffered(full.fileno())
        refused = _run_buffered(full.fileno(), "no")
    assert ended == (ExitStatus.MACHINE, b"wesemu: the disk is full\n")
    assert refused == (ExitStatus.REFUSED, b"wesemu: no\n")


def test_a_reader_that_has_ended_before_the_last_flush_is_no_error() -> None:
    writer = _broken_pipe()
    ended = _run_buffered(writer)
    os.close(writer)
    assert ended == (ExitStatus.FAILED, b"")


LOGGING = """
import logging
import structlog
from wesemu.cli import open_streams
from wesemu.cli.serve import log_to_stderr
open_streams()
log_to_stderr(verbose=True)
for number in range(1000):
    structlog.get_logger().info("a run was accepted", number=number)
    logging.getLogger().warning("a warning of a library")
print("done")
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("reader", [False, True], ids=["a full disk", "a reader that has ended"])
def test_a_log_that_cannot_be_written_fails_nothing(unbuffered: str, reader: bool) -> None:
    variables = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    verb = ["-m", "wesemu.cli", "list", "--server", "http://127.0.0.1:1"]
    for arguments, status, out in (["-c", LOGGING], 0, b"done\n"), (verb, 3, b""):
        log = _broken_pipe() if reader else os.open("/dev/full", os.O_WRONLY)
        done = subprocess.run(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=log, env=variables
        )
        os.close(log)
        assert (done.returncode, done.stdout) == (status, out)


def _broken_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_an_error_without_a_file_is_a_fault_of_ours() -> None:
    assert describe_os_error(OSError("odd")) is None
