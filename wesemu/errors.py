"""All errors of wesemu, in one tree. Services raise them; each API renders them in one place.

WesemuError                 message: what is wrong, where, and what to do next
├── InvalidRequest          the request is wrong (names the field)
│   ├── BucketNameRefused   the name is not allowed for buckets
│   └── InputError          an input file is wrong (names the file and the record)
├── Unauthorized            missing or unknown credentials
│   └── TokenRefused        the token is not valid
├── Forbidden               known caller, not allowed
│   └── ScopeMissing        valid token without the necessary scope
├── NotFound                it does not exist
│   ├── RunNotFound
│   ├── BucketNotFound
│   ├── ObjectNotFound
│   └── ReferenceNotFound
├── Conflict                the current state does not allow it
│   ├── RunActive           the run has not ended, so it cannot be removed
│   ├── KeyReused           the idempotency key belongs to another request
│   └── TransitionRefused   no such state transition (another actor was faster)
├── TooManyRuns             the owner has as many active runs as the settings allow
├── RunLimitExceeded        the run took longer or wrote more than the settings allow
├── FaultInjected           the control API injected this failure
└── SystemFault             this machine failed, not the request
    ├── DataDirectoryLocked another server uses the data directory
    ├── DataDirectoryRefused the data directory cannot be used: files of others, a long path
    ├── ServerReset         the control API reset the server during the request
    ├── StoreError          the index is unreadable or newer than this program
    │   └── IndexLocked     another program locks the index
    ├── DiskFull            no free space in the data directory
    ├── AccessRefused       a file of the data directory may not be read or written
    ├── OutOfFiles          no free file descriptors, or no more threads
    ├── IssuerUnreachable   the keys of the token issuer cannot be read
    ├── ToolMissing         no usable bwa, samtools, bcftools, snakemake, …
    ├── EngineFault         the run process failed to start or vanished
    └── RemoteFault         a remote server fails (names the file)

The OSS API has more leaves, at the end of this module. `TransientError` and `PermanentError` are
outside the tree: retries use them internally.
"""


class WesemuError(Exception):
    """Base class of wesemu's own errors.

    `field` is the wrong parameter of the request, if there is one: named as in `workflows.params`
    if the core raises it, as in the request if an API does. `message` does not begin with it;
    `str(error)` does.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message if self.field is None else f"{self.field}: {self.message}"


class InvalidRequest(WesemuError):
    """The request is wrong."""


class BucketNameRefused(InvalidRequest):
    """The name is not allowed for buckets."""


class InputError(InvalidRequest):
    """An input file is wrong.

    `file` is the name that the user gave; `record` is the number of the wrong record, from 1.
    """

    def __init__(self, message: str, *, file: str, record: int | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.record = record


class Unauthorized(WesemuError):
    """The credentials are missing or unknown."""


class TokenRefused(Unauthorized):
    """The token is not valid, or no longer valid."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"this token is refused: {reason}")


class Forbidden(WesemuError):
    """The caller is known but not allowed to do this."""


class ScopeMissing(Forbidden):
    """The token is valid but lacks a scope; `scopes` are the necessary ones."""

    def __init__(self, message: str, *, scopes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.scopes = scopes


class NotFound(WesemuError):
    """It does not exist for this caller."""


class RunNotFound(NotFound):
    """No run has this id or name."""


class BucketNotFound(NotFound):
    """No folder in `buckets/` has this name."""


class ObjectNotFound(NotFound):
    """The bucket has no object with this key."""


class ReferenceNotFound(NotFound):
    """The name is not a key, a folder with one FASTA file, or a registered reference."""


class Conflict(WesemuError):
    """The current state does not allow this."""


class RunActive(Conflict):
    """The run has not ended yet."""


class KeyReused(Conflict):
    """The idempotency key was used for another request."""


class TransitionRefused(Conflict):
    """The transition table has no step from the current state; another actor was faster."""


class TooManyRuns(WesemuError):
    """The owner has as many active runs as the settings allow."""


class RunLimitExceeded(WesemuError):
    """The run exceeded the time or the disk space that the settings allow."""


class FaultInjected(WesemuError):
    """The control API injected this failure."""


class SystemFault(WesemuError):
    """This machine failed, not the request."""


class DataDirectoryLocked(SystemFault):
    """Another server uses the data directory."""


class DataDirectoryRefused(SystemFault):
    """The data directory contains files of others, or its path is too long."""


class ServerReset(SystemFault):
    """The control API reset the server during the request."""


class StoreError(SystemFault):
    """The index database cannot be used."""


class IndexLocked(StoreError):
    """Another program locks the index database; a later attempt may succeed."""


class DiskFull(SystemFault):
    """The disk of the data directory is full; an administrator has to free space."""


class AccessRefused(SystemFault):
    """The system does not let the server read or write a file of its data directory."""


class OutOfFiles(SystemFault):
    """The limit of open files or of threads is reached; a later attempt may succeed."""


class IssuerUnreachable(SystemFault):
    """The keys of the token issuer cannot be read; a later attempt may succeed."""


class ToolMissing(SystemFault):
    """A necessary tool is neither on PATH nor in a wheel."""


class EngineFault(SystemFault):
    """The run process failed to start or vanished without an exit status."""


# Remote servers.


class RemoteFault(SystemFault):
    """The remote server cannot be reached or fails, also after retries.

    `file` is the name of the remote object, without credentials.
    """

    def __init__(self, message: str, *, file: str) -> None:
        super().__init__(message)
        self.file = file


class TransientError(Exception):
    """A failure that another attempt may not have. `after`: seconds to wait before it."""

    def __init__(self, reason: str, *, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class PermanentError(Exception):
    """A failure of a request to a bucket that retries cannot fix: HTTP status and error code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# Uploads of objects.


class DigestMismatch(InvalidRequest):
    """The received bytes do not have the announced digest."""


class TooLarge(InvalidRequest):
    """The request body is too large."""


class PartMissing(InvalidRequest):
    """A part was not uploaded, or was replaced since."""


class PartTooSmall(InvalidRequest):
    """A part other than the last one is smaller than the minimum."""


class PartsUnordered(InvalidRequest):
    """The part numbers do not ascend."""


class UploadNotFound(NotFound):
    """The key has no multipart upload with this id; it may be completed or aborted."""


class BucketTaken(Conflict):
    """A file has the name of the bucket's folder."""


class BucketNotEmpty(Conflict):
    """The bucket has objects or unfinished uploads."""


class ObjectExists(Conflict):
    """The key has an object, and the request forbids overwriting it."""


class NotAppendable(Conflict):
    """The object was not created by appending, so nothing can be appended."""


class WrongPosition(Conflict):
    """The append position is wrong; it must be `length`."""

    def __init__(self, message: str, *, length: int) -> None:
        super().__init__(message)
        self.length = length
