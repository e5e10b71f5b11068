"""page_size and page_token: keyset paging by opaque, signed tokens."""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping

from wesemu.errors import InvalidRequest, NotFound

DEFAULT_SIZE = 100
LARGEST_SIZE = 1000

_NUMBER = re.compile(r"[+-]?[0-9]+")
_POSITION_BYTES = 8
_SIGNATURE_BYTES = 16
_LONGEST_NUMBER = 18


def page_size(query: Mapping[str, str]) -> int:
    """The size asked for, at most `LARGEST_SIZE` ("it may return fewer"). Raises InvalidRequest
    for anything but a positive whole number."""
    text = query.get("page_size", "")
    if not text:
        return DEFAULT_SIZE
    if not _NUMBER.fullmatch(text) or text.startswith("-") or not text.strip("+0"):
        raise InvalidRequest(
            f"page_size is {text[:40]!r}; it must be a whole number from 1 on", field="page_size"
        )
    return LARGEST_SIZE if len(text) > _LONGEST_NUMBER else min(int(text), LARGEST_SIZE)


class PageTokens:
    """Issues positions that only this server can have issued, each for one list.

    `key` signs them (HMAC-SHA256); tokens outlive the server as long as the key does. A list's
    `scope` holds whose it is, so that a token is of no use to anybody else.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, scope: str, position: int | None) -> str:
        """ "" for None: there are no more pages."""
        if position is None:
            return ""
        packed = position.to_bytes(_POSITION_BYTES, "big")
        return base64.urlsafe_b64encode(packed + self._sign(scope, packed)).decode()

    def read(self, scope: str, query: Mapping[str, str]) -> int | None:
        """The position in `page_token`, None for the first page. Raises InvalidRequest."""
        token = query.get("page_token", "")
        if not token:
            return None
        try:
            packed = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except ValueError:
            packed = b""
        position, signature = packed[:_POSITION_BYTES], packed[_POSITION_BYTES:]
        if not hmac.compare_digest(signature, self._sign(scope, position)):
            raise InvalidRequest(
                "page_token is not one that this list gave; begin without one", field="page_token"
            )
        return int.from_bytes(position, "big")

    def _sign(self, scope: str, packed: bytes) -> bytes:
        content = scope.encode() + b"\0" + packed
        return hmac.digest(self._key, content, hashlib.sha256)[:_SIGNATURE_BYTES]


def task_page(tokens: PageTokens, scope: str, query: Mapping[str, str]) -> tuple[int, int]:
    """Where a page of a run's tasks begins, and its size.

    Raises NotFound where `page_size` raises InvalidRequest: of a run's routes, WES names no 400.
    """
    try:
        return tokens.read(scope, query) or 0, page_size(query)
    except InvalidRequest as error:
        raise NotFound(f"there is no such page: {error.message}", field=error.field) from error
