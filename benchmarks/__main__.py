"""`python -m benchmarks NAME …`: tables on stdout, messages on stderr."""

import argparse
import importlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.machine import describe, load_average
from benchmarks.options import Options
from benchmarks.report import Report, write_json
from benchmarks.rounds import say

NAMES = (
    "start",
    "start_cwl",
    "cancel",
    "many",
    "queue",
    "mixed",
    "mapping",
    "counting",
    "stress",
    "wgs",
    "listing",
    "startup",
    "start_workflow",
    "peers",
    "soak",
    "upload",
    "dashboard",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named benchmarks. Return the exit status: 1 if a target was missed."""
    arguments = _parser().parse_args(argv)
    names = NAMES if "all" in arguments.names else tuple(dict.fromkeys(arguments.names))
    folder = arguments.work or Path(tempfile.mkdtemp(prefix="wesemu-benchmarks-"))
    options = Options(
        work=folder.absolute(),
        rounds=arguments.rounds,
        count=arguments.count,
        pairs=arguments.pairs,
        tools=arguments.tools,
        sizes=tuple(arguments.sizes),
        seconds=arguments.seconds,
    )
    machine = describe()
    print(f"{machine}\n")
    reports: list[Report] = []
    try:
        for name in names:
            say(f"-- {name}")
            reports.append(_measure(name, options))
            print(f"{reports[-1].markdown()}\n", flush=True)
    finally:
        if arguments.work is None:
            shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        write_json(arguments.json, machine, reports)
    return int(any(row.met is False for report in reports for row in report.rows))


def _measure(name: str, options: Options) -> Report:
    """Return the report of a benchmark, with the load of the machine before and after."""
    before = load_average()
    report: Report = importlib.import_module(f"benchmarks.{name}").measure(options)
    load = f"load average of the machine: {before:.1f} before, {load_average():.1f} after"
    return replace(report, notes=(*report.notes, load))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure this checkout (benchmarks/README.md)."
    )
    parser.add_argument("names", nargs="+", choices=(*NAMES, "all"), metavar="NAME")
    parser.add_argument("--rounds", type=_positive, help="rounds of each variant")
    parser.add_argument(
        "--count",
        type=_positive,
        help="many: concurrent runs; queue, start_workflow: queued runs; soak: scripted runs; "
        "dashboard: stored runs",
    )
    parser.add_argument(
        "--pairs", type=_positive, help="mapping, counting, stress, wgs: read pairs"
    )
    parser.add_argument("--tools", choices=("native", "wheels", "bwa-mem3", "all"), default="all")
    parser.add_argument(
        "--sizes", type=_positive, nargs="+", default=Options.sizes, help="listing: stored runs"
    )
    parser.add_argument(
        "--seconds", type=float, default=Options.seconds, help="listing: seconds per load"
    )
    parser.add_argument("--work", type=Path, help="folder that keeps fixtures, indexes and data")
    parser.add_argument("--json", type=Path, help="file for rows and samples")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
