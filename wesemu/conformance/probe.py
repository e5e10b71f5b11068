"""HTTP requests to a server that may answer anything: bounded in time and size, without exceptions.

Whatever happens to a request, `Probe.ask` returns an `Answer`. `Answer.problem` says what prevents
its use.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from yarl import URL

from wesemu import __version__
from wesemu.runs.model import JsonValue
from wesemu.util.text import json_reason, network_reason

_CHUNK = 1 << 16
_SHOWN = 300
"""Characters of a body in a report."""

_KEPT = 4 * _SHOWN
"""Bytes of a body that `Answer.text` keeps: white space is left out of reports."""


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """Bounds of a request: `seconds` in all, `body` bytes of the answer.

    No more requests are sent after `silent` of them in a row got no answer in time, and `total`
    seconds after the first one.
    """

    seconds: float = 20.0
    body: int = 4 << 20
    silent: int = 3
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request.

    `status` is None without an answer. `text` is the beginning of the body, `body` its JSON, which
    is None if `problem` is not None.
    """

    request: str
    status: int | None = None
    media_type: str = ""
    text: str = ""
    body: JsonValue = None
    problem: str | None = None

    def value(self, *path: str) -> JsonValue:
        """Return the value at a path of keys, None if there is none."""
        found = self.body
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def word(self, *path: str) -> str | None:
        """Return the text at a path of keys, None if there is none or it is empty."""
        found = self.value(*path)
        return found if isinstance(found, str) and found else None

    def objects(self, key: str) -> list[dict[str, JsonValue]]:
        """Return the objects in the list under `key`."""
        found = self.value(key)
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

    @property
    def short(self) -> str:
        """Describe request and answer in one line of bounded length."""
        if self.status is None:
            return f"{self.request} → {self.problem}"
        text = " ".join(self.text.split())
        return f"{self.request} → {self.status} {text[:_SHOWN]}{'…' * (len(text) > _SHOWN)}".strip()


class WesProbe:
    """Sends requests to paths below `base`, with `token` as a bearer token.

    `answers` collects all answers of the API, in the order of their requests.
    """

    def __init__(
        self, session: aiohttp.ClientSession, base: URL, token: str | None, limits: ProbeLimits
    ) -> None:
        self.base = base
        self.answers: list[Answer] = []
        self._session = session
        self._token = token
        self._limits = limits
        self._timeouts = 0
        self._deadline = asyncio.get_running_loop().time() + limits.total

    @property
    def given_up(self) -> str:
        """Why no more requests are sent; "" while requests are sent."""
        if self._timeouts >= self._limits.silent:
            return f"not sent, after {self._timeouts} requests in a row without an answer"
        if asyncio.get_running_loop().time() > self._deadline:
            return "not sent, because the server took too long for the earlier requests"
        return ""

    async def ask(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str] | None = None,
        form: aiohttp.FormData | None = None,
        token: str | None = None,
    ) -> Answer:
        """Send a request. `path` has its parts, unquoted. `token` replaces the own one, "" by none.

        Redirects are not followed: the specification has none.
        """
        parts = "/".join(quote(part, safe="") for part in path)
        question = f"?{'&'.join(f'{key}={value}' for key, value in query.items())}" if query else ""
        answer = await self._send(
            method,
            URL(f"{str(self.base).rstrip('/')}/{parts}", encoded=True).update_query(query or {}),
            f"{method} /{parts}{question}"[:_SHOWN],
            form=form,
            token=self._token if token is None else token,
        )
        self.answers.append(answer)
        return answer

    async def fetch(self, url: str) -> Answer:
        """GET an absolute URL from an answer. Credentials go to the server's own origin only."""
        request = f"GET {url[:_SHOWN]}"
        try:
            parsed = URL(url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                return Answer(request, problem="it is not an http or https URL")
            own = parsed.origin() == self.base.origin()
        except ValueError:
            return Answer(request, problem="it is not a URL")
        token = self._token if own else None
        if self._token and not own:
            request += " (of another origin, so without the token)"
        return await self._send("GET", parsed, request, token=token, is_json=False)

    async def _send(
        self,
        method: str,
        url: URL,
        request: str,
        *,
        form: aiohttp.FormData | None = None,
        token: str | None = None,
        is_json: bool = True,
    ) -> Answer:
        """Send a request and read its answer. `request` describes it in reports."""
        if reason := self.given_up:
            return Answer(request, problem=reason)
        headers = {"User-Agent": f"wesemu-conformance/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with self._session.request(
                method,
                url,
                data=form,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._limits.seconds),
                allow_redirects=not is_json,
                # aiohttp would name a type for a POST without a body
                skip_auto_headers=("Content-Type",) if form is None else (),
            ) as response:
                content, complete = await self._read(response)
        except TimeoutError:
            self._timeouts += 1
            return Answer(request, problem=f"no complete answer in {self._limits.seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(request, problem=network_reason(error))
        self._timeouts = 0
        text = content[:_KEPT].decode(errors="replace")
        problem = None
        body: JsonValue = None
        if is_json and not complete:
            problem = f"the answer is longer than {self._limits.body} bytes"
        elif is_json:
            body, problem = _parse(content)
        return Answer(request, response.status, _media_type(response), text, body, problem)

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
        """Return the body up to the limit, and whether it is the whole body."""
        content = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            content += chunk
            if len(content) > self._limits.body:
                response.close()
                return bytes(content), False
        return bytes(content), True


def form_data(
    fields: Mapping[str, str], attachments: Sequence[tuple[str, bytes]] = ()
) -> aiohttp.FormData:
    """Return a multipart form. Names of attachments are sent as they are, with their folders."""
    form = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    for name, text in fields.items():
        form.add_field(name, text)
    for name, content in attachments:
        form.add_field(
            "workflow_attachment", content, filename=name, content_type="application/octet-stream"
        )
    return form


def _media_type(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _parse(content: bytes) -> tuple[JsonValue, str | None]:
    """Return a JSON value, or None and the reason why the content is not JSON.

    A value with half of a surrogate pair is rejected: it cannot be encoded in UTF-8.
    """
    try:
        value = json.loads(content.decode(), parse_constant=_refuse_constant)
        if b"\\ud" in content.lower():
            json.dumps(value, ensure_ascii=False).encode()
        return value, None
    except (ValueError, RecursionError) as error:
        return None, f"the answer is {json_reason(error)}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
