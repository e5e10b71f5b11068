"""WDL as an engine of the server."""

from collections.abc import Mapping
from typing import ClassVar

from wesemu.engines.hosted import HostedEngine, Probe, probe_package
from wesemu.engines.parameters import Readers, flag, identifier


def probe() -> Probe:
    """Whether miniwdl is installed. Blocks on the disk."""
    return probe_package("miniwdl", "WDL", "wdl")


class WdlEngine(HostedEngine):
    """Implements `runs.ports.Engine` for WDL.

    The parameters are the inputs JSON; relative paths in it lead to the attachments. Launched
    again after a crash, a run takes finished tasks from miniwdl's call cache. `task` names the
    task to run in a document without a workflow; `keep_going` lets tasks that run finish when
    another one has failed.
    """

    name = "miniwdl"
    runner = "wesemu.engines.wdl.runner"
    rehearser = "wesemu.engines.wdl.rehearse"
    types: ClassVar[Mapping[str, tuple[str, ...]]] = {"WDL": ("draft-2", "1.0", "1.1", "1.2")}
    readers: ClassVar[Readers] = {"keep_going": flag, "task": identifier}
