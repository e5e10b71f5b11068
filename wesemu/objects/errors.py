"""What can be wrong with an object on its way in: leaves of `wesemu.errors`' tree.

InvalidRequest
├── DigestMismatch      the bytes are not those that were announced
├── TooLarge            more bytes than one request or object may have
├── PartMissing         a part that was never uploaded, or is another by now
├── PartTooSmall        a part below the least size that is not the last one
└── PartsUnordered      part numbers that do not ascend
NotFound
└── UploadNotFound      no multipart upload of this id and key
Conflict
├── BucketTaken         something that is no bucket has the name
├── BucketNotEmpty      objects or uploads are left
├── ObjectExists        it must not be overwritten
├── NotAppendable       it was not made by appending
└── WrongPosition       appending goes on elsewhere
"""

from wesemu.errors import Conflict, InvalidRequest, NotFound


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
