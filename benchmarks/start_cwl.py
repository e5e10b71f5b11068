"""Time from POST to COMPLETE of a CWL tool that echoes, compared with a cold `cwltool`."""

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.options import Options
from benchmarks.processes import descendants, memory_bytes
from benchmarks.report import Report, figure
from benchmarks.server import Server, fresh, serving
from benchmarks.start import compare_with_cold, run_cold

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

_INPUTS = {"message": "hello"}
_TARGET_SECONDS = 0.6
_TIMES_FASTER = 4.0
_MIB = 1 << 20


def measure(options: Options) -> Report:
    with serving(fresh(options.work / "start_cwl")) as server:
        server.wes.wait_until_ready()
        idle = _memory(server)
        report = compare_with_cold(
            "start_cwl: a CWL tool that echoes, POST to COMPLETE",
            lambda: _start_once(server),
            "cwltool",
            lambda: _start_cold(options.work / "cold"),
            rounds=options.rounds,
            most_seconds=_TARGET_SECONDS,
            times_faster=_TIMES_FASTER,
        )
        warm = _memory(server)
    memory = [
        figure("idle memory before the first run", idle / _MIB, unit="MiB", digits=0),
        figure("idle memory after the last run", warm / _MIB, unit="MiB", digits=0),
    ]
    return replace(report, rows=[*report.rows, *memory])


def _start_once(server: Server) -> None:
    run = server.wes.submit(
        "echo.cwl", _INPUTS, attachments={"echo.cwl": ECHO}, language=("CWL", "v1.2")
    )
    server.wes.wait(run)


def _start_cold(folder: Path) -> None:
    files = {"echo.cwl": ECHO, "inputs.json": json.dumps(_INPUTS)}
    run_cold(folder, files, "cwltool", "--quiet", "echo.cwl", "inputs.json")


def _memory(server: Server) -> int:
    return memory_bytes([server.pid, *descendants(server.pid)])
