"""Measures variants of the same work in turns."""

import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.processes import cpu_seconds

Variant = TypeVar("Variant", bound=Hashable)

_SETTLE_SECONDS = 0.1
"""Time for processes of a variant to end after it has returned."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds of one variant, one value per round. `cpu` is the sum over all its processes."""

    wall: Sequence[float]
    cpu: Sequence[float]


def in_turns(
    variants: Mapping[Variant, Callable[[], object]], rounds: int, *, warm_up: int = 1
) -> dict[Variant, Samples]:
    """Run each variant once per round (A B A B …). Ignore the first `warm_up` rounds."""
    wall: dict[Variant, list[float]] = {name: [] for name in variants}
    cpu: dict[Variant, list[float]] = {name: [] for name in variants}
    for number in range(-warm_up, rounds):
        for name, variant in variants.items():
            used, start = cpu_seconds(), time.perf_counter()
            variant()
            took = time.perf_counter() - start
            time.sleep(_SETTLE_SECONDS)
            if number >= 0:
                wall[name].append(took)
                cpu[name].append(cpu_seconds() - used)
                say(f"{number + 1}/{rounds} {name}: {took:.3f} s, CPU {cpu[name][-1]:.2f} s")
    return {name: Samples(wall[name], cpu[name]) for name in variants}


def say(text: str) -> None:
    """Print a message on stderr."""
    print(text, file=sys.stderr, flush=True)
