"""The versions of WES that are answered, and the two points in which they contradict each other.

Everything else that a later version added is additive, so one answer is valid under all of them.
"""

from dataclasses import dataclass
from typing import Literal

VersionName = Literal["0.3.0", "1.0.0", "1.0.1", "1.1.0"]


@dataclass(frozen=True, slots=True)
class Version:
    """`canceling`: the State enum has CANCELING (from 1.0.0 on). `engine_lists`:
    ServiceInfo.workflow_engine_versions maps to objects with a list (1.1.0), not to a string."""

    name: VersionName
    canceling: bool
    engine_lists: bool

    @property
    def prefix(self) -> str:
        """Where this version is mounted, whatever the setting."""
        return f"/{self.name}{PREFIX}"


PREFIX = "/ga4gh/wes/v1"
"""The specification's own path; which version answers there is a setting."""

VERSIONS: dict[VersionName, Version] = {
    "0.3.0": Version("0.3.0", canceling=False, engine_lists=False),
    "1.0.0": Version("1.0.0", canceling=True, engine_lists=False),
    "1.0.1": Version("1.0.1", canceling=True, engine_lists=False),
    "1.1.0": Version("1.1.0", canceling=True, engine_lists=True),
}
