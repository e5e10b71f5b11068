"""The one error tree. Services raise these; each API dialect renders them in one place.

WesemuError                 message: what was wrong, where, what to do next
├── InvalidRequest          the caller's request is wrong (names the field)
│   ├── BucketNameRefused   no bucket can be called so
│   └── InputError          an input file is wrong (names the file and the record)
├── Unauthorized            no or unknown credentials
│   └── TokenRefused        a token was shown, and is not good
├── Forbidden               known caller, not allowed
│   └── ScopeMissing        the token is good, for something else
├── NotFound                no such thing
│   ├── RunNotFound
│   ├── BucketNotFound
│   ├── ObjectNotFound
│   └── ReferenceNotFound
├── Conflict                not in this state
│   ├── RunActive           a run that has not ended cannot be removed
│   ├── KeyReused           a submission key stands for another request
│   └── TransitionRefused   the state table has no such step (somebody else was faster)
├── TooManyRuns             the owner has as many runs as the settings allow
├── RunLimitExceeded        the run took longer or wrote more than the settings allow
├── FaultInjected           the control API asked for it
└── SystemFault             this machine, not the request
    ├── DataDirectoryLocked another server uses the data directory
    ├── DataDirectoryRefused the data directory is not empty and not wesemu's
    ├── ServerReset         the control API has reset the server meanwhile
    ├── StoreError          the index is unreadable or newer than this program
    ├── DiskFull            no room in the data directory
    ├── OutOfFiles          no more files can be opened at the moment
    ├── IssuerUnreachable   who signs the tokens cannot be asked for the keys
    ├── ToolMissing         no usable bwa, samtools, bcftools, snakemake, …
    └── EngineFault         the engine's own process failed to start or vanished

`objects.errors` adds leaves for what the bucket door refuses.
"""


class WesemuError(Exception):
    """Base of all errors that wesemu raises on purpose.

    `field` names the request's parameter that is to blame, where there is one: in the words of
    `workflows.params` when the core raises it, in the caller's when a dialect does.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidRequest(WesemuError):
    """A request that cannot be carried out as sent."""


class BucketNameRefused(InvalidRequest):
    """A name that no bucket can have."""


class InputError(InvalidRequest):
    """An input file that is not what it should be.

    `file` is the name the user gave; `record` counts from 1, where a record is to blame.
    """

    def __init__(self, message: str, *, file: str, record: int | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.record = record


class Unauthorized(WesemuError):
    """The caller has shown no credentials, or ones that nobody here knows."""


class TokenRefused(Unauthorized):
    """A token that stands for nobody, or for nobody any more."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"this token is refused: {reason}")


class Forbidden(WesemuError):
    """The caller is known and may not do this."""


class ScopeMissing(Forbidden):
    """A token that is valid and does not open this server; `scopes` are those that do."""

    def __init__(self, message: str, *, scopes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.scopes = scopes


class NotFound(WesemuError):
    """The named thing does not exist for this caller."""


class RunNotFound(NotFound):
    """No run has this id or name."""


class BucketNotFound(NotFound):
    """No folder of this name lies under `buckets/`."""


class ObjectNotFound(NotFound):
    """The bucket has no such key."""


class ReferenceNotFound(NotFound):
    """Neither a key, a folder with one FASTA, nor a registered reference."""


class Conflict(WesemuError):
    """The thing exists but is not in a state that allows this."""


class RunActive(Conflict):
    """The run has not ended yet."""


class KeyReused(Conflict):
    """A submission's key was used before, for another request."""


class TransitionRefused(Conflict):
    """The run is not in a state from which the step leads; another actor was faster."""


class TooManyRuns(WesemuError):
    """The owner has as many active runs as the settings allow."""


class RunLimitExceeded(WesemuError):
    """A run took longer or wrote more than the settings allow."""


class FaultInjected(WesemuError):
    """Nothing is wrong: a fault was ordered by the control API."""


class SystemFault(WesemuError):
    """This machine is to blame, not the request."""


class DataDirectoryLocked(SystemFault):
    """Another server holds the data directory."""


class DataDirectoryRefused(SystemFault):
    """The data directory holds files of others, and no server has used it before."""


class ServerReset(SystemFault):
    """A request that was under way when the server was reset."""


class StoreError(SystemFault):
    """The index database cannot be used."""


class DiskFull(SystemFault):
    """The disk of the data directory has no room; somebody has to make some."""


class OutOfFiles(SystemFault):
    """The limit of open files is reached; it passes once others are closed."""


class IssuerUnreachable(SystemFault):
    """The issuer of tokens does not tell its keys; it may be down for a while only."""


class ToolMissing(SystemFault):
    """A tool that is needed is neither on PATH nor in a wheel."""


class EngineFault(SystemFault):
    """The engine's own process could not start or vanished without an exit status."""


# What can go wrong between this machine and another one.


class RemoteFault(SystemFault):
    """The other side cannot be reached or fails, however often it was asked.

    `file` is the name of the object there, without credentials.
    """

    def __init__(self, message: str, *, file: str) -> None:
        super().__init__(message)
        self.file = file


class TransientError(Exception):
    """A failure that may be gone at the next attempt, not before `after` seconds."""

    def __init__(self, reason: str, *, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class PermanentError(Exception):
    """The other side's last word about a request to a bucket: an HTTP status and its code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# What can be wrong with an object on its way in: leaves of `wesemu.errors`' tree.


class DigestMismatch(InvalidRequest):
    """The bytes that came are not those that the sender announced."""


class TooLarge(InvalidRequest):
    """More bytes than one request may bring."""


class PartMissing(InvalidRequest):
    """A part that was never uploaded, or whose content is another by now."""


class PartTooSmall(InvalidRequest):
    """A part below the least size, and not the last one."""


class PartsUnordered(InvalidRequest):
    """Part numbers that do not ascend."""


class UploadNotFound(NotFound):
    """There is no multipart upload of this id for this key: never, no more, or completed."""


class BucketTaken(Conflict):
    """A file has the name that the bucket's folder would have."""


class BucketNotEmpty(Conflict):
    """Objects or unfinished uploads are left in the bucket."""


class ObjectExists(Conflict):
    """The key has an object that the caller does not want overwritten."""


class NotAppendable(Conflict):
    """The object was not made by appending, so nothing can be appended to it."""


class WrongPosition(Conflict):
    """Appending goes on at another position: `length`."""

    def __init__(self, message: str, *, length: int) -> None:
        super().__init__(message)
        self.length = length
