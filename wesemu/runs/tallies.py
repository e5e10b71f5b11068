"""What has become of runs since the server started, counted as they end."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from wesemu.runs.model import Run, RunState, workflow_kind
from wesemu.runs.promises import promised
from wesemu.runs.store import RunStore

BUCKETS = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
"""Upper bounds in seconds of how long the tools of runs took."""


@dataclass(slots=True)
class Durations:
    """A histogram: how many took at most each of BUCKETS, all of them, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    number: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.number += 1
        self.seconds += seconds
        for place, bound in enumerate(BUCKETS):
            self.counts[place] += seconds <= bound


class RunTallies:
    """Counts the runs of `store` that end from now on.

    `durations` are by workflow (a bundled pipeline, or the type of a user's own) and end; they
    are real seconds, from the first task's start to the last one's end. `sla` is by service
    level and whether its promise was met, of runs that completed.
    """

    def __init__(self, store: RunStore) -> None:
        self.durations: defaultdict[tuple[str, RunState], Durations] = defaultdict(Durations)
        self.sla: Counter[tuple[str, bool]] = Counter()
        store.watch(self._moved)

    def _moved(self, run: Run) -> None:
        if not run.state.ended:
            return
        workflow = run.workflow or workflow_kind(run.request.workflow_type)
        self.durations[workflow, run.state].add(run.real_seconds or 0.0)
        sla = promised(run)
        if run.state is RunState.COMPLETE and sla and run.started and run.ended:
            met = sla.met(run.ended - run.started)
            self.sla[run.service_level.name.lower(), met] += 1
