"""Submissions that may be sent twice: a key stands for one request and for the run it became."""

import asyncio
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from wesemu.errors import KeyReused
from wesemu.runs.model import Owner, Run, RunRequest

_DIGEST = "submission_digest"


@dataclass(frozen=True, slots=True)
class SubmissionKey:
    """`name` is the caller's own; `digest` tells one request from another."""

    name: str
    digest: str

    def mark(self, request: RunRequest) -> RunRequest:
        """The request as it is kept: in the index and in the run directory."""
        own = {"submission_key": self.name, _DIGEST: self.digest}
        return replace(request, marks={**request.marks, **own})

    def check(self, run: Run) -> None:
        """Raises KeyReused unless `run` came of the same request."""
        if run.request.marks.get(_DIGEST) != self.digest:
            raise KeyReused(
                f"the key {self.name!r} was used for another request, which became run {run.id}; "
                "draw a new key for each request",
                field="Idempotency-Key",
            )


class Turns:
    """One submission at a time for each key of an owner."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[Owner, str], asyncio.Lock] = WeakValueDictionary()

    def of(self, owner: Owner, key: SubmissionKey) -> asyncio.Lock:
        return self._locks.setdefault((owner, key.name), asyncio.Lock())
