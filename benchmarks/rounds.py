"""Ways to do the same thing, measured in turns."""

import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.processes import cpu_seconds

Way = TypeVar("Way", bound=Hashable)

_CALM_SECONDS = 0.1
"""After a way has answered, what it started still ends and is waited for."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds of one way, round by round; `cpu` is of all processes that took part."""

    wall: Sequence[float]
    cpu: Sequence[float]


def in_turns(
    ways: Mapping[Way, Callable[[], object]], rounds: int, *, warm_up: int = 1
) -> dict[Way, Samples]:
    """A B A B …: each of `rounds` does every way once. `warm_up` rounds before do not count."""
    wall: dict[Way, list[float]] = {name: [] for name in ways}
    cpu: dict[Way, list[float]] = {name: [] for name in ways}
    for number in range(-warm_up, rounds):
        for name, way in ways.items():
            used, began = cpu_seconds(), time.perf_counter()
            way()
            took = time.perf_counter() - began
            time.sleep(_CALM_SECONDS)
            if number >= 0:
                wall[name].append(took)
                cpu[name].append(cpu_seconds() - used)
                say(f"{number + 1}/{rounds} {name}: {took:.3f} s, CPU {cpu[name][-1]:.2f} s")
    return {name: Samples(wall[name], cpu[name]) for name in ways}


def say(text: str) -> None:
    """Talk, on stderr."""
    print(text, file=sys.stderr, flush=True)
