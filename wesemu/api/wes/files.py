"""Files below a run directory as answers, never by way of a link."""

import base64
import io
import os
import stat
from pathlib import Path, PurePosixPath

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from wesemu.api.wes.ranges import part_is_asked


class OpenedFile(web.FileResponse):
    """Sends an open file, with Range and conditions; closes it.

    aiohttp opens a path itself; through the descriptor's path it gets the very file that was
    checked, and finds no compressed neighbour (`calls.vcf.gz` for `calls.vcf`) to send instead.
    """

    def __init__(self, request: web.Request, file: io.FileIO, headers: dict[str, str]) -> None:
        """Raises HTTPPreconditionFailed, HTTPRequestRangeNotSatisfiable."""
        try:
            self._in_part = part_is_asked(request, os.fstat(file.fileno()))
        except web.HTTPException:
            file.close()
            raise
        super().__init__(f"/dev/fd/{file.fileno()}", headers=headers)
        self._file = file

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        try:
            return await super().prepare(request if self._in_part else _whole(request))
        finally:
            self._file.close()

    async def release(self) -> None:
        self._file.close()


def _whole(request: BaseRequest) -> BaseRequest:
    """The same request without its Range, if it has one."""
    if "Range" not in request.headers:
        return request
    headers = request.headers.copy()
    headers.popall("Range")
    return request.clone(headers=headers)


def digest_headers(sha256: str | None) -> dict[str, str]:
    """RFC 9530: the digest of the whole file, also of an answer that holds a part of it."""
    if sha256 is None:
        return {}
    return {"Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"}


def open_below(root: Path, relative: str) -> io.FileIO | None:
    """Open a regular file; None where there is none, or where a link is on the way."""
    *folders, name = PurePosixPath(relative).parts
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = inner
        # O_NONBLOCK: opening a pipe that a workflow left would wait for its other end.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        file = io.FileIO(os.open(name, flags, dir_fd=directory), "rb")
    except OSError:
        return None
    finally:
        os.close(directory)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None
