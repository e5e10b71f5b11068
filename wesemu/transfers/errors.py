"""What can go wrong between this machine and another one.

SystemFault
└── RemoteFault     the other side does not answer, or not as it should; not the request's fault

`Passing` is no error of the tree: it never leaves this package.
"""

from wesemu.errors import SystemFault


class RemoteFault(SystemFault):
    """The other side cannot be reached or fails, however often it was asked.

    `file` is the name of the object there, without credentials.
    """

    def __init__(self, message: str, *, file: str) -> None:
        super().__init__(message)
        self.file = file


class Passing(Exception):
    """A failure that may be gone at the next attempt, not before `after` seconds."""

    def __init__(self, reason: str, *, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class Refusal(Exception):
    """The other side's last word about a request to a bucket: an HTTP status and its code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
