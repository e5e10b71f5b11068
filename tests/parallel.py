"""Runs whole folders of tests in several processes if pytest-xdist is installed.

Without a selection, or with folders only, there are three processes per two cores, at most MOST,
because tests wait for disks and child processes about half of the time. Tests selected by file or
node run in this process, so a debugger and `-s` work. `-n 0` keeps everything in this process,
`-n 4` starts four, and `--cov` stays in this process without `-n`.
"""

import os
from pathlib import Path
from typing import Any

import pytest

MOST = 8
TOGETHER = ("tests/slurm", "tests/gpu")
"""Folders whose tests share a resource of the machine: each runs in one process."""

APART = "tests/suites/test_snakemake.py"
"""Takes minutes; its tests are independent, so each goes to the next free process."""

LONG = (
    "tests/suites",
    "tests/slurm",
    "tests/reliability",
    "tests/pipelines",
    "tests/e2e",
    "tests/unit/engines",
    "tests/conformance",
    "tests/unit/test_layers.py",
)
"""The longest tests start first, so all processes end at about the same time."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Set the number of processes before pytest-xdist reads it."""
    option = config.option
    if not config.pluginmanager.has_plugin("xdist") or hasattr(config, "workerinput"):
        return
    option.loadscopereorder = False
    if option.numprocesses is None and option.dist == "no" and _whole_folders(config):
        option.numprocesses = min(max(2, _cores() * 3 // 2), MOST)
    if option.numprocesses and option.dist == "no":
        option.dist = "loadfile"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _whole_folders(config: pytest.Config) -> bool:
    option = config.option
    alone = option.usepdb or option.trace or option.collectonly or option.capture == "no"
    alone = alone or getattr(
        option, "cov_source", None
    )  # pytest-cov has read `-n` before this hook
    return not alone and all(Path(argument).is_dir() for argument in config.args)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute like `--dist loadfile`, except for TOGETHER and APART."""
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class FilesAndFolders(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(APART):
                return str(nodeid)
            folders = (folder for folder in TOGETHER if nodeid.startswith(f"{folder}/"))
            return next(folders, super()._split_scope(nodeid))

    return FilesAndFolders(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _begin(item.nodeid))


def _begin(nodeid: str) -> int:
    places = (place for place, start in enumerate(LONG) if nodeid.startswith(start))
    return next(places, len(LONG))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Keep binary data out of test names, because gzip data contains the time.

    pytest-xdist aborts if the names differ between its processes.
    """
    if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()):
        return argname
    return None
