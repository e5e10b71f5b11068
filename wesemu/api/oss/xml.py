"""XML as OSS writes it: no namespaces anywhere, times in UTC with milliseconds."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from xml.etree.ElementTree import Element

from aiohttp import web

from wesemu.api.dialect import OWNER
from wesemu.api.xml import document as document
from wesemu.api.xml import element as element


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
