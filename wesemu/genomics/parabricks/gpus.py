"""The GPUs that a step has, and what `nvidia-smi` says of them."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NOT_FOUND = 127
"""The status of a program that is not there."""

_PATIENCE_SECONDS = 30
_QUESTION = (
    "nvidia-smi",
    "--query-gpu=index,memory.total,driver_version,name",
    "--format=csv,noheader,nounits",
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """`memory_mb` in MiB, `driver` as in "535.104.05"."""

    index: str
    memory_mb: int | None
    driver: str | None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a short question to a program ended; status 127 where it is not there."""

    status: int
    words: str


def leased(environment: Mapping[str, str], wanted: int) -> tuple[str, ...]:
    """The devices of a lease (or of Slurm), at most `wanted`; without one the first ones."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return tuple(str(number) for number in range(wanted))
    return tuple(part.strip() for part in given.split(",") if part.strip())[:wanted]


def ask(words: Sequence[str], added: Mapping[str, str] | None = None) -> Answer:
    """Run a program that answers within half a minute."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(added or {})},
            timeout=_PATIENCE_SECONDS,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(124, f"{words[0]} did not answer for {_PATIENCE_SECONDS} s")
    except OSError as error:
        return Answer(NOT_FOUND, str(error))
    return Answer(done.returncode, done.stdout)


def question() -> list[str]:
    """What to ask, on the machine or in a container."""
    return list(_QUESTION)


def parse(text: str) -> list[Gpu]:
    """The GPUs in an answer of nvidia-smi; lines that are none are passed over."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",", 3)]
        if len(fields) == 4 and fields[0].isdigit():
            memory = int(fields[1]) if fields[1].isdigit() else None
            found.append(Gpu(fields[0], memory, fields[2] or None, fields[3]))
    return found
