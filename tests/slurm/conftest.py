"""A Slurm cluster of this machine for the tests of this folder, where one can be had."""

import asyncio
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine_runs import end_runs

SCRIPT = Path(__file__).parent / "slurm-up.sh"
STATE = Path("/run/wesemu-slurm")
NEEDED = ("slurmctld", "slurmd", "srun", "munged")
PATIENCE_SECONDS = 120


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Started for the session and stopped with it; other sessions of this machine wait."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} on PATH (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        pytest.skip("only root can start Slurm's daemons")
    with (Path(tempfile.gettempdir()) / "wesemu-slurm.lock").open("w") as lock:
        wait_for_turn(lock.fileno())
        subprocess.run([SCRIPT, "--stop", STATE], check=False)
        try:
            started = subprocess.run(
                [SCRIPT, STATE], stderr=subprocess.PIPE, text=True, check=False
            )
            if started.returncode == 3:
                pytest.skip(started.stderr.strip())
            assert started.returncode == 0, started.stderr
            yield
        finally:
            subprocess.run([SCRIPT, "--stop", STATE], check=True)


def wait_for_turn(descriptor: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                pytest.skip("another test session has the cluster")
            time.sleep(0.1)
        else:
            return


@pytest.fixture(autouse=True)
def clean_cluster(cluster: None, tmp_path: Path) -> Iterator[None]:
    """No test leaves a job to the next one."""
    yield
    end_runs(tmp_path)
    subprocess.run(["scancel", "--me"], check=True)
    while queue("--states=PENDING,RUNNING,COMPLETING"):
        time.sleep(0.05)


def queue(*options: str) -> list[str]:
    """The names of the jobs that wait or run."""
    options = options or ("--states=PENDING,RUNNING",)
    words = ["squeue", "--noheader", "--format=%j", *options]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return done.stdout.split()


async def jobs() -> list[str]:
    return await asyncio.to_thread(queue)


@pytest.fixture(name="queue")
def queue_fixture() -> object:
    """`await queue()` gives the names of the jobs that wait or run."""
    return jobs
