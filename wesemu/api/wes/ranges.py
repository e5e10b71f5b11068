"""Range and conditions of a request for a file (RFC 9110, 13 and 14), as far as aiohttp's
FileResponse would refuse them without a word, or read them otherwise than the RFC."""

import math
import os
import re
from collections.abc import Sequence

from aiohttp import ETag, web

_ONE = re.compile(r"bytes=(\d{0,20})-(\d{0,20})", re.ASCII)


def part_is_asked(request: web.Request, file: os.stat_result) -> bool:
    """Whether a Range counts; one that does not is as good as none: the whole file is sent, or a
    304.

    Raises HTTPPreconditionFailed, HTTPRequestRangeNotSatisfiable.
    """
    _refuse_other_file(request, file)
    match = _ONE.fullmatch(request.headers.get("Range", ""))
    # other units must, several ranges and senseless ones may be ignored; only GET has ranges
    if match is None or request.method != "GET" or not any(match.groups()):
        return False
    if _is_known(request, file) or not _is_still_meant(request, file):
        return False
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return False
    begins_there = int(first) < file.st_size if first else int(last) > 0 and file.st_size > 0
    if not begins_there:
        raise web.HTTPRequestRangeNotSatisfiable(
            headers={"Content-Range": f"bytes */{file.st_size}"},
            text=f"there is nothing at {match[0]}; the file has {file.st_size} bytes",
        )
    return True


def etag(file: os.stat_result) -> str:
    """Without its quotes, as FileResponse sends it."""
    return f"{file.st_mtime_ns:x}-{file.st_size:x}"


def _refuse_other_file(request: web.Request, file: os.stat_result) -> None:
    wanted, since = request.if_match, request.if_unmodified_since
    if wanted is not None:
        is_other = not _has(wanted, file, weak=False)
    else:
        is_other = since is not None and file.st_mtime > since.timestamp()
    if is_other:
        raise web.HTTPPreconditionFailed(
            text=f'the file is another one by now; its ETag is now "{etag(file)}"'
        )


def _is_known(request: web.Request, file: os.stat_result) -> bool:
    """Whether the answer will be a 304, which goes before a range."""
    known, since = request.if_none_match, request.if_modified_since
    if known is not None:
        return _has(known, file, weak=True)
    return since is not None and file.st_mtime <= since.timestamp()


def _is_still_meant(request: web.Request, file: os.stat_result) -> bool:
    """By If-Range (RFC 9110, 13.1.5): the very ETag, or the very Last-Modified."""
    condition = request.headers.get("If-Range")
    if condition is None or condition.strip() == f'"{etag(file)}"':
        return True
    date = request.if_range
    return date is not None and date.timestamp() == math.ceil(file.st_mtime)


def _has(tags: Sequence[ETag], file: os.stat_result, *, weak: bool) -> bool:
    """As FileResponse compares them."""
    if [tag.value for tag in tags] == ["*"]:
        return True
    return any(tag.value == etag(file) and (weak or not tag.is_weak) for tag in tags)
