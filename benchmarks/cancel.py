"""Time from CancelRun to CANCELED while a tool runs, for each kind of rule."""

import time

from benchmarks.figures import median
from benchmarks.options import Options
from benchmarks.report import Report, at_most, figure
from benchmarks.rounds import say
from benchmarks.server import Server, fresh, serving
from benchmarks.workflows import SCRIPT, slow_rule

KINDS = ("shell", "run", "script", "pipe")
_ROUNDS = 5
_TARGET_SECONDS = 1.0
_POLL_SECONDS = 0.005
_TIMEOUT_SECONDS = 60.0


def measure(options: Options) -> Report:
    rounds = options.rounds or _ROUNDS
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with serving(fresh(options.work / "cancel")) as server:
        for number in range(1, rounds + 1):
            for kind in KINDS:
                took[kind].append(_cancel_once(server, kind))
            say(f"{number}/{rounds}: {', '.join(f'{took[kind][-1]:.3f} s' for kind in KINDS)}")
    slowest = max(seconds for each in took.values() for seconds in each)
    return Report(
        "cancel: CancelRun to CANCELED while a tool runs",
        [
            *(
                figure(f"`{kind}`, median", median(took[kind]), unit="s", digits=3)
                for kind in KINDS
            ),
            at_most("the slowest of all", slowest, _TARGET_SECONDS, unit="s", digits=3),
        ],
        took,
    )


def _cancel_once(server: Server, kind: str) -> float:
    """Return the seconds of one cancellation. Raise RuntimeError for an unexpected state."""
    wes = server.wes
    run_id = wes.submit("Snakefile", attachments={"Snakefile": slow_rule(kind), "slow.py": SCRIPT})
    marker = server.data / "runs" / run_id / "work" / "begun"
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not marker.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"run {run_id} does not start")
        time.sleep(_POLL_SECONDS)
    start = time.perf_counter()
    wes.cancel(run_id)
    wes.wait(run_id, every=_POLL_SECONDS, wanted="CANCELED")
    return time.perf_counter() - start
