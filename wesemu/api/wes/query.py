"""What a query may say beyond WES: `state=RUNNING,QUEUED`, `tag=project:x`, flags."""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping

from multidict import MultiMapping

from wesemu.api.wes.models import Version
from wesemu.errors import InvalidRequest, NotFound
from wesemu.runs.model import RunState
from wesemu.runs.sla import NAMES
from wesemu.runs.store import TAG_LIMIT, Selection

# page_size and page_token: keyset paging by opaque, signed tokens.


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


_NEVER = frozenset({"UNKNOWN", "PAUSED", "PREEMPTED"})
"""States of WES that no run is ever in here."""

_TAGS = 8


def read_selection(version: Version, query: MultiMapping[str]) -> Selection | None:
    """What the caller wants to see; None where nothing can be that.

    `state` may be given several times, or hold several with commas: any of them will do. `tag`
    may be given several times: a run must have all of them. Raises InvalidRequest.
    """
    asked = _words(query.getall("state", []))
    states = tuple(dict.fromkeys(state for word in asked for state in _states(version, word)))
    if asked and not states:
        return None
    tags = dict.fromkeys(_tag(text) for text in query.getall("tag", []) if text)
    if len(tags) > _TAGS:
        raise InvalidRequest(f"tag is given more than {_TAGS} times", field="tag")
    return Selection(states=states, tags=tuple(tags))


def flag(query: Mapping[str, str], name: str) -> bool:
    """Raises InvalidRequest for anything but true and false."""
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidRequest(f"{name} is {text[:40]!r}; it is true or false", field=name)
    return text == "true"


def _words(texts: list[str]) -> list[str]:
    words = (word.strip().upper() for text in texts for word in text.split(","))
    return [word for word in words if word]


def _states(version: Version, word: str) -> Iterator[RunState]:
    """Under 0.3.0 a run that is being cancelled is shown as RUNNING, and found as such."""
    if word in _NEVER:
        return
    if word not in RunState.__members__ or (word == "CANCELING" and not version.canceling):
        known = ", ".join(state for state in RunState if version.canceling or state != "CANCELING")
        raise InvalidRequest(f"state is {word[:40]!r}; it is one of {known}", field="state")
    yield RunState(word)
    if word == "RUNNING" and not version.canceling:
        yield RunState.CANCELING


def _tag(text: str) -> tuple[str, str]:
    """Cut at the first colon."""
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise InvalidRequest(f"tag is {text[:40]!r}; write key:value", field="tag")
    if len(name) + len(value) > TAG_LIMIT:
        raise InvalidRequest(
            f"tag has more than {TAG_LIMIT} letters; such tags are not listed", field="tag"
        )
    if name in NAMES:
        raise InvalidRequest(
            f"tag {name} is the server's own, worked out when it is shown; ask for one of yours",
            field="tag",
        )
    return name, value
