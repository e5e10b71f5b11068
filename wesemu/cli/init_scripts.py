"""The scripts of `wesemu serve --init DIR`: programs that run before the server is ready."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from wesemu.cli.output import CommandRefused, ExitStatus

_END_SECONDS = 2.0
"""Time for a script to end after SIGTERM."""


def find_scripts(folder: Path | None) -> list[Path]:
    """Return the programs in the folder of the setting `init`, in the order of their names.

    Raises CommandRefused for a folder that is missing, and for a file that is not a program.
    """
    if folder is None:
        return []
    if not folder.is_dir():
        raise CommandRefused(f"--init: there is no folder {folder}", ExitStatus.USAGE)
    scripts = [each for each in sorted(folder.iterdir()) if each.is_file()]
    scripts = [each.absolute() for each in scripts if not each.name.startswith(".")]
    for script in scripts:
        if not os.access(script, os.X_OK):
            raise CommandRefused(
                f"--init: {script} is not executable; type 'chmod +x {script}'", ExitStatus.USAGE
            )
    return scripts


async def run_scripts(
    scripts: list[Path], variables: dict[str, str], stopped: asyncio.Event
) -> None:
    """Run the scripts one after another, with their output on stderr.

    Return when the server is to stop. Raises CommandRefused for a script that fails.
    """
    for script in scripts:
        process = await asyncio.create_subprocess_exec(
            script,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        waiting = asyncio.create_task(process.wait(), name=f"init script {script.name}")
        stopping = asyncio.create_task(stopped.wait(), name="stop of the server")
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not waiting.done():
            await _end_script(process.pid, waiting)
            return
        if process.returncode:
            raise CommandRefused(
                f"the init script {script} ended with status {process.returncode}",
                ExitStatus.MACHINE,
            )


async def _end_script(group: int, waiting: "asyncio.Task[int]") -> None:
    """Send SIGTERM to the process group of a script, and SIGKILL if that does not end it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        await asyncio.wait({waiting}, timeout=_END_SECONDS)
        if waiting.done():
            return
