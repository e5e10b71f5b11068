"""From CancelRun to CANCELED, for each kind of rule, while its tool runs."""

import time

from benchmarks.figures import median
from benchmarks.options import Options
from benchmarks.report import Report, at_most, figure
from benchmarks.rounds import say
from benchmarks.server import Server, fresh, serving
from benchmarks.workflows import SCRIPT, slow_rule

KINDS = ("shell", "run", "script", "pipe")
_ROUNDS = 5
_SECONDS = 1.0
_LOOK_SECONDS = 0.005
_PATIENCE_SECONDS = 60.0


def measure(options: Options) -> Report:
    rounds = options.rounds or _ROUNDS
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with serving(fresh(options.work / "cancel")) as server:
        for number in range(1, rounds + 1):
            for kind in KINDS:
                took[kind].append(_cancel_once(server, kind))
            say(f"{number}/{rounds}: {', '.join(f'{took[kind][-1]:.3f} s' for kind in KINDS)}")
    slowest = max(seconds for found in took.values() for seconds in found)
    return Report(
        "cancel: CancelRun to CANCELED while a tool runs",
        [
            *(
                figure(f"`{kind}`, median", median(took[kind]), unit="s", digits=3)
                for kind in KINDS
            ),
            at_most("the slowest of all", slowest, _SECONDS, unit="s", digits=3),
        ],
        took,
    )


def _cancel_once(server: Server, kind: str) -> float:
    """Raises RuntimeError where the run does not begin, or ends otherwise."""
    wes = server.wes
    run_id = wes.submit("Snakefile", attachments={"Snakefile": slow_rule(kind), "slow.py": SCRIPT})
    begun = server.data / "runs" / run_id / "work" / "begun"
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not begun.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"run {run_id} does not begin")
        time.sleep(_LOOK_SECONDS)
    began = time.perf_counter()
    wes.cancel(run_id)
    wes.wait(run_id, every=_LOOK_SECONDS, wanted="CANCELED")
    return time.perf_counter() - began
