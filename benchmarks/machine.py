"""A description of this machine."""

import contextlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wesemu.genomics.tools import resolve

_GIBIBYTE = 1 << 30
_PACKAGES = ("wesemu", "aiohttp", "snakemake", "cwltool", "miniwdl")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIBIBYTE
    tools = ", ".join(f"{tool.name} {tool.version} ({tool.source})" for tool in resolve().all)
    return (
        f"{cores()} cores of {_processor()}, {memory:.0f} GiB of memory, "
        f"{platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, {', '.join(_versions())}, {tools}"
    )


def load_average() -> float:
    """Return the average number of processes that ran or waited to run in the last minute."""
    return os.getloadavg()[0]


def _versions() -> Iterator[str]:
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
