"""Calls that are made to fail: the first N of an operation, as the control API ordered."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from wesemu.errors import InvalidRequest

_WES = "/**/ga4gh/wes/v1"

OPERATIONS = {
    "StartWorkflow": "POST /gs/workflow",
    "DescribeWorkflows": "GET /gs/workflows",
    "DescirbeWorkflow": "GET /gs/workflow/*",
    "CancelWorkflow": "PUT /gs/workflow/*",
    "RemoveWorkflow": "DELETE /gs/workflow/*",
    "GetServiceInfo": f"GET {_WES}/service-info",
    "ListRuns": f"GET {_WES}/runs",
    "RunWorkflow": f"POST {_WES}/runs",
    "GetRunLog": f"GET {_WES}/runs/*",
    "GetRunStatus": f"GET {_WES}/runs/*/status",
    "CancelRun": f"POST {_WES}/runs/*/cancel",
    "ListTasks": f"GET {_WES}/runs/*/tasks",
    "GetTask": f"GET {_WES}/runs/*/tasks/*",
}
"""The operations of AGS and WES by their own names. `*` is a part of a path, `**` any parts."""

_CALL = re.compile(r"([A-Z]+|\*) (/\S*)")


@dataclass(frozen=True, slots=True)
class CallFault:
    """What happens to calls of `operation`: they are answered after `delay` seconds, with
    `status` instead of by the operation, or not at all where the connection is dropped."""

    operation: str
    status: int | None = None
    delay: float = 0.0
    drop: bool = False


class OrderedAnswer(web.HTTPException):
    """An answer of any status, for the dialect to render as it renders errors."""

    def __init__(self, status: int) -> None:
        self.status_code = status
        known = status in HTTPStatus.__members__.values()
        super().__init__(reason=HTTPStatus(status).phrase if known else f"Status {status}")


@dataclass(frozen=True, slots=True)
class _Pattern:
    method: str
    parts: tuple[str, ...]

    def matches(self, method: str, path: str) -> bool:
        return self.method in ("*", method) and _is_like(path.split("/"), self.parts)


class CallFaults:
    """The faults that wait for calls."""

    def __init__(self) -> None:
        self._ordered: list[tuple[CallFault, _Pattern, int]] = []

    @property
    def ordered(self) -> Sequence[tuple[CallFault, int]]:
        """Each with the number of calls that it still waits for, the oldest first."""
        return [(fault, times) for fault, _, times in self._ordered]

    def order(self, fault: CallFault, times: int) -> None:
        """Strike the next `times` calls. Raises InvalidRequest for an unknown operation."""
        self._ordered.append((fault, _pattern(fault.operation), times))

    def forget(self) -> None:
        self._ordered.clear()

    def strike(self, method: str, path: str) -> CallFault | None:
        """The oldest fault that waits for this call; it then waits for one call less."""
        for number, (fault, pattern, times) in enumerate(self._ordered):
            if pattern.matches(method, path):
                if times == 1:
                    del self._ordered[number]
                else:
                    self._ordered[number] = (fault, pattern, times - 1)
                return fault
        return None


def _pattern(operation: str) -> _Pattern:
    call = _CALL.fullmatch(OPERATIONS.get(operation, operation))
    parts = call[2].split("/") if call else []
    if call is None or any("*" in part and part not in ("*", "**") for part in parts):
        raise InvalidRequest(
            f"{operation[:80]!r} is no operation; write one of {', '.join(OPERATIONS)}, or a "
            'method and a path, as "GET /gs/workflow/*" ("*" is one part, "**" any number)',
            field="operation",
        )
    return _Pattern(call[1], tuple(parts))


def _is_like(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path fit. Goes back to the last `**` only, so that no pattern is
    slow."""
    at = wanted = 0
    star, retry = -1, 0
    while at < len(parts):
        if wanted < len(pattern) and pattern[wanted] == "**":
            star, retry = wanted, at
            wanted += 1
        elif wanted < len(pattern) and pattern[wanted] in ("*", parts[at]):
            at, wanted = at + 1, wanted + 1
        elif star >= 0:
            retry += 1
            at, wanted = retry, star + 1
        else:
            return False
    return all(part == "**" for part in pattern[wanted:])
