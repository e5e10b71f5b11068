"""CWL as an engine of the server."""

from collections.abc import Mapping
from typing import ClassVar

from wesemu.engines.hosted import HostedEngine, Probe, probe_package
from wesemu.engines.parameters import Readers, flag


def probe() -> Probe:
    """Whether cwltool is installed. Blocks on the disk."""
    return probe_package("cwltool", "cwltool", "cwl")


class CwlEngine(HostedEngine):
    """Implements `runs.ports.Engine` for CWL.

    The parameters are the job order; relative paths in it lead to the attachments. Launched
    again after a crash, a run takes finished steps from cwltool's cache. `keep_going` lets steps
    that do not depend on a failed one run on.
    """

    name = "cwltool"
    runner = "wesemu.engines.cwl.runner"
    rehearser = "wesemu.engines.cwl.rehearse"
    types: ClassVar[Mapping[str, tuple[str, ...]]] = {"CWL": ("v1.0", "v1.1", "v1.2")}
    readers: ClassVar[Readers] = {"keep_going": flag}
