"""Answers as JSON, or as XML where a client asks for that.

The gateway of ROA APIs goes by the header Accept, that of RPC APIs by the parameter Format; here
either will do. How the workflow operations look in XML is printed nowhere: the root is called as
in the gateway's other answers (`<Operation>Response`, `Error`), a list repeats its element.
"""

import json
import re
from xml.etree.ElementTree import Element

from aiohttp import web
from pydantic import BaseModel

from wesemu.api.xml import document, element
from wesemu.runs.model import JsonObject

_IS_XML = {
    "application/xml": True,
    "text/xml": True,
    "application/json": False,
    "application/*": False,
    "*/*": False,
}
_QUALITY = re.compile(r"q=([01](?:\.[0-9]{0,3})?)", re.IGNORECASE)


def answer(request: web.Request, operation: str, content: BaseModel) -> web.Response:
    """What an operation answers, None left out."""
    members = content.model_dump(by_alias=True, exclude_none=True)
    return write(request, f"{operation}Response", members)


def write(
    request: web.Request, root: str, members: JsonObject, *, status: int = 200
) -> web.Response:
    """`members` as a JSON object, or as the elements of the XML element `root`."""
    if not wants_xml(request):
        text = json.dumps(members, separators=(",", ":"))
        return web.Response(text=text, status=status, content_type="application/json")
    body = document(element(root, *_elements(members)))
    return web.Response(body=body, status=status, content_type="application/xml", charset="utf-8")


def wants_xml(request: web.Request) -> bool:
    """By `Format` in the query, else by the most wanted type of Accept that there is; JSON where
    neither says anything."""
    for name, value in request.query.items():
        if name.casefold() == "format" and value.casefold() in ("xml", "json"):
            return value.casefold() == "xml"
    ranges = [
        _range(text)
        for accept in request.headers.getall("Accept", [])
        for text in accept.split(",")
    ]
    known = [(quality, kind) for quality, kind in ranges if quality and kind in _IS_XML]
    return bool(known) and _IS_XML[max(known, key=lambda wanted: wanted[0])[1]]


def _range(text: str) -> tuple[float, str]:
    """A media range and its quality, RFC 9110, section 12.5.1."""
    kind, *parameters = (part.strip() for part in text.split(";"))
    found = [_QUALITY.fullmatch(parameter) for parameter in parameters]
    quality = next((float(match[1]) for match in found if match), 1.0)
    return quality, kind.casefold()


def _elements(members: JsonObject) -> list[Element]:
    return [
        element(name, *_elements(item)) if isinstance(item, dict) else element(name, str(item))
        for name, value in members.items()
        for item in (value if isinstance(value, list) else [value])
    ]
