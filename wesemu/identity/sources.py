"""Where an issuer's keys are read: by its discovery document, at a URL, or in a file."""

import asyncio
import json
from pathlib import Path

import aiohttp
from yarl import URL

from wesemu import __version__
from wesemu.identity.keys import KeySource
from wesemu.runs.model import JsonObject

_DISCOVERY = "/.well-known/openid-configuration"
_TIMEOUT_SECONDS = 5.0
_LONGEST = 1 << 20


def key_source(issuer: str, jwks: str) -> KeySource:
    """`jwks` is the URL of a key set or a file with one; empty: the issuer says where it is."""
    if not jwks:
        return DiscoveredKeys(issuer)
    return KeyUrl(jwks) if "://" in jwks else KeyFile(Path(jwks))


class KeyFile:
    """A JWK Set on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> JsonObject:
        return _parse(await asyncio.to_thread(self._path.read_bytes), str(self._path))

    async def close(self) -> None:
        """Nothing is open."""


class KeyUrl:
    """A JWK Set on the web. Redirects are not followed: the operator has named the place."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def read(self) -> JsonObject:
        return await self._get(self._url)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _get(self, url: str) -> JsonObject:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"wesemu/{__version__}", "Accept": "application/json"},
            )
        try:
            async with self._session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ValueError(f"{url} answered {answer.status}")
                content = bytearray()
                async for chunk in answer.content.iter_any():
                    content += chunk
                    if len(content) > _LONGEST:
                        raise ValueError(f"{url} sends more than {_LONGEST} bytes")
                return _parse(bytes(content), url)
        except TimeoutError as error:
            raise TimeoutError(f"{url} gave no answer within {_TIMEOUT_SECONDS:.0f} s") from error
        except aiohttp.ClientError as error:
            raise OSError(f"{url}: {error}") from error


class DiscoveredKeys(KeyUrl):
    """As OpenID Connect Discovery 1.0 has it: the issuer's document says where its keys are."""

    def __init__(self, issuer: str) -> None:
        super().__init__(issuer.rstrip("/") + _DISCOVERY)
        self._issuer = issuer

    async def read(self) -> JsonObject:
        document = await self._get(self._url)
        if document.get("issuer") != self._issuer:
            raise ValueError(
                f"{self._url} is of the issuer {str(document.get('issuer'))[:200]!r}, not of "
                f"{self._issuer!r}"
            )
        return await self._get(_usable(str(document.get("jwks_uri")), self._issuer))


def _usable(url: str, issuer: str) -> str:
    """What was asked for safely is not gone on with unsafely."""
    schemes = ("https",) if URL(issuer).scheme == "https" else ("https", "http")
    if URL(url).scheme not in schemes:
        raise ValueError(f"the issuer's jwks_uri is {url[:200]!r}, no {' or '.join(schemes)} URL")
    return url


def _parse(content: bytes, place: str) -> JsonObject:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{place} holds no JSON object")
    return document
