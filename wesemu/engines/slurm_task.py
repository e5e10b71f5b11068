"""Runs the command of a task on a node; reports the node and the resources used.

`python -I -S slurm_task.py REPORT COMMAND…` needs only the standard library. It writes REPORT, a
file in the run directory, before the command starts and after it has ended. The exit status is that
of the command, 128 + n for signal n. It runs nothing if the node cannot write to the run directory.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

_UNSHARED = 121
_NOT_EXECUTED = 127


def main(report: Path, command: list[str]) -> int:
    facts: dict[str, str | float] = {
        "node": os.environ.get("SLURMD_NODENAME", os.uname().nodename),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "started": time.time(),
    }
    try:
        write(report, facts)
    except OSError as error:
        sys.stderr.write(
            f"wesemu: the node {facts['node']} cannot write to the run directory: {error}\n"
        )
        return _UNSHARED
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # unset would show all GPUs of the node
    defaults = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores these two
    try:
        child = os.posix_spawn(command[0], command, os.environ, setsigdef=defaults)
    except OSError as error:
        sys.stderr.write(f"wesemu: {command[0]} cannot be executed: {error}\n")
        return _NOT_EXECUTED
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the command gets it as well
    _, status, usage = os.wait4(child, 0)
    facts["cpu_seconds"] = round(usage.ru_utime + usage.ru_stime, 6)
    if usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        facts["peak_memory"] = usage.ru_maxrss * 1024
    write(report, facts)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def write(report: Path, facts: dict[str, str | float]) -> None:
    """Write the report atomically."""
    part = report.with_suffix(".part")
    part.write_text(json.dumps(facts) + "\n")
    part.replace(report)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
