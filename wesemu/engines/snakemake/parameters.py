"""The engine parameters that a caller may set: a short list, because most of Snakemake's options
run code, write or read elsewhere, or belong to whoever runs the server."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from wesemu.engines.parameters import Readers, flag, read_parameters

_RETRY_LIMIT = 100
_RESOURCE = re.compile(r"([A-Za-z][A-Za-z0-9_]*)=(\d{1,15})")


@dataclass(frozen=True, slots=True)
class Options:
    """What the parameters ask for, by the names of Snakemake's own options.

    `default_resources` are whole numbers (mem_mb, disk_mb, runtime in minutes, …).
    """

    targets: tuple[str, ...] = ()
    forceall: bool = False
    forcerun: tuple[str, ...] = ()
    until: tuple[str, ...] = ()
    omit_from: tuple[str, ...] = ()
    keep_going: bool = False
    retries: int = 0
    notemp: bool = False
    default_resources: Mapping[str, int] = field(default_factory=dict)


def check_parameters(parameters: Mapping[str, str]) -> Options:
    """Read engine parameters; `keep_going`, `keep-going` and `--keep-going` mean the same.

    Lists are separated by commas or spaces, a flag is "true" or "". Raises InvalidRequest,
    whose field is the parameter as the caller wrote it.
    """
    return Options(**read_parameters(parameters, _readers()))


def _readers() -> Readers:
    return {
        "targets": _names,
        "forceall": flag,
        "forcerun": _names,
        "until": _names,
        "omit_from": _names,
        "keep_going": flag,
        "retries": _count,
        "notemp": flag,
        "default_resources": _resources,
    }


def _names(value: str) -> tuple[str, ...]:
    names = tuple(re.split(r"[,\s]+", value.strip(", \t\r\n")))
    if names == ("",):
        raise ValueError("is empty; name at least one rule or file")
    for name in names:
        if name.startswith(("-", "/", "~")) or ".." in name.split("/") or not name.isprintable():
            raise ValueError(f"names {name!r}; use rules, or files relative to the run")
    return names


def _count(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", value.strip()) or int(value) > _RETRY_LIMIT:
        raise ValueError(f"is a whole number from 0 to {_RETRY_LIMIT}")
    return int(value)


def _resources(value: str) -> dict[str, int]:
    resources = dict[str, int]()
    for item in _names(value):
        if (match := _RESOURCE.fullmatch(item)) is None:
            raise ValueError(f"has {item!r}; write name=number, as in mem_mb=2000")
        resources[match[1]] = int(match[2])
    return resources
