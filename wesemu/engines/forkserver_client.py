"""Client of a forkserver in the server: starts it on demand, and again after its death."""

import asyncio
import json
import logging
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wesemu.engines.execution import Reply
from wesemu.errors import EngineFault
from wesemu.util.text import os_sentence

_MESSAGE_LIMIT = 1 << 16
_FORKSERVER = """
import json, socket, sys
try:
    from wesemu.engines.forkserver import main
except BaseException as error:
    message = {"failed": f"{type(error).__name__}: {error}"[:1000]}
    socket.socket(fileno=int(sys.argv[1])).send(json.dumps(message).encode())
    raise
main()
"""
"""Program of the forkserver; reports if wesemu itself cannot be imported."""

_START_SECONDS = 60.0
_LAUNCH_SECONDS = 30.0

log = logging.getLogger("wesemu.engines")


class NotStarted(EngineFault):
    """The forkserver did not start. An immediate retry would fail as well."""


@dataclass(frozen=True, slots=True)
class ForkedPlan:
    """The process of a dry run, in its own process group. `wait` returns when it has ended."""

    pid: int
    exited: asyncio.Future[None]

    async def wait(self) -> None:
        await asyncio.shield(self.exited)


class ForkserverClient:
    """Manages one forkserver of an engine at a time. Launched runs do not depend on it.

    The forkserver imports the engine; `ahead` is what else it prepares (see `ForkServer`).
    """

    def __init__(
        self, engine: str, python: str, environment: Mapping[str, str], ahead: Sequence[str] = ()
    ) -> None:
        self._name = f"the forkserver of {engine}"
        self._command = [python, "-P", "-c", _FORKSERVER]
        self._arguments = [engine, *ahead]
        self._environment = environment
        self._starting: asyncio.Task[None] | None = None
        self._channel: socket.socket | None = None
        self._sending = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._replies = dict[int, asyncio.Future[Reply]]()
        self._exits = dict[int, asyncio.Future[None]]()
        self._last_id = 0
        self._reason = ""

    @property
    def pid(self) -> int | None:
        """Process id of the forkserver, or None without one."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Wait until the forkserver is ready. A cancellation does not stop its start.

        Logs and raises NotStarted; the next call tries again.
        """
        under_way = self._starting is not None and not self._starting.done()
        if self._starting is None or not (under_way or self._channel is not None):
            self._starting = asyncio.create_task(self._start(), name="forkserver's start")
            self._starting.add_done_callback(_log_fault)
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        try:
            self._reason = ""
            await self._spawn()
            self._ready = asyncio.get_running_loop().create_future()
            self._reading = asyncio.create_task(self._read(), name="forkserver")
            async with asyncio.timeout(_START_SECONDS):
                await self._ready
        except TimeoutError:
            await self._end()
            raise NotStarted(f"{self._name} was not ready in time") from None
        except EngineFault:
            raise NotStarted(self._describe_death()) from None
        except Exception as error:
            self._disconnect()
            reason = os_sentence(error) if isinstance(error, OSError) else str(error)
            raise NotStarted(f"{self._name} cannot be started: {reason}") from error

    def _describe_death(self) -> str:
        """Return the error message, with the reason that the forkserver sent, if any."""
        reason = f": {self._reason}" if self._reason else "; see stderr of the server"
        return f"{self._name} died while it was starting{reason}"

    async def _spawn(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        spawning = asyncio.create_task(asyncio.to_thread(self._open_process, theirs.fileno()))
        try:
            self._process = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            self._process = await spawning  # `_end` needs the process
            raise
        finally:
            theirs.close()

    def _open_process(self, descriptor: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._command, str(descriptor), *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            env=dict(self._environment),
            start_new_session=True,
        )

    async def launch_with_retry(self, root: Path) -> Reply:
        """Call `launch`, at most twice: a forkserver may die between two launches.

        Logs and raises EngineFault; NotStarted without a second attempt.
        """
        for attempt in (1, 2):
            try:
                return await self.launch(root)
            except NotStarted:  # `start` has logged it
                raise
            except EngineFault as fault:
                log.warning("launch %d of run %s failed: %s", attempt, root.name, fault)
                failed = fault
        raise failed

    async def launch(self, root: Path) -> Reply:
        """Launch a run; return its announcement: {"pid", "identity"} or {"locked"}.

        Raises NotStarted; EngineFault if the forkserver or the run process died before the
        announcement. Kills a forkserver that does not answer in time.
        """
        await self.start()
        return await self._request(root, plan=False)

    async def plan(self, root: Path) -> ForkedPlan:
        """Start a dry run. Raises like `launch`."""
        await self.start()
        number = self._last_id + 1
        exited = self._exits[number] = asyncio.get_running_loop().create_future()
        try:
            reply = await self._request(root, plan=True)
        except BaseException:
            self._exits.pop(number, None)
            raise
        return ForkedPlan(int(reply["pid"]), exited)

    async def _request(self, root: Path, *, plan: bool) -> Reply:
        self._last_id += 1
        number = self._last_id
        if (channel := self._channel) is None:
            raise EngineFault(f"{self._name} has died")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()
        self._replies[number] = reply
        try:
            message = json.dumps({"id": number, "root": str(root), "plan": plan})
            async with asyncio.timeout(_LAUNCH_SECONDS):
                # asyncio has one writer for each socket: two that waited for a full socket would
                # displace each other
                async with self._sending:
                    await loop.sock_sendall(channel, message.encode())
                return await reply
        except TimeoutError:
            if self._channel is channel:
                await self._end()
            raise EngineFault(
                f"{self._name} has not answered within {_LAUNCH_SECONDS:.0f} seconds"
            ) from None
        except OSError as error:
            raise EngineFault(f"{self._name} does not answer: {error}") from error
        finally:
            self._replies.pop(number, None)

    async def _read(self) -> None:
        assert self._channel is not None
        loop = asyncio.get_running_loop()
        try:
            while content := await loop.sock_recv(self._channel, _MESSAGE_LIMIT):
                self._dispatch(json.loads(content))
        except ConnectionError:
            pass
        finally:
            self._disconnect()
        await self._reap()

    def _dispatch(self, message: Reply) -> None:
        if "ready" in message and self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        if "failed" in message:
            self._reason = str(message["failed"])
        if "exited" in message and (ended := self._exits.pop(message["id"], None)) is not None:
            ended.set_result(None)
        reply = self._replies.get(message.get("id", 0))
        if reply is None or reply.done():
            return
        if "exited" in message:
            reply.set_exception(EngineFault("the run process ended before its announcement"))
        else:
            reply.set_result(message)

    def _disconnect(self) -> None:
        """Close the channel and fail all waiting calls. The next launch starts a forkserver."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for exited in self._exits.values():
            exited.set_result(None)  # dry runs end with the forkserver
        self._exits.clear()
        waiting: list[asyncio.Future[Any]] = [*self._replies.values()]
        waiting += [self._ready] if self._ready else []
        for future in waiting:
            if not future.done():
                future.set_exception(EngineFault(f"{self._name} has died"))

    async def _reap(self) -> None:
        if (process := self._process) is not None:
            process.kill()
            await asyncio.to_thread(process.wait)
            if self._process is process:  # after the wait: if canceled, `close` reaps again
                self._process = None

    async def close(self) -> None:
        """End the forkserver, even during its start. Its runs continue."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
            self._starting = None
        await self._end()

    async def _end(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None
        self._disconnect()
        await self._reap()


def _log_fault(start: "asyncio.Task[None]") -> None:
    """Log the error of a start; all callers may have been canceled."""
    if not start.cancelled() and (fault := start.exception()) is not None:
        log.warning("%s", fault)
