"""What the settings say of Parabricks, as the pipelines' configuration carries it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

Runtime = Literal["auto", "native", "docker", "apptainer", "none"]
LowMemory = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class Options:
    """`image` is docker's name of an image that is there already, or the path of a .sif file.

    `low_memory`: `auto` goes by the GPU's memory. `temporary` is a folder on a fast local disk
    (None: the run's own). `memory_limit` is `--memory-limit` in GB of host memory.
    """

    runtime: Runtime = "auto"
    image: str | None = None
    low_memory: LowMemory = "auto"
    retry_low_memory: bool = True
    temporary: str | None = None
    memory_limit: int | None = None


def options_from(config: Mapping[str, Any]) -> Options:
    """The configuration's object `parabricks`, which the workflow's schema has checked."""
    return Options(
        runtime=cast(Runtime, config.get("runtime") or "auto"),
        image=config.get("image") or None,
        low_memory=cast(LowMemory, config.get("low_memory") or "auto"),
        retry_low_memory=bool(config.get("retry_low_memory", True)),
        temporary=config.get("temporary") or None,
        memory_limit=config.get("memory_limit") or None,
    )
