"""The API reference as an HTML page: openapi.yaml, rendered without scripts."""

import asyncio
import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

DOCUMENT = Path(__file__).with_name("openapi.yaml")

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; } h3 { margin: 2rem 0 .25rem; font-family: monospace; font-size: 1.05rem; }
b { display: inline-block; min-width: 4.5rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { border: 1px solid #8886; padding: .25rem .5rem; text-align: left; vertical-align: top; }
nav li { font-family: monospace; } ul { padding-left: 1.25rem; }
"""

Node = Mapping[str, Any]


class DocsPage:
    """Renders the page on the first request."""

    def __init__(self) -> None:
        self._text: str | None = None

    async def get(self, _: web.Request) -> web.Response:
        if self._text is None:
            self._text = await asyncio.to_thread(render_docs_page)
        headers = {"Content-Security-Policy": security_policy()}
        return web.Response(text=self._text, content_type="text/html", headers=headers)


def security_policy() -> str:
    """Return the page's Content-Security-Policy, which only allows its own style."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def render_docs_page() -> str:
    """Return openapi.yaml as HTML. Takes a few tens of milliseconds."""
    document = yaml.safe_load(DOCUMENT.read_text())
    title = escape(document["info"]["title"])
    operations = list(_operations(document))
    contents = "".join(
        f'<li><a href="#{_text(operation["operationId"])}">{method} {_text(path)}</a></li>'
        for method, path, operation in operations
    )
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{title}</h1><p>{_text(document['info']['description'])}</p>",
            '<p>The document itself: <a href="openapi.yaml">openapi.yaml</a></p>',
            f"<nav><ul>{contents}</ul></nav><h2>Operations</h2>",
            *(_operation(document, *operation) for operation in operations),
            "<h2>Schemas</h2>",
            *(_schema(name, node) for name, node in document["components"]["schemas"].items()),
            "</body></html>",
        ]
    )


def _operations(document: Node) -> Iterator[tuple[str, str, Node]]:
    for path, item in document["paths"].items():
        shared = item.get("parameters", [])
        for method, operation in item.items():
            if method != "parameters":
                parameters = [*shared, *operation.get("parameters", [])]
                yield method.upper(), path, {**operation, "parameters": parameters}


def _operation(document: Node, method: str, path: str, operation: Node) -> str:
    rows = [_resolve(document, parameter) for parameter in operation["parameters"]]
    parts = [
        f'<h3 id="{_text(operation["operationId"])}"><b>{method}</b> {_text(path)}</h3>',
        f"<p>{_text(operation['summary'])} {_text(operation.get('description', ''))}</p>",
    ]
    if rows:
        parts.append("<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>")
        parts += [
            f"<tr><td>{_text(row['name'])}</td><td>{_text(row['in'])}</td>"
            f"<td>{_type(row['schema'])}</td><td>{_text(row.get('description', ''))}</td></tr>"
            for row in rows
        ]
        parts.append("</table>")
    parts.append("<ul>")
    if "requestBody" in operation:
        parts.append(f"<li>body: {_content(operation['requestBody'])}</li>")
    for status, response in operation["responses"].items():
        resolved = _resolve(document, response)
        parts.append(
            f"<li>{'any other' if status == 'default' else _text(status)}: "
            f"{_text(resolved['description'])} {_content(resolved)}</li>"
        )
    return "".join([*parts, "</ul>"])


def _schema(name: str, node: Node) -> str:
    parts = [f'<h3 id="schema-{_text(name)}">{_text(name)}</h3>']
    parts.append(f"<p>{_text(node.get('description', ''))} {_type(node)}</p>")
    if properties := node.get("properties"):
        required = node.get("required", ())
        parts.append("<table><tr><th>key</th><th>type</th><th></th></tr>")
        for key, value in properties.items():
            need = "" if key in required else "optional. "
            parts.append(
                f"<tr><td>{_text(key)}</td><td>{_type(value)}</td>"
                f"<td>{need}{_text(value.get('description', ''))}</td></tr>"
            )
        parts.append("</table>")
    return "".join(parts)


def _content(node: Node) -> str:
    return ", ".join(
        f"{_text(kind)} {_type(media['schema'])}" for kind, media in node.get("content", {}).items()
    )


def _type(schema: Node) -> str:
    """Describe a schema in a few words, with links to named schemas."""
    if "$ref" in schema:
        name = _text(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for word, joint in (("oneOf", " or "), ("allOf", " and ")):
        if word in schema:
            return joint.join(_type(part) for part in schema[word])
    if "enum" in schema:
        return ", ".join(_text(value) for value in schema["enum"])
    kind = _text(schema.get("type", "any"))
    match schema:
        case {"items": items}:
            return f"{kind} of {_type(items)}"
        case {"additionalProperties": Mapping() as values}:
            return f"{kind} of {_type(values)}"
        case {"format": form}:
            return f"{kind} ({_text(form)})"
        case _:
            return kind


def _resolve(document: Node, node: Node) -> Node:
    if "$ref" not in node:
        return node
    *_, section, name = node["$ref"].split("/")
    target: Node = document["components"][section][name]
    return target


def _text(value: object) -> str:
    return escape(str(value))
