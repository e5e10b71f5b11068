"""Why `pbrun` failed, told from its last words and its exit status, and what helps.

The words are those of the CUDA runtime, the container tools and the kernel; pbrun's own are
closed source and may change, so that an unknown end is told with its last line.
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
        "memory; see whether another program is on the card (nvidia-smi)"
    ),
    "driver": (
        "install a newer NVIDIA driver (R535 or later for Parabricks 4.6 and 4.7, R580 or later "
        "for 4.8), or name an older image in parabricks.image"
    ),
    "no_gpu": (
        "see that nvidia-smi shows the card on this machine and in the container: docker needs "
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
    "other": "read what pbrun said in the task's log; its words may name the reason",
}

_INDEX = r"\.(?:fai|bwt|sa|pac|ann|amb)\b"
_ABSENT = r"(?:not found|not exist|No such file|missing|not open)"
_WORDS: tuple[tuple[Kind, str], ...] = (
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
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _WORDS)
_STATUSES: dict[int, Kind] = {137: "host_memory", 139: "crash"}
_CRASH = re.compile(r"Segmentation fault|SIGSEGV", re.IGNORECASE)
_LINE_LIMIT = 240


@dataclass(frozen=True, slots=True)
class StepFailure:
    """`status` is pbrun's own exit status, 128 and more for a signal; None if it never ran."""

    kind: Kind
    message: str
    hint: str
    status: int | None = None


def recognise(command: str, status: int, words: str) -> StepFailure:
    """What `words`, the end of its output, and the status say of a failed `command`."""
    kind, reason = _kind(status, words)
    told = f": {reason[:_LINE_LIMIT]}" if reason else ""
    return StepFailure(
        kind, f"{command} ended with exit status {status}{told}", CURES[kind], status
    )


def _kind(status: int, words: str) -> tuple[Kind, str]:
    """The kind, and the line that tells it; else the last line."""
    for kind, pattern in _PATTERNS:
        if found := pattern.search(words):
            return kind, _line_at(words, found.start())
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if status in _STATUSES:
        return _STATUSES[status], last
    if found := _CRASH.search(words):
        return "crash", _line_at(words, found.start())
    return "other", last


def _line_at(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else None].strip()


def may_retry(failure: StepFailure, *, low_memory: bool, allowed: bool) -> bool:
    """Whether the low-memory flags, not yet given, could help."""
    return failure.kind == "gpu_memory" and allowed and not low_memory
