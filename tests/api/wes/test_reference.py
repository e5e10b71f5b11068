"""The page of the API reference: complete, escaped, without a script."""

import re
from html.parser import HTMLParser

from api.wes.fixtures import Serve
from conformance.wes.test_own_document import DOCUMENT

PAGE = "/ga4gh/wes/v1/reference"


class Reader(HTMLParser):
    """Collects ids, links and what is open; fails on a tag that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.seen: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(str(value))
            elif name == "href":
                self.links.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_reference_shows_every_operation_and_schema(serve: Serve) -> None:
    wes = await serve(tokens={"secret-a": "alice"})
    async with wes.get(PAGE) as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        policy = answer.headers["Content-Security-Policy"]
        text = await answer.text()
    page = Reader()
    page.feed(text)
    assert page.open == []
    named = {
        operation["operationId"]
        for item in DOCUMENT.text["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    } | {f"schema-{name}" for name in DOCUMENT.text["components"]["schemas"]}
    assert set(page.ids) == named
    assert len(page.ids) == len(named)
    assert {link for link in page.links if link[:1] == "#"} <= {f"#{name}" for name in named}
    assert "script" not in page.seen
    assert re.fullmatch(r"default-src 'none'; style-src 'sha256-[\w+/=]{44}'; .*", policy)
    async with wes.get("/ga4gh/wes/v1/" + "openapi.yaml") as answer:
        assert answer.status == 200
