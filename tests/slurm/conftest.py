"""A Slurm cluster on this machine for the tests of this folder, if possible."""

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
TIMEOUT_SECONDS = 120


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Start a cluster for the session. Other sessions on this machine wait."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} on PATH (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        pytest.skip("only root can start Slurm's daemons")
    with (Path(tempfile.gettempdir()) / "wesemu-slurm.lock").open("w") as lock:
        wait_for_lock(lock.fileno())
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


def wait_for_lock(descriptor: int) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
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
    """Cancel all jobs after each test."""
    yield
    end_runs(tmp_path)
    subprocess.run(["scancel", "--me"], check=True)
    while queue("--states=PENDING,RUNNING,COMPLETING"):
        time.sleep(0.05)


def queue(*options: str) -> list[str]:
    """Return the names of pending and running jobs."""
    options = options or ("--states=PENDING,RUNNING",)
    argv = ["squeue", "--noheader", "--format=%j", *options]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return done.stdout.split()


async def jobs() -> list[str]:
    return await asyncio.to_thread(queue)


@pytest.fixture(name="queue")
def queue_fixture() -> object:
    """Return a coroutine function that returns the names of pending and running jobs."""
    return jobs
