"""A test double of `nvidia-smi` for the one query of wesemu.

The answer is in DOCKER_DOUBLE_SMI, as lines "index, MiB, driver, name". Unset: two H200; empty: no
GPU."""

import os
import sys

USUAL = "0, 143771, 580.65.06, NVIDIA H200\n1, 143771, 580.65.06, NVIDIA H200"
QUESTION = [
    "--query-gpu=index,memory.total,driver_version,name",
    "--format=csv,noheader,nounits",
]

if __name__ == "__main__":
    if sys.argv[1:] != QUESTION:
        sys.exit(f"nvidia-smi double: not asked that way: {sys.argv[1:]}")
    answer = os.environ.get("DOCKER_DOUBLE_SMI", USUAL)
    if not answer:
        print("No devices were found")
        sys.exit(6)
    print(answer)
