"""Names that results of active runs are published under, so that two runs of one name are told."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import structlog

from wesemu.runs.model import Owner, Run, RunId, RunState
from wesemu.runs.ports import Plan
from wesemu.runs.records import read_plan
from wesemu.runs.store import RunStore
from wesemu.runs.workspace import Workspace

SHARED = "wesemu.outputs.shared"
"""The tag of a run that says which other active run publishes under a name of its own."""

log = structlog.get_logger("wesemu.targets")

_ACTIVE = tuple(state for state in RunState if state.active)


class ActiveTargets:
    """The names of the runs in `store` that have not ended; those of runs of an earlier server
    are read from the run directories below `runs` when they are first needed."""

    def __init__(self, store: RunStore, runs: Path) -> None:
        self._store = store
        self._runs = runs
        self._users: defaultdict[str, dict[RunId, Owner]] = defaultdict(dict)
        self._names: dict[RunId, frozenset[str]] = {}
        self._loading = asyncio.Lock()
        self._loaded = False
        store.watch(self._moved)

    async def claim(self, run_id: RunId, owner: Owner, plan: Plan) -> dict[str, str]:
        """Register the names of a new run; the tag that says who else has one of them.

        Of several names the first is told, of runs of other owners only that they exist.
        """
        await self._load()
        names = await asyncio.to_thread(_names_of, plan)
        shared = self._shared(names, owner)
        self._add(run_id, owner, names.values())
        return {} if shared is None else {SHARED: shared}

    async def shared(self, owner: Owner, plan: Plan) -> dict[str, str]:
        """As `claim`, for a dry run: nothing is registered."""
        await self._load()
        told = self._shared(await asyncio.to_thread(_names_of, plan), owner)
        return {} if told is None else {SHARED: told}

    def release(self, run_id: RunId) -> None:
        """The run has ended, or was not accepted. Idempotent."""
        for name in self._names.pop(run_id, frozenset()):
            self._users[name].pop(run_id, None)
            if not self._users[name]:
                del self._users[name]

    def _shared(self, names: dict[str, str], owner: Owner) -> str | None:
        for url, name in names.items():
            users = self._users.get(name, {})
            mine = [run_id for run_id, user in users.items() if user == owner]
            if mine:
                return f"{url} is an output of the run {mine[-1]}, too; the last one to end wins"
            if users:
                return f"{url} is an output of somebody else's run, too; the last one to end wins"
        return None

    def _add(self, run_id: RunId, owner: Owner, names: Iterable[str]) -> None:
        self._names[run_id] = frozenset(names)
        for name in self._names[run_id]:
            self._users[name][run_id] = owner

    def _moved(self, run: Run) -> None:
        if run.state.ended:
            self.release(run.id)

    async def _load(self) -> None:
        async with self._loading:
            if self._loaded:
                return
            for run in await self._store.in_states(*_ACTIVE):
                if run.id not in self._names:
                    names = await asyncio.to_thread(_names_on_disk, self._runs / run.id)
                    self._add(run.id, run.owner, names.values())
            self._loaded = True


def _names_on_disk(folder: Path) -> dict[str, str]:
    try:
        return _names_of(read_plan(Workspace(folder)))
    except (OSError, ValueError, KeyError) as error:
        log.warning("the outputs of a run are not known", run_id=folder.name, error=str(error))
        return {}


def _names_of(plan: Plan) -> dict[str, str]:
    """Each location with the name by which it is compared: a file's path without links."""
    return {
        each.url: str(each.destination.resolve()) if each.destination is not None else each.url
        for each in plan.publications or ()
        if each.url is not None
    }
