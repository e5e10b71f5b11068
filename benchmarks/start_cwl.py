"""Time from POST to COMPLETE of a CWL tool that echoes, compared with a cold `cwltool`."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import median, ratio
from benchmarks.options import Options
from benchmarks.processes import descendants, memory_bytes
from benchmarks.report import Report, at_least, at_most, figure
from benchmarks.rounds import in_turns
from benchmarks.server import Server, clean_environment, fresh, serving

ECHO = """\
cwlVersion: v1.2
class: CommandLineTool
baseCommand: echo
inputs:
  message: {type: string, inputBinding: {}}
outputs:
  said: stdout
stdout: said.txt
"""

SERVER, COLD = "server", "cwltool"
_ROUNDS = 20
_TARGET_SECONDS = 0.6
_TIMES_FASTER = 4.0
_MIB = 1 << 20


def measure(options: Options) -> Report:
    with serving(fresh(options.work / "start_cwl")) as server:
        server.wes.wait_until_ready()
        idle = _memory(server)
        variants = {
            SERVER: lambda: start_once(server),
            COLD: lambda: start_cold(options.work / "cold"),
        }
        measured = in_turns(variants, options.rounds or _ROUNDS)
        warm = _memory(server)
    ours, cold = measured[SERVER], measured[COLD]
    return Report(
        "start_cwl: a CWL tool that echoes, POST to COMPLETE",
        [
            at_most("warm server, median", median(ours.wall), _TARGET_SECONDS, unit="s", digits=3),
            figure("warm server, slowest", max(ours.wall), unit="s", digits=3),
            figure("`cwltool` cold, median", median(cold.wall), unit="s", digits=3),
            at_least("faster than cold", ratio(cold.wall, ours.wall), _TIMES_FASTER, unit="x"),
            figure("CPU, server (all processes)", sum(ours.cpu) / len(ours.cpu), unit="s"),
            figure("CPU, cold", sum(cold.cpu) / len(cold.cpu), unit="s"),
            figure("idle memory before the first run", idle / _MIB, unit="MiB", digits=0),
            figure("idle memory after the last run", warm / _MIB, unit="MiB", digits=0),
        ],
        {"server wall": ours.wall, "cold wall": cold.wall, "server cpu": ours.cpu},
    )


def start_once(server: Server) -> None:
    """Run the tool from POST to COMPLETE. Raise RuntimeError if it fails."""
    run = server.wes.submit(
        "echo.cwl", {"message": "hello"}, attachments={"echo.cwl": ECHO}, language=("CWL", "v1.2")
    )
    server.wes.wait(run)


def start_cold(folder: Path) -> None:
    """Run the tool in a new directory. Raise RuntimeError with the stderr of cwltool."""
    (fresh(folder) / "echo.cwl").write_text(ECHO)
    (folder / "inputs.json").write_text(json.dumps({"message": "hello"}))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cwltool", "--quiet", "echo.cwl", "inputs.json"],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace"))


def _memory(server: Server) -> int:
    return memory_bytes([server.pid, *descendants(server.pid)])
