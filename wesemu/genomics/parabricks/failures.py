"""Find out from its output and exit status why `pbrun` failed, and what helps.

The patterns match messages of the CUDA runtime, the container tools and the kernel. pbrun is closed
source, and its own messages may change. An unknown failure is reported with the last line of the
output.
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "gpu_memory", "driver", "no_gpu", "disk_full", "index", "image", "host_memory", "crash", "other"
]

CURES: dict[Kind, str] = {
    "gpu_memory": (
        'set parabricks.low_memory = "always", ask for more GPUs (gpus), or use a card with more '
        "memory; check for other programs on the card (nvidia-smi)"
    ),
    "driver": (
        "install a newer NVIDIA driver (R535 or later for Parabricks 4.6 and 4.7, R580 or later "
        "for 4.8), or name an older image in parabricks.image"
    ),
    "no_gpu": (
        "check that nvidia-smi shows the card on this machine and in the container: docker needs "
        "the NVIDIA Container Toolkit, apptainer the option --nv, which wesemu gives"
    ),
    "disk_full": (
        "free some space, or set parabricks.temporary to a folder on a larger local disk: sorting "
        "needs two to three times the FASTQ files' size"
    ),
    "index": (
        "index the reference again (`wesemu reference add`, or samtools faidx and bwa index) so "
        "that FASTA, .fai and bwa's five files lie side by side"
    ),
    "image": (
        "fetch the image yourself (docker pull, or apptainer pull to a .sif file) and name it in "
        "parabricks.image; wesemu fetches none"
    ),
    "host_memory": (
        "the host's memory ran out: set parabricks.memory_limit (GB), use fewer GPUs (each wants "
        "about 50 GB of host memory), or run fewer jobs at a time (node.runs)"
    ),
    "crash": (
        "pbrun crashed (SIGSEGV): run it once more; if it happens again try the reads on the CPU "
        "(node = cpu), look for GPU errors in the kernel's log (dmesg, Xid), and try another "
        "version of the image"
    ),
    "other": "read the messages of pbrun in the task's log; they may name the reason",
}

_INDEX = r"\.(?:fai|bwt|sa|pac|ann|amb)\b"
_ABSENT = r"(?:not found|not exist|No such file|missing|not open)"
_MESSAGES: tuple[tuple[Kind, str], ...] = (
    ("disk_full", r"No space left on device|Disk quota exceeded"),
    (
        "gpu_memory",
        r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
        r"|(?:cuda|gpu|device)[^\n]*out of memory|out of memory[^\n]*(?:cuda|gpu|device)",
    ),
    (
        "driver",
        r"CUDA driver version is insufficient|cudaErrorInsufficientDriver|CUDA_ERROR_SYSTEM_DRIVER"
        r"|unsatisfied condition: cuda|Driver/library version mismatch|driver[^\n]*too old",
    ),
    (
        "no_gpu",
        r"no CUDA-capable device|cudaErrorNoDevice|No devices were found|could not select device"
        r"|Could not find any nv files|NVML: "
        r"|no (?:NVIDIA )?GPUs? (?:was |were )?(?:found|detected)",
    ),
    (
        "index",
        rf"{_INDEX}[^\n]*{_ABSENT}|{_ABSENT}[^\n]*{_INDEX}"
        r"|fail to locate the index",
    ),
    ("image", r"No such image|Unable to find image|pull access denied|manifest unknown"),
)
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _MESSAGES)
_STATUSES: dict[int, Kind] = {137: "host_memory", 139: "crash"}
_CRASH = re.compile(r"Segmentation fault|SIGSEGV", re.IGNORECASE)
_LINE_LIMIT = 240


@dataclass(frozen=True, slots=True)
class StepFailure:
    """Why a step failed. `status` is the exit status of pbrun, from 128 on for a signal; None if it
    never ran."""

    kind: Kind
    message: str
    hint: str
    status: int | None = None


def recognise(command: str, status: int, output: str) -> StepFailure:
    """Return the reason of a failed `command`, from the end of its output and its status."""
    kind, reason = _kind(status, output)
    detail = f": {reason[:_LINE_LIMIT]}" if reason else ""
    return StepFailure(
        kind, f"{command} ended with exit status {status}{detail}", CURES[kind], status
    )


def _kind(status: int, output: str) -> tuple[Kind, str]:
    """Return the kind, and the line that shows it, or the last line."""
    for kind, pattern in _PATTERNS:
        if match := pattern.search(output):
            return kind, _line_at(output, match.start())
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if status in _STATUSES:
        return _STATUSES[status], last
    if match := _CRASH.search(output):
        return "crash", _line_at(output, match.start())
    return "other", last


def _line_at(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else None].strip()


def may_retry(failure: StepFailure, *, low_memory: bool, allowed: bool) -> bool:
    """Return whether another attempt with the low-memory flags could help."""
    return failure.kind == "gpu_memory" and allowed and not low_memory
