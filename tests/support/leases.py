"""Programs for tests of leases, and parsers of their output."""

import asyncio
import itertools
from pathlib import Path

from wesemu.engines.leases import Lease, LeaseClient
from wesemu.runs.model import Resources
from wesemu.runs.ports import QueuePriority

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from wesemu.engines.leases import LeaseClient
from wesemu.runs.model import Resources
from wesemu.runs.ports import QueuePriority
lease = LeaseClient(QueuePriority(Path(sys.argv[1]), 2, 1)).take(Resources(cores=2))
print("holds", flush=True)
if sys.argv[2]:
    tool = subprocess.Popen(["sleep", "300"], pass_fds=[lease.fileno()], stdout=subprocess.DEVNULL)
    print(tool.pid, flush=True)
time.sleep(300)
"""
"""Leases a whole node of two cores. Arguments: its folder, and "tool" for a child that inherits."""

STRESS = """
import os, random, sys, threading, time
from pathlib import Path
from wesemu.engines.leases import LeaseClient
from wesemu.runs.model import Resources
from wesemu.runs.ports import QueuePriority
folder, spans, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
client = LeaseClient(QueuePriority(folder, seed % 3, seed))
out = os.open(spans, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def work(number):
    draws = random.Random(f"{seed} {number}")
    for _ in range(40):
        cores = draws.randint(1, 3)
        lease = client.take(Resources(cores=cores))
        start = time.time()
        time.sleep(draws.uniform(0, 0.002))
        os.write(out, f"span {cores} {start:.7f} {time.time():.7f}\\n".encode())
        lease.release()
threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
"""Takes 160 leases in four threads. Arguments: folder of a node of three cores, file, seed."""


async def take_node(leases: Path, cores: int) -> Lease:
    """Lease all cores of a node with the highest priority."""
    client = LeaseClient(QueuePriority(leases, 0, 0))
    return await asyncio.to_thread(client.take, Resources(cores=cores))


async def release(lease: Lease) -> None:
    await asyncio.to_thread(lease.release)


def read_spans(text: str) -> list[tuple[int, float, float]]:
    """Parse `span CORES START END` lines."""
    lines = [line.split() for line in text.splitlines() if line.startswith("span ")]
    return [(int(cores), _seconds(start), _seconds(end)) for _, cores, start, end in lines]


def _seconds(text: str) -> float:
    """Read bash's EPOCHREALTIME, which has the decimal mark of the locale."""
    return float(text.replace(",", "."))


def most_at_once(text: str) -> int:
    """Return the maximum number of cores in use at the same time."""
    changes = [
        change
        for cores, start, end in read_spans(text)
        for change in ((start, 1, cores), (end, 0, -cores))
    ]
    used = most = 0
    for _, _, cores in sorted(changes):
        used += cores
        most = max(most, used)
    return most


def read_holds(text: str) -> list[tuple[tuple[str, ...], float, float]]:
    """Parse `gpu DEVICES START END` lines, with the visible devices of the task: `0,3`."""
    lines = [line.split() for line in text.splitlines() if line.startswith("gpu ")]
    return [
        (tuple(seen.split(",")), _seconds(start), _seconds(end)) for _, seen, start, end in lines
    ]


def held_twice(text: str) -> list[tuple[str, float]]:
    """Return each device that two tasks had at the same time, with the start of the overlap."""
    spans = sorted((device, start, end) for seen, start, end in read_holds(text) for device in seen)
    following = itertools.pairwise(spans)
    return [
        (device, start)
        for (earlier, _, end), (device, start, _) in following
        if device == earlier and start < end
    ]
