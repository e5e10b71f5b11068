"""Headers that make a request hold for some objects only, and the part of one that is wanted."""

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from wesemu.api.oss.errors import Refused
from wesemu.objects.places import ObjectInfo

COPY = "x-oss-copy-source-"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def check_conditions(headers: Mapping[str, str], info: ObjectInfo, *, prefix: str = "") -> None:
    """`If-…`, or with the prefix COPY those on the source of a copy.

    Raises Refused: 304 for what the client has already, 412 for what is no more as it was.
    """
    match = headers.get(f"{prefix}If-Match")
    if match is not None and not _names(match, info):
        raise _failed("If-Match")
    since = _moment(headers.get(f"{prefix}If-Unmodified-Since"))
    if match is None and since is not None and info.modified.replace(microsecond=0) > since:
        raise _failed("If-Unmodified-Since")
    unmatched = headers.get(f"{prefix}If-None-Match")
    since = _moment(headers.get(f"{prefix}If-Modified-Since"))
    if unmatched is not None:
        same = _names(unmatched, info)
    else:
        same = since is not None and info.modified.replace(microsecond=0) <= since
    if same:
        raise Refused(304, "NotModified", "Not Modified", headers={"ETag": f'"{info.etag}"'})


def wanted_range(headers: Mapping[str, str], size: int) -> tuple[int, int] | None:
    """Offset and length in bytes; None for the whole.

    OSS answers a range that makes no sense with the whole object, and with 416 only when asked
    to (`x-oss-range-behavior: standard`). Raises Refused.
    """
    sent = headers.get("Range")
    if sent is None:
        return None
    found = _RANGE.fullmatch(sent.strip())
    if found and (span := _span(found[1], found[2], size)) is not None:
        return span
    if headers.get("x-oss-range-behavior", "").lower() != "standard":
        return None
    raise Refused(
        416,
        "InvalidRange",
        "The requested range cannot be satisfied",
        details={"ActualObjectSize": str(size), "RangeHeader": sent[:200]},
        headers={"Content-Range": f"bytes */{size}"},
    )


def copied_range(sent: str, size: int) -> tuple[int, int]:
    """The range of a part's source, which has to lie in it. Raises Refused."""
    found = _RANGE.fullmatch(sent.strip())
    span = found and found[1] and _span(found[1], found[2], size)
    if not found or not span or (found[2] and int(found[2]) >= size):
        raise Refused(
            400,
            "InvalidArgument",
            f"x-oss-copy-source-range {sent[:80]!r} is no range of {size} bytes",
        )
    return span


def _span(first: str, last: str, size: int) -> tuple[int, int] | None:
    if first:
        begin = int(first[:20])
        end = min(int(last[:20]), size - 1) if last else size - 1
    elif last and int(last[:20]):
        begin, end = max(size - int(last[:20]), 0), size - 1
    else:
        return None
    return (begin, end - begin + 1) if begin <= end < size else None


def _names(tags: str, info: ObjectInfo) -> bool:
    return tags.strip() == "*" or info.etag in [tag.strip().strip('"') for tag in tags.split(",")]


def _moment(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo else None


def _failed(name: str) -> Refused:
    return Refused(
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold.",
        details={"Condition": name},
    )
