"""How the command line ends when something is wrong: one line on stderr and a stable status."""

import errno
from enum import IntEnum

from wesemu.errors import InvalidRequest, SystemFault, WesemuError
from wesemu.wording import os_sentence


class ExitStatus(IntEnum):
    """The exit statuses, documented in docs/cli.md; 2 is also what a wrong flag gives."""

    SUCCESS = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    MACHINE = 5
    INTERRUPTED = 130


class Refused(WesemuError):
    """A command that cannot be carried out, with the status it ends with."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.REFUSED) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: WesemuError) -> ExitStatus:
    """The exit status that an expected error ends with."""
    match error:
        case Refused(status=status):
            return status
        case SystemFault():
            return ExitStatus.MACHINE
        case InvalidRequest():
            return ExitStatus.USAGE
    return ExitStatus.REFUSED


def sentence(error: OSError) -> str | None:
    """One line for a file that cannot be used; None for an error that is no user's doing."""
    if error.filename is None or error.errno is None:
        return None
    if error.errno == errno.ENOSPC:
        return f"the disk is full: {error.filename}"
    return os_sentence(error)
