"""Callbacks: a signed POST to the `callback_url` of a run for each of its states.

The format is Standard Webhooks (https://www.standardwebhooks.com). Messages stay in the index
(`Outbox`) until they are delivered, also over restarts; runs never wait for them.
"""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import structlog

from wesemu import __version__
from wesemu.errors import InvalidRequest
from wesemu.runs.clock import Clock
from wesemu.runs.database import Database
from wesemu.runs.model import Run, RunId, RunState
from wesemu.util.ssrf import AddressGuard, AddressRefused, GuardedResolver
from wesemu.util.text import network_reason


@dataclass(frozen=True, slots=True)
class Message:
    """One state change of a run for `url`.

    `number` ascends. `moved` is the time of the change (ISO 8601, UTC, wall clock), `due` the time
    of the next attempt (Unix time).
    """

    number: int
    run_id: RunId
    url: str
    state: RunState
    moved: str
    attempts: int
    due: float


class Outbox:
    """Undelivered messages. A trigger in the index adds them in the transaction that moves a run
    with a `callback_url`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def waiting(self, limit: int) -> list[Message]:
        """Return the oldest message of each run, ordered by due time."""
        rows = await self._database.rows(
            "SELECT * FROM callbacks WHERE number IN "
            "(SELECT min(number) FROM callbacks GROUP BY run_id) ORDER BY due, number LIMIT ?",
            [limit],
        )
        return [Message(**row | {"state": RunState(row["state"])}) for row in rows]

    async def remove(self, message: Message) -> None:
        await self._database.write(
            "DELETE FROM callbacks WHERE number = :number", {"number": message.number}
        )

    async def postpone(self, message: Message, due: float) -> None:
        """Count a failed attempt and set the time of the next one."""
        await self._database.write(
            "UPDATE callbacks SET attempts = attempts + 1, due = :due WHERE number = :number",
            {"number": message.number, "due": due},
        )


DELAYS = (1.0, 5.0, 30.0, 120.0, 600.0, 1800.0)
"""Seconds after each failed attempt; a message that fails once more is dropped."""

_AT_ONCE = 16
_TIMEOUT_SECONDS = 10.0
_ERROR_PAUSE_SECONDS = 30.0

log = structlog.get_logger("wesemu.runs.webhooks")


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: version and HMAC-SHA256 of id, time and body.

    A secret that begins with `whsec_` continues in base64; any other secret is plain text.
    """
    key = secret.encode()
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


class Callbacks:
    """Delivers the messages of an outbox: in order within a run, in parallel across runs.

    `clock` is the wall clock. Without a `secret`, messages are not signed.
    """

    def __init__(
        self,
        outbox: Outbox,
        guard: AddressGuard,
        clock: Clock,
        *,
        secret: str = "",
        delays: Sequence[float] = DELAYS,
    ) -> None:
        self._outbox = outbox
        self._guard = guard
        self._clock = clock
        self._secret = secret
        self._delays = delays
        self._wake = asyncio.Event()
        self._sending: dict[RunId, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Start delivery, including the messages of earlier servers."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=GuardedResolver(self._guard), force_close=True),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"wesemu/{__version__}"},
        )
        self._wake.set()
        self._loop = asyncio.create_task(self._serve(self._session), name="callbacks")

    async def close(self) -> None:
        """Stop delivery; the next server sends the remaining messages. Idempotent."""
        tasks = [*self._sending.values(), *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def check(self, url: str) -> None:
        """Raise InvalidRequest for a callback_url that the address guard refuses."""
        try:
            self._guard.check(url)
        except AddressRefused as error:
            raise InvalidRequest(
                f"{url[:80]!r}: {error}", field="workflow_engine_parameters.callback_url"
            ) from error

    def moved(self, run: Run) -> None:
        """Look for messages: the run has another state. A callback for `RunStore.watch`."""
        if run.request.callback_url is not None:
            self._wake.set()

    async def _serve(self, session: aiohttp.ClientSession) -> None:
        while True:
            self._wake.clear()
            try:
                due = await self._send_due(session)
            except Exception:
                log.exception("sending callbacks failed")
                due = self._now() + _ERROR_PAUSE_SECONDS
            await self._sleep(due)

    async def _send_due(self, session: aiohttp.ClientSession) -> float | None:
        """Start to send due messages. Return when to look again; None: when `_wake` is set."""
        # Taken before the query: a message that is delivered during the query is still among its
        # rows and must not be sent twice.
        busy = set(self._sending)
        for message in await self._outbox.waiting(_AT_ONCE * 2):
            if message.run_id in busy:
                continue
            if len(self._sending) >= _AT_ONCE:
                return None
            left = message.due - self._now()
            if 0 < left <= self._delays[message.attempts - 1]:  # more: the clock was set back
                return message.due
            task = asyncio.create_task(
                self._send(session, message), name=f"callback {message.number}"
            )
            self._sending[message.run_id] = task
        return None

    async def _sleep(self, due: float | None) -> None:
        """Wait for `_wake`, at most until `due`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - self._now())):
                await self._wake.wait()

    async def _send(self, session: aiohttp.ClientSession, message: Message) -> None:
        try:
            problem, final = await self._attempt(session, message)
            if problem is None:
                await self._outbox.remove(message)
            elif final or message.attempts >= len(self._delays):
                _give_up(message, problem)
                await self._outbox.remove(message)
            else:
                delay = self._delays[message.attempts]
                await self._outbox.postpone(message, self._now() + delay)
        except Exception:
            log.exception("recording a callback in the index failed", number=message.number)
            await asyncio.sleep(_ERROR_PAUSE_SECONDS)
        finally:
            del self._sending[message.run_id]
            self._wake.set()

    async def _attempt(
        self, session: aiohttp.ClientSession, message: Message
    ) -> tuple[str | None, bool]:
        """Return the problem (None: delivered) and whether further attempts are useless."""
        try:
            self._guard.check(message.url)
            async with session.post(
                message.url,
                data=(body := _body(message)),
                headers=self._headers(message, body),
                allow_redirects=False,
            ) as response:
                if response.ok and response.status < 300:
                    return None, True
                return f"answered {response.status}", response.status == HTTPStatus.GONE
        except AddressRefused as error:
            return str(error), True
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            refused = isinstance(error.__cause__, AddressRefused)
            return network_reason(error), refused

    def _headers(self, message: Message, body: bytes) -> dict[str, str]:
        message_id = f"{message.run_id}.{message.number}"
        timestamp = int(self._now())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
        }
        if self._secret:
            headers["webhook-signature"] = signature(self._secret, message_id, timestamp, body)
        return headers

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _give_up(message: Message, problem: str) -> None:
    log.warning(
        "callback given up",
        run_id=message.run_id,
        state=message.state,
        attempts=message.attempts + 1,
        problem=problem,
    )


def _body(message: Message) -> bytes:
    payload = {
        "type": "run.state",
        "timestamp": message.moved,
        "data": {"run_id": message.run_id, "state": message.state.value},
    }
    return json.dumps(payload, separators=(",", ":")).encode()
