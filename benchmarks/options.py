"""Options of the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Tools = Literal["native", "wheels", "bwa-mem3", "all"]


@dataclass(frozen=True)
class Options:
    """The options of the command line. None selects the default of a benchmark.

    `work` is the folder for fixtures and servers, `sizes` are numbers of stored runs, `seconds`
    is the duration of each load.
    """

    work: Path
    rounds: int | None = None
    count: int | None = None
    pairs: int | None = None
    tools: Tools = "all"
    sizes: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    seconds: float = 2.0
