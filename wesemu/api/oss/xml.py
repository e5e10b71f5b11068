"""XML as OSS writes it: no namespaces anywhere, times in UTC with milliseconds."""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote
from xml.etree.ElementTree import Element

from aiohttp import web

from wesemu.api.base import OWNER
from wesemu.api.base import document as document
from wesemu.api.base import element as element
from wesemu.errors import InvalidRequest
from wesemu.util.text import whole_number

# Parameters of listings: how many, of which, from where on, and how names are written.


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


def answer(tag: str, *content: str | Element | Iterable[Element]) -> web.Response:
    """A document as a response; lists of elements are laid out flat."""
    flat: list[str | Element] = []
    for part in content:
        flat += [part] if isinstance(part, str | Element) else part
    return web.Response(body=document(element(tag, *flat)), content_type="application/xml")


def time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def owner(request: web.Request) -> Element:
    """Everything belongs to whoever asks: the buckets are everybody's."""
    name = request[OWNER] or "local"
    return element("Owner", element("ID", name), element("DisplayName", name))


def encoding(query: Mapping[str, str]) -> list[Element]:
    """Says that names are percent-encoded, where they are."""
    return [element("EncodingType", "url")] if query.get("encoding-type") else []


def common_prefixes(names: Iterable[str]) -> list[Element]:
    return [element("CommonPrefixes", element("Prefix", name)) for name in names]
