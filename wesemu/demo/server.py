"""A `wesemu serve` of one's own, as a process."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from wesemu.errors import SystemFault

_START_SECONDS = 60
_STOP_SECONDS = 15


@asynccontextmanager
async def running(data: Path, settings: Mapping[str, str]) -> AsyncIterator[str]:
    """The URL of a server on a free port over `data`; it ends with the context, its runs too.

    What it says goes to `server.log` in `data`. It takes no settings from the environment or
    from a wesemu.toml but `settings`, variables. Raises SystemFault where it does not start.
    """
    log = data / "server.log"
    process = await _start(data, log, settings)
    try:
        yield await _url(process, log)
    finally:
        await _stop(process)


async def _start(data: Path, log: Path, settings: Mapping[str, str]) -> Process:
    # a session of its own: Ctrl-C in the terminal reaches the demo, which ends the server
    with log.open("ab") as talk:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "wesemu.cli",
            "serve",
            "--port=0",
            f"--data={data}",
            cwd=data,
            env={name: value for name, value in os.environ.items() if name[:7] != "WESEMU_"}
            | dict(settings),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=talk,
            start_new_session=True,
        )


async def _url(process: Process, log: Path) -> str:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)
    except TimeoutError:
        line = b""
    if not line:
        told = await asyncio.to_thread(log.read_text, errors="replace")
        last = told.strip().rpartition("\n")[2] or "it said nothing"
        raise SystemFault(f"the server did not start: {last} (see {log})")
    return line.decode().strip()


async def _stop(process: Process) -> None:
    """Ask it to stop and wait; kill it when it takes too long or the wait is broken off."""
    try:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
