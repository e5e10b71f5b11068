"""Callbacks: who asked for it is told of each state of a run, by a signed POST.

Sent as Standard Webhooks (https://www.standardwebhooks.com) has it. Nothing waits for a callback:
messages lie in the index until they are taken, through restarts, too.
"""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import structlog

from wesemu import __version__
from wesemu.errors import InvalidRequest
from wesemu.runs.clock import Clock
from wesemu.runs.database import Database
from wesemu.runs.model import Run, RunId, RunState
from wesemu.util.ssrf import AddressGuard, AddressRefused, GuardedResolver
from wesemu.util.text import network_reason

# Changes of state that somebody asked to be told of, until they have been told.


@dataclass(frozen=True, slots=True)
class Message:
    """A run's state for `url`. `number` grows from message to message, `moved` is when it
    happened (ISO 8601, UTC, wall clock), `due` when to try next (Unix time)."""

    number: int
    run_id: RunId
    url: str
    state: RunState
    moved: str
    attempts: int
    due: float


class Outbox:
    """Filled by the index itself, in the transaction that moves a run
    (`RunRequest.marks["callback_url"]`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def waiting(self, limit: int) -> list[Message]:
        """The oldest message of each run, those that are due first at the front."""
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
        """One more attempt has failed."""
        await self._database.write(
            "UPDATE callbacks SET attempts = attempts + 1, due = :due WHERE number = :number",
            {"number": message.number, "due": due},
        )


DELAYS = (1.0, 5.0, 30.0, 120.0, 600.0, 1800.0)
"""Seconds from each failed attempt to the next; a message that fails once more is dropped."""

_AT_ONCE = 16
_TIMEOUT_SECONDS = 10.0
_TROUBLE_SECONDS = 30.0
_GONE = 410

log = structlog.get_logger("wesemu.runs.webhooks")


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """`webhook-signature`: HMAC-SHA256 over id, time and body, with the scheme's version.

    A secret that begins with `whsec_` is base64 after it, any other is taken as it is written.
    """
    key = secret.encode()
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


class Callbacks:
    """Empties an outbox; the messages of one run in their order, those of different runs at once.

    `clock` is the wall clock. Without a `secret` messages are not signed.
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
        self._bell = asyncio.Event()
        self._sending: dict[RunId, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Begin with what an earlier server has left."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=GuardedResolver(self._guard), force_close=True),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"wesemu/{__version__}"},
        )
        self._bell.set()
        self._loop = asyncio.create_task(self._serve(self._session), name="callbacks")

    async def close(self) -> None:
        """Stop; what has not arrived is sent by the next server. Idempotent."""
        tasks = [*self._sending.values(), *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def check(self, url: str) -> None:
        """Raises InvalidRequest for a callback_url to which nothing would be sent."""
        try:
            self._guard.check(url)
        except AddressRefused as error:
            raise InvalidRequest(
                f"the engine parameter callback_url is {url[:80]!r}: {error}",
                field="workflow_engine_parameters.callback_url",
            ) from error

    def moved(self, run: Run) -> None:
        """A run has another state; for `RunStore.watch`."""
        if "callback_url" in run.request.marks:
            self._bell.set()

    async def _serve(self, session: aiohttp.ClientSession) -> None:
        while True:
            self._bell.clear()
            try:
                due = await self._send_what_is_due(session)
            except Exception:
                log.exception("callbacks could not be sent")
                due = self._now() + _TROUBLE_SECONDS
            await self._sleep(due)

    async def _send_what_is_due(self, session: aiohttp.ClientSession) -> float | None:
        """Returns when to look again, None for when the bell rings."""
        busy = set(self._sending)  # may be done when the index answers, with what was read before
        for message in await self._outbox.waiting(_AT_ONCE * 2):
            if message.run_id in busy:
                continue
            if len(self._sending) >= _AT_ONCE:
                return None
            if message.due > self._now():
                return message.due
            task = asyncio.create_task(
                self._send(session, message), name=f"callback {message.number}"
            )
            self._sending[message.run_id] = task
        return None

    async def _sleep(self, due: float | None) -> None:
        """Until the bell rings, or until `due`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - self._now())):
                await self._bell.wait()

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
            log.exception("the index does not keep a callback's fate", number=message.number)
            await asyncio.sleep(_TROUBLE_SECONDS)
        finally:
            del self._sending[message.run_id]
            self._bell.set()

    async def _attempt(
        self, session: aiohttp.ClientSession, message: Message
    ) -> tuple[str | None, bool]:
        """What went wrong, if anything, and whether it will go wrong again."""
        try:
            self._guard.check(message.url)
            async with session.post(
                message.url,
                data=(body := _body(message)),
                headers=self._headers(message, body),
                allow_redirects=False,
            ) as answer:
                if answer.ok and answer.status < 300:
                    return None, True
                return f"answered {answer.status}", answer.status == _GONE
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
        "a callback is given up",
        run_id=message.run_id,
        state=message.state,
        attempts=message.attempts + 1,
        problem=problem,
    )


def _body(message: Message) -> bytes:
    told = {
        "type": "run.state",
        "timestamp": message.moved,
        "data": {"run_id": message.run_id, "state": message.state.value},
    }
    return json.dumps(told, separators=(",", ":")).encode()
