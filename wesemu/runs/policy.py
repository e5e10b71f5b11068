"""The terms that this server gives its runs, and the faults that wait for the next ones."""

from collections import deque
from dataclasses import replace

from wesemu.errors import InvalidRequest
from wesemu.runs.model import RunRequest
from wesemu.runs.terms import PRETENDED, Fault, Terms, pretended_bases


class ServicePolicy:
    """Gives every run `terms`, changed by what its request asks for.

    A fault that was ordered strikes one run, the next that is accepted.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._ordered: deque[Fault] = deque()

    @property
    def ordered(self) -> tuple[Fault, ...]:
        """The faults that still wait for a run, the next one's first."""
        return tuple(self._ordered)

    def order(self, fault: Fault) -> None:
        self._ordered.append(fault)

    def forget_orders(self) -> None:
        self._ordered.clear()

    def check(self, request: RunRequest, workflow: str) -> Terms:
        """The terms of a run of `workflow`, a bundled pipeline or "". Raises InvalidRequest."""
        bases = pretended_bases(request.tags)
        if bases is not None and not workflow:
            raise InvalidRequest(
                "only mapping and wgs have a service level that goes by their size; leave it out",
                field=PRETENDED,
            )
        return replace(self._terms, bases=bases)

    def accept(self, request: RunRequest, workflow: str) -> Terms:
        """As `check`, for a run that is accepted: the first fault that can happen to it is now
        its own. A workflow without a service level cannot miss one."""
        terms = self.check(request, workflow)
        for fault in self._ordered:
            if workflow or fault.fails_at_task is not None or fault.out_of_disk:
                self._ordered.remove(fault)
                return replace(terms, fault=fault)
        return terms
