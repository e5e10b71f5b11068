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
    """Numbers and counts tasks; the number is a task's id. Attempts are counted from 1 over all
    launches. Not thread-safe."""

    def __init__(self, earlier: Iterable[JsonObject]) -> None:
        """`earlier` are the records of earlier launches."""
        self._keys = dict[str, _Entry]()
        self._numbers = dict[int, _Entry]()
        self._jobs = dict[int, _Entry]()
        self._highest = 0
        for record in earlier:
            self._remember(record)
        self.done = sum(entry.done for entry in self._keys.values())
        self.total = self.done
        """Those of this launch and those that earlier ones finished."""

    def _remember(self, record: JsonObject) -> None:
        """The record that plans a task has its key; later ones are known by their number."""
        match record:
            case {
                "event": "task",
                "task": {"id": str(id), "attempt": int(attempt), "state": str(state)},
            }:
                number = int(id) if id.isdecimal() else 0
                if isinstance(key := record.get("key"), str) and key not in self._keys:
                    self._enter(key, number)
                entry = self._numbers.get(number)
                if entry is None:  # the record that planned it is lost
                    return
                entry.done = state == TaskState.COMPLETE
                if state != TaskState.QUEUED:
                    entry.earlier_attempts = max(entry.earlier_attempts, attempt)

    def _enter(self, key: str, number: int) -> _Entry:
        entry = self._keys[key] = self._numbers[number] = _Entry(number)
        self._highest = max(self._highest, number)
        return entry

    def add(self, jobid: int, key: str) -> bool:
        """Give a job its number, Snakemake's own where that is free. False if it has one."""
        if jobid in self._jobs:
            return False
        entry = self._keys.get(key)
        if entry is None:
            free = jobid not in self._numbers
            entry = self._enter(key, jobid if free else self._highest + 1)
        if entry.done:
            entry.done = False
            self.done -= 1
        else:
            self.total += 1
        self._jobs[jobid] = entry
        return True

    def id(self, jobid: int) -> str:
        return str(self._jobs[jobid].number)

    def attempt(self, jobid: int, attempt: int) -> int:
        """`attempt` is Snakemake's count in this launch."""
        return self._jobs[jobid].earlier_attempts + attempt

    def complete(self, jobid: int) -> None:
        entry = self._jobs[jobid]
        self.done += not entry.done
        entry.done = True
