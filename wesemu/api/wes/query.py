"""Query parameters: paging (WES 1.1.0, ListRuns and ListTasks), and the filters and flags that
extend WES: `state=RUNNING,QUEUED`, `tag=project:x`."""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator

from multidict import MultiMapping

from wesemu.api.base import single
from wesemu.api.wes.models import Version
from wesemu.errors import InvalidRequest, NotFound
from wesemu.runs.model import RunState
from wesemu.runs.run_figures import FIGURE_TAGS
from wesemu.runs.store import TAG_LIMIT, Selection

# Paging: page_size and page_token (WES 1.1.0, ListRuns)

DEFAULT_SIZE = 100
LARGEST_SIZE = 1000

_NUMBER = re.compile(r"[+-]?[0-9]+")
_POSITION_BYTES = 8
_SIGNATURE_BYTES = 16
_LONGEST_NUMBER = 18


def page_size(query: MultiMapping[str]) -> int:
    """Return the page size, at most `LARGEST_SIZE`: WES allows shorter pages. Raises InvalidRequest
    for anything but a positive whole number."""
    text = single(query, "page_size")
    if not text:
        return DEFAULT_SIZE
    if not _NUMBER.fullmatch(text) or text.startswith("-") or not text.strip("+0"):
        raise InvalidRequest(
            f"it is {text[:40]!r}; write a whole number of at least 1", field="page_size"
        )
    return LARGEST_SIZE if len(text) > _LONGEST_NUMBER else min(int(text), LARGEST_SIZE)


class PageTokens:
    """Issues page tokens: a position, signed for one list.

    `key` signs the tokens (HMAC-SHA256); they are valid as long as the key is. `scope` contains the
    owner, so a token is useless to other callers.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, scope: str, position: int | None) -> str:
        """Return a token, or "" if `position` is None: there are no more pages."""
        if position is None:
            return ""
        packed = position.to_bytes(_POSITION_BYTES, "big")
        return base64.urlsafe_b64encode(packed + self._sign(scope, packed)).decode()

    def read(self, scope: str, query: MultiMapping[str]) -> int | None:
        """Return the position, or None for the first page. Raises InvalidRequest."""
        token = single(query, "page_token")
        if not token:
            return None
        try:
            packed = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except ValueError:
            packed = b""
        position, signature = packed[:_POSITION_BYTES], packed[_POSITION_BYTES:]
        if not hmac.compare_digest(signature, self._sign(scope, position)):
            raise InvalidRequest(
                "it does not belong to this list; leave it out for the first page",
                field="page_token",
            )
        return int.from_bytes(position, "big")

    def _sign(self, scope: str, packed: bytes) -> bytes:
        content = scope.encode() + b"\0" + packed
        return hmac.digest(self._key, content, hashlib.sha256)[:_SIGNATURE_BYTES]


def task_page(tokens: PageTokens, scope: str, query: MultiMapping[str]) -> tuple[int, int]:
    """Return the start and the size of a page of tasks. Raises NotFound instead of InvalidRequest:
    WES 1.1.0 documents no 400 for ListTasks."""
    try:
        return tokens.read(scope, query) or 0, page_size(query)
    except InvalidRequest as error:
        raise NotFound(f"there is no such page: {error.message}", field=error.field) from error


# Filters and flags: extensions of WES

_UNUSED_STATES = frozenset({"UNKNOWN", "PAUSED", "PREEMPTED"})
"""States of WES that runs never have here."""

_TAGS = 8


def read_selection(version: Version, query: MultiMapping[str]) -> Selection | None:
    """Return the filters of ListRuns, or None if no run can match.

    `state`: several values or commas; a run needs one of them. `tag`: several values; a run needs
    all of them. Raises InvalidRequest.
    """
    words = _words(query.getall("state", []))
    states = tuple(dict.fromkeys(state for word in words for state in _states(version, word)))
    if words and not states:
        return None
    tags = dict.fromkeys(_tag(text) for text in query.getall("tag", []) if text)
    if len(tags) > _TAGS:
        raise InvalidRequest(f"it is given more than {_TAGS} times", field="tag")
    return Selection(states=states, tags=tuple(tags))


def flag(query: MultiMapping[str], name: str) -> bool:
    """Return true or false. Raises InvalidRequest for other values."""
    text = single(query, name, "false")
    if text not in ("true", "false"):
        raise InvalidRequest(f"it is {text[:40]!r}; write true or false", field=name)
    return text == "true"


def _words(texts: list[str]) -> list[str]:
    words = (word.strip().upper() for text in texts for word in text.split(","))
    return [word for word in words if word]


def _states(version: Version, word: str) -> Iterator[RunState]:
    """Yield the states of a word. WES 0.3.0 shows CANCELING as RUNNING, so RUNNING finds both."""
    if word in _UNUSED_STATES:
        return
    if word not in RunState.__members__ or (word == "CANCELING" and not version.canceling):
        known = ", ".join(state for state in RunState if version.canceling or state != "CANCELING")
        raise InvalidRequest(f"it is {word[:40]!r}; write one of {known}", field="state")
    yield RunState(word)
    if word == "RUNNING" and not version.canceling:
        yield RunState.CANCELING


def _tag(text: str) -> tuple[str, str]:
    """Split `key:value` at the first colon."""
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise InvalidRequest(f"it is {text[:40]!r}; write key:value", field="tag")
    if len(name) + len(value) > TAG_LIMIT:
        raise InvalidRequest(
            f"it has more than {TAG_LIMIT} letters; such tags are not listed", field="tag"
        )
    if name in FIGURE_TAGS:
        raise InvalidRequest(
            f"{name} is computed by the server; filter by one of your own tags", field="tag"
        )
    return name, value
