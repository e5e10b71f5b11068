"""One small workflow, for plain Snakemake and for the server."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A Snakefile with its other files.

    `engine` has WES engine parameters, `flags` the same for Snakemake's command line. The contents
    of `unstable` files differ from run to run; only their names are compared. `needs` are Python
    modules, without which the case is skipped.
    """

    snakefile: str
    files: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, object] = field(default_factory=dict)
    engine: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    unstable: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
