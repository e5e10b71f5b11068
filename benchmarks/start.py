"""Time from POST to COMPLETE of three shell rules, compared with a cold `snakemake`.

Also the comparison of a warm server with a cold tool, for other languages.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.figures import median, ratio
from benchmarks.options import Options
from benchmarks.report import Report, at_least, at_most, figure
from benchmarks.rounds import in_turns
from benchmarks.server import Server, clean_environment, fresh, serving
from benchmarks.workflows import THREE_RULES

_ROUNDS = 20
_TARGET_SECONDS = 0.06
_TIMES_FASTER = 10.0


def measure(options: Options) -> Report:
    with serving(fresh(options.work / "start")) as server:
        return compare_with_cold(
            "start: three shell rules, POST to COMPLETE",
            lambda: start_once(server),
            "snakemake",
            lambda: _start_cold(options.work / "cold"),
            rounds=options.rounds,
            most_seconds=_TARGET_SECONDS,
            times_faster=_TIMES_FASTER,
        )


def compare_with_cold(
    title: str,
    warm: Callable[[], object],
    tool: str,
    cold: Callable[[], object],
    *,
    rounds: int | None,
    most_seconds: float,
    times_faster: float,
) -> Report:
    """Measure a run on a warm server and the same work by a cold `tool` in turns.

    The targets are the warm median and how many times faster it is.
    """
    measured = in_turns({"server": warm, tool: cold}, rounds or _ROUNDS)
    ours, others = measured["server"], measured[tool]
    return Report(
        title,
        [
            at_most("warm server, median", median(ours.wall), most_seconds, unit="s", digits=3),
            figure("warm server, slowest", max(ours.wall), unit="s", digits=3),
            figure(f"`{tool}` cold, median", median(others.wall), unit="s", digits=3),
            at_least("faster than cold", ratio(others.wall, ours.wall), times_faster, unit="x"),
            figure("CPU, server (all processes)", sum(ours.cpu) / len(ours.cpu), unit="s"),
            figure("CPU, cold", sum(others.cpu) / len(others.cpu), unit="s"),
        ],
        {"server wall": ours.wall, "cold wall": others.wall, "server cpu": ours.cpu},
    )


def run_cold(folder: Path, files: Mapping[str, str], *command: str) -> None:
    """Run `python -m COMMAND` with these files in a new directory.

    Raise RuntimeError with its stderr.
    """
    fresh(folder)
    for name, text in files.items():
        (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-P", "-m", *command],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace"))


def start_once(server: Server) -> None:
    """Run the three rules from POST to COMPLETE. Raise RuntimeError if they fail."""
    server.wes.wait(server.wes.submit("Snakefile", attachments={"Snakefile": THREE_RULES}))


def _start_cold(folder: Path) -> None:
    run_cold(folder, {"Snakefile": THREE_RULES}, "snakemake", "--cores", "1", "--quiet", "all")
