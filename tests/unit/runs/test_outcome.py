"""How the end of a run is told."""

import errno
import os

from wesemu.runs.model import RunState
from wesemu.runs.outcome import fault


def test_a_fault_of_the_disk_names_the_file_and_not_its_folder() -> None:
    path = "/srv/cache/references/.build-x1/ab/genome.fa"
    state, failure = fault(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path))
    assert state is RunState.SYSTEM_ERROR
    assert failure.message == "genome.fa: the disk is full"
    assert fault(OSError("closed"))[1].message == "closed"
