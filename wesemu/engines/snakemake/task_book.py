"""The tasks of a run by number: the same job keeps its number when the run is resumed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wesemu.runs.model import JsonObject, TaskState


def job_key(rule: str, wildcards: Mapping[str, str], outputs: Iterable[str]) -> str:
    """What makes a job the same one in another launch."""
    text = json.dumps([rule, sorted(wildcards.items()), list(outputs)])
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


@dataclass(slots=True)
class _Entry:
    number: int
    earlier_attempts: int = 0
    done: bool = False


class TaskBook:
    """Numbers and counts tasks. A task's id is `<number>-<attempt>`, the attempt counted from 1
    over all launches. Not thread-safe."""

    def __init__(self, earlier: Iterable[JsonObject]) -> None:
        """`earlier` are the records of earlier launches."""
        self._entries = dict[str, _Entry]()
        self._jobs = dict[int, _Entry]()
        for record in earlier:
            self._remember(record)
        self._before = sum(entry.done for entry in self._entries.values())

    def _remember(self, record: JsonObject) -> None:
        """The record that plans a task has its key; later ones are known by their number."""
        match record:
            case {"event": "task", "task": {"id": str(id), "state": str(state)}}:
                number, attempt = (int(part) for part in id.split("-"))
                if isinstance(key := record.get("key"), str):
                    self._entries.setdefault(key, _Entry(number))
                entry = next(e for e in self._entries.values() if e.number == number)
                entry.done = state == TaskState.COMPLETE
                if state != TaskState.QUEUED:
                    entry.earlier_attempts = max(entry.earlier_attempts, attempt)

    def add(self, jobid: int, key: str) -> bool:
        """Give a job its number, Snakemake's own where that is free. False if it has one."""
        if jobid in self._jobs:
            return False
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(self._free_number(jobid))
        elif entry.done:
            entry.done = False
            self._before -= 1
        self._jobs[jobid] = entry
        return True

    def _free_number(self, wanted: int) -> int:
        taken = {entry.number for entry in self._entries.values()}
        return wanted if wanted not in taken else max(taken) + 1

    def id(self, jobid: int, attempt: int) -> str:
        entry = self._jobs[jobid]
        return f"{entry.number}-{entry.earlier_attempts + attempt}"

    def attempt(self, jobid: int, attempt: int) -> int:
        return self._jobs[jobid].earlier_attempts + attempt

    def complete(self, jobid: int) -> None:
        self._jobs[jobid].done = True

    def knows(self, jobid: int) -> bool:
        return jobid in self._jobs

    @property
    def done(self) -> int:
        return self._before + sum(entry.done for entry in self._jobs.values())

    @property
    def total(self) -> int:
        """Those of this launch and those that earlier ones finished."""
        return self._before + len(self._jobs)
