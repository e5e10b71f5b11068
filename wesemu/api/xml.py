"""XML documents, well-formed whatever their texts hold."""

import re
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

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
    """In UTF-8, with the declaration."""
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))
