"""Parameters of listings: how many, of which, from where on, and how names are written."""

import base64
import binascii
from collections.abc import Callable, Mapping
from urllib.parse import quote

from wesemu.errors import InvalidRequest
from wesemu.numerals import whole_number

_MOST = 1000


def limit(query: Mapping[str, str], name: str, default: int) -> int:
    """1 to 1000. Raises InvalidRequest."""
    text = query.get(name, "") or str(default)
    wanted = whole_number(text)
    if wanted is None or not 1 <= wanted <= _MOST:
        raise InvalidRequest(f"{name} is a number from 1 to {_MOST}, not {text[:40]!r}")
    return wanted


def number(query: Mapping[str, str], name: str) -> int:
    """0 where it is not given. Raises InvalidRequest."""
    text = query.get(name, "") or "0"
    wanted = whole_number(text, most_digits=18)
    if wanted is None:
        raise InvalidRequest(f"{name} is a number, not {text[:40]!r}")
    return wanted


def spelling(query: Mapping[str, str]) -> Callable[[str], str]:
    """How names are written: with `encoding-type=url` percent-encoded. Raises InvalidRequest."""
    encoding = query.get("encoding-type", "")
    if encoding not in ("", "url"):
        raise InvalidRequest(f"encoding-type is url, not {encoding[:40]!r}")
    return _quoted if encoding else str


def token(after: str) -> str:
    """An opaque word for a place in a listing."""
    return base64.urlsafe_b64encode(after.encode()).decode()


def place(word: str) -> str:
    """What `token` made a word of. Raises InvalidRequest."""
    try:
        return base64.b64decode(word, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("this continuation-token was not given here") from error


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")
