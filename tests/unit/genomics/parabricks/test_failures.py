"""Every known failure of pbrun is recognised and has a hint."""

import pytest

from wesemu.genomics.parabricks.failures import CURES, StepFailure, may_retry, recognise

SAID = [
    (255, "x\ncudaErrorMemoryAllocation in bwa\ny", "gpu_memory"),
    (1, "CUDA error: out of memory", "gpu_memory"),
    (1, "out of memory on GPU 0", "gpu_memory"),
    (1, "CUDA driver version is insufficient for CUDA runtime version", "driver"),
    (125, "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0", "driver"),
    (255, "no CUDA-capable device is detected", "no_gpu"),
    (125, 'could not select device driver "" with capabilities: [[gpu]]', "no_gpu"),
    (139, "fwrite: No space left on device", "disk_full"),
    (1, "/r/genome.fa.bwt: No such file or directory", "index"),
    (1, "cannot find genome.fa.fai: file not found", "index"),
    (125, "Unable to find image 'x:1' locally", "image"),
    (137, "[PB Info] sorting", "host_memory"),
    (137, "", "host_memory"),
    (139, "[PB Info] mapping", "crash"),
    (255, "Received SIGSEGV, ending", "crash"),
    (1, "/in/a.fq: No such file or directory", "other"),
    (137, "Out of memory: Killed process 17 (pbrun)", "host_memory"),
]


@pytest.mark.parametrize(("status", "words", "kind"), SAID)
def test_ends_are_recognised(status: int, words: str, kind: str) -> None:
    failure = recognise("pbrun fq2bam", status, words)
    assert failure.kind == kind
    assert failure.hint == CURES[failure.kind]
    assert failure.status == status
    assert failure.message.startswith(f"pbrun fq2bam ended with exit status {status}")


def test_the_line_that_tells_the_reason_is_quoted() -> None:
    failure = recognise("pbrun fq2bam", 255, "begin\ncudaErrorMemoryAllocation: no room\nbye\n")
    assert failure.message.endswith("status 255: cudaErrorMemoryAllocation: no room")


@pytest.mark.parametrize("kind", CURES)
def test_only_a_full_card_is_tried_again_and_only_once(kind) -> None:
    failure = StepFailure(kind, "", "")
    assert may_retry(failure, low_memory=False, allowed=True) == (kind == "gpu_memory")
    assert not may_retry(failure, low_memory=True, allowed=True)
    assert not may_retry(failure, low_memory=False, allowed=False)
