"""Fills the cache of the crate validator, in its own Python, so it needs no network.

    python crate_contexts.py CACHE DOCUMENTS

DOCUMENTS is a JSON file of JSON-LD documents by their URLs.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from urllib3 import HTTPResponse


class Library(HTTPAdapter):
    """Answers in the place of the web."""

    def __init__(self, documents: dict[str, Any]) -> None:
        super().__init__()
        self._documents = documents

    def send(self, request: PreparedRequest, *_: Any, **__: Any) -> Response:
        body = io.BytesIO(json.dumps(self._documents[str(request.url)]).encode())
        headers = {"Content-Type": "application/ld+json"}
        answer = HTTPResponse(body, headers, status=200, preload_content=False)
        return self.build_response(request, answer)


def main(cache: str, documents: str) -> None:
    library = Library(json.loads(Path(documents).read_text()))
    session = CachedSession(cache_name=cache, backend="sqlite", expire_after=-1)
    session.mount("https://", library)
    for url in json.loads(Path(documents).read_text()):
        session.get(url)
    session.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
