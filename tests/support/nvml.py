"""A double of the module `pynvml` for machines without a GPU. Tests pass it in as an argument.

It answers like NVML for the given cards, with the names and types of pynvml.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

MEBIBYTE = 1 << 20


@dataclass
class Card:
    """A card as NVML reports it. Every query raises `error` (a number of nvmlReturn_t) if set."""

    name: str = "NVIDIA Double"
    memory_mb: int = 16_384
    free_mb: int = 16_000
    divided: bool | None = None
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    error: int | None = None


class DoubleNvmlError(Exception):
    """NVMLError: a number and the message of the library."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


class NvmlDouble:
    """A double of pynvml. nvmlInit raises `error`. With `old`, texts are bytes."""

    NVMLError = DoubleNvmlError
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_ERROR_GPU_IS_LOST = 15
    NOT_SUPPORTED = 3

    def __init__(self, *cards: Card, error: int | None = None, old: bool = False) -> None:
        self._cards = cards
        self._error = error
        self._old = old
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self._error is not None:
            raise DoubleNvmlError(self._error)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> Any:  # noqa: N802
        return self._text("580.95.05")

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 13000

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if (error := self._cards[index].error) is not None:
            raise DoubleNvmlError(error)
        return index

    def nvmlDeviceGetName(self, handle: int) -> Any:  # noqa: N802
        return self._text(self._cards[handle].name)

    def nvmlDeviceGetUUID(self, handle: int) -> Any:  # noqa: N802
        return self._text(f"GPU-{handle}{handle}{handle}-double")

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        card = self._cards[handle]
        return SimpleNamespace(total=card.memory_mb * MEBIBYTE, free=card.free_mb * MEBIBYTE)

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        if (divided := self._cards[handle].divided) is None:
            raise DoubleNvmlError(self.NOT_SUPPORTED)
        return int(divided), int(divided)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=None if mb is None else mb * MEBIBYTE)
            for pid, mb in self._cards[handle].processes
        ]

    def _text(self, value: str) -> Any:
        return value.encode() if self._old else value
