"""XML as OSS writes it: no namespaces anywhere, times in UTC with milliseconds."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from aiohttp import web

from wesemu.api.dialect import OWNER

_INVALID = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(tag: str, *content: str | int | Element) -> Element:
    """An element with one text, or with elements. What XML cannot hold becomes `?`."""
    made = Element(tag)
    for part in content:
        if isinstance(part, Element):
            made.append(part)
        else:
            made.text = _INVALID.sub("?", str(part))
    return made


def document(root: Element) -> bytes:
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


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
