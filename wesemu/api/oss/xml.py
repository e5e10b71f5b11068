"""XML responses of OSS, and the parameters of listings.

Documents have no namespaces. Times are in UTC with milliseconds.
"""

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

# Parameters of listings (OSS API, ListObjectsV2: max-keys, encoding-type, continuation-token)

_MOST = 1000


def limit(query: Mapping[str, str], name: str, default: int) -> int:
    """Return a page size from 1 to 1000. Raises InvalidRequest."""
    text = query.get(name, "") or str(default)
    wanted = whole_number(text)
    if wanted is None or not 1 <= wanted <= _MOST:
        raise InvalidRequest(f"{name} must be a number from 1 to {_MOST}, not {text[:40]!r}")
    return wanted


def number(query: Mapping[str, str], name: str) -> int:
    """Return a number, or 0 if the parameter is absent. Raises InvalidRequest."""
    text = query.get(name, "") or "0"
    wanted = whole_number(text, most_digits=18)
    if wanted is None:
        raise InvalidRequest(f"{name} must be a number, not {text[:40]!r}")
    return wanted


def key_encoder(query: Mapping[str, str]) -> Callable[[str], str]:
    """Return the function that writes keys: percent-encoded with `encoding-type=url`. Raises
    InvalidRequest."""
    encoding = query.get("encoding-type", "")
    if encoding not in ("", "url"):
        raise InvalidRequest(f"encoding-type must be url, not {encoding[:40]!r}")
    return _quoted if encoding else str


def encode_token(after: str) -> str:
    """Return an opaque continuation token for a position in a listing."""
    return base64.urlsafe_b64encode(after.encode()).decode()


def decode_token(token: str) -> str:
    """Return the position of a continuation token. Raises InvalidRequest."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("this continuation-token is not from this server") from error


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")


# Documents


def answer(tag: str, *content: str | Element | Iterable[Element]) -> web.Response:
    """Return a document as a response. Lists of elements are flattened."""
    flat: list[str | Element] = []
    for part in content:
        flat += [part] if isinstance(part, str | Element) else part
    return web.Response(body=document(element(tag, *flat)), content_type="application/xml")


def time(timestamp: datetime) -> str:
    return timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def owner(request: web.Request) -> Element:
    """Return the caller as Owner: all callers share the buckets."""
    name = request[OWNER] or "local"
    return element("Owner", element("ID", name), element("DisplayName", name))


def encoding_type(query: Mapping[str, str]) -> list[Element]:
    """Return the EncodingType element if keys are percent-encoded."""
    return [element("EncodingType", "url")] if query.get("encoding-type") else []


def common_prefixes(names: Iterable[str]) -> list[Element]:
    return [element("CommonPrefixes", element("Prefix", name)) for name in names]
