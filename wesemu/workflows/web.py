"""Files of workflows from the web: small ones, from allowed places, within a time."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import aiohttp
from yarl import URL

from wesemu import __version__
from wesemu.errors import InvalidRequest
from wesemu.public_addresses import AddressGuard, AddressRefused, GuardedResolver
from wesemu.redaction import strike_urls
from wesemu.wording import network_reason

_ANSWER_SECONDS = 20.0
_REDIRECTS = 5
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_MEBIBYTE = 1 << 20


class FileMissing(InvalidRequest):
    """A web server says that there is no such file."""


class WorkflowWeb:
    """Gets what `guard` lets through, from hosts whose names fit `hosts` (with `*` for any
    letters). The session is opened when it is first needed."""

    def __init__(self, guard: AddressGuard, hosts: Sequence[str] = ("*",)) -> None:
        self._guard = guard
        self._hosts = [host.casefold() for host in hosts]
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, limit: int, accept: str = "*/*") -> tuple[bytes, str]:
        """The content, of at most `limit` bytes, and its media type.

        Raises InvalidRequest, naming the field workflow_url; FileMissing for a 404.
        """
        try:
            return await self._get(url, limit, accept)
        except AddressRefused as error:
            raise _refusal(url, str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if isinstance(error.__cause__, AddressRefused):
                raise _refusal(url, str(error.__cause__)) from error
            raise _refusal(url, f"it cannot be fetched: {network_reason(error)}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _get(self, url: str, limit: int, accept: str) -> tuple[bytes, str]:
        """Redirects are followed here: each place has to be one that may be gone to."""
        place = url
        for _ in range(_REDIRECTS + 1):
            self._check(place)
            async with self._opened().get(
                place, allow_redirects=False, headers={"Accept": accept}
            ) as answer:
                if answer.status not in _REDIRECTED:
                    return await _content(answer, url, limit), answer.content_type
                leads = answer.headers.get("Location", "")
            goal = URL(place).join(URL(leads))
            if URL(place).scheme == "https" and goal.scheme != "https":
                raise AddressRefused("it is redirected from https to what is not")
            place = str(goal)
        raise AddressRefused(f"it is redirected more than {_REDIRECTS} times")

    def _check(self, url: str) -> None:
        self._guard.check(url)
        host = (URL(url).host or "").casefold()
        if not any(fnmatchcase(host, pattern) for pattern in self._hosts):
            raise AddressRefused(
                f"this server fetches no workflows from {host}; the setting workflows.hosts can "
                "allow it"
            )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=GuardedResolver(self._guard)),
                timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"wesemu/{__version__}"},
            )
        return self._session


async def _content(answer: aiohttp.ClientResponse, url: str, limit: int) -> bytes:
    if answer.status in (404, 410):
        raise FileMissing(f"workflow_url: there is no {shown(url)}", field="workflow_url")
    if answer.status != 200:
        raise _refusal(url, f"the web server answered {answer.status}")
    content = bytearray()
    async for chunk in answer.content.iter_any():
        content += chunk
        if len(content) > limit:
            raise _refusal(
                url, f"it is larger than {limit / _MEBIBYTE:.0f} MiB, too large for a workflow"
            )
    return bytes(content)


def _refusal(url: str, why: str) -> InvalidRequest:
    told = f"workflow_url {shown(url)}: {strike_urls(why)}"
    return InvalidRequest(told, field="workflow_url")


def shown(url: str) -> str:
    """In quotes, at most 200 letters, and without the credentials in it."""
    url = strike_urls(url)
    return repr(url if len(url) <= 200 else f"{url[:200]}…")
