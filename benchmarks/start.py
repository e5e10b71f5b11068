"""Time from POST to COMPLETE of three shell rules, compared with a cold `snakemake`."""

import subprocess
import sys
from pathlib import Path

from benchmarks.figures import median, ratio
from benchmarks.options import Options
from benchmarks.report import Report, at_least, at_most, figure
from benchmarks.rounds import in_turns
from benchmarks.server import Server, clean_environment, fresh, serving
from benchmarks.workflows import THREE_RULES

SERVER, COLD = "server", "snakemake"
_ROUNDS = 20
_TARGET_SECONDS = 0.06
_TIMES_FASTER = 10.0


def measure(options: Options) -> Report:
    with serving(fresh(options.work / "start")) as server:
        variants = {
            SERVER: lambda: start_once(server),
            COLD: lambda: start_cold(options.work / "cold"),
        }
        measured = in_turns(variants, options.rounds or _ROUNDS)
    ours, cold = measured[SERVER], measured[COLD]
    return Report(
        "start: three shell rules, POST to COMPLETE",
        [
            at_most("warm server, median", median(ours.wall), _TARGET_SECONDS, unit="s", digits=3),
            figure("warm server, slowest", max(ours.wall), unit="s", digits=3),
            figure("`snakemake` cold, median", median(cold.wall), unit="s", digits=3),
            at_least("faster than cold", ratio(cold.wall, ours.wall), _TIMES_FASTER, unit="x"),
            figure("CPU, server (all processes)", sum(ours.cpu) / len(ours.cpu), unit="s"),
            figure("CPU, cold", sum(cold.cpu) / len(cold.cpu), unit="s"),
        ],
        {"server wall": ours.wall, "cold wall": cold.wall, "server cpu": ours.cpu},
    )


def start_once(server: Server) -> None:
    """Run the three rules from POST to COMPLETE. Raise RuntimeError if they fail."""
    server.wes.wait(server.wes.submit("Snakefile", attachments={"Snakefile": THREE_RULES}))


def start_cold(folder: Path) -> None:
    """Run the workflow in a new directory. Raise RuntimeError with the stderr of Snakemake."""
    (fresh(folder) / "Snakefile").write_text(THREE_RULES)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "snakemake", "--cores", "1", "--quiet", "all"],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace"))
