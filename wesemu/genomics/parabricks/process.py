"""A running `pbrun`: its talk passed on and its end kept, and its end brought about."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

import psutil

_TAIL_BYTES = 65_536
_BLOCK = 8192
_STOP_SECONDS = 30
_KILL_SECONDS = 10.0


class Running:
    """One command. `container` is the name of its docker container, which does not end with the
    command that started it. Raises OSError where it cannot be started."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], container: str = ""
    ) -> None:
        self._container = container
        self._stopped = threading.Event()
        if container:  # of an attempt whose end nobody could see to
            _remove(container)
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            bufsize=0,
            # the GPU's lease is an open file, and stays taken as long as anybody has it
            close_fds=False,
        )

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def wait(self) -> tuple[int, str]:
        """Exit status (128 and more: a signal) and the last words."""
        assert self._process.stdout is not None
        tail = b""
        while block := self._process.stdout.read(_BLOCK):
            sys.stderr.buffer.write(block)
            sys.stderr.buffer.flush()
            tail = (tail + block)[-_TAIL_BYTES:]
        status = self._process.wait()
        self._process.stdout.close()
        return (status if status >= 0 else 128 - status), tail.decode(errors="replace")

    def stop(self) -> None:
        """End it, from any thread or signal handler; harmless for one that has ended."""
        self._stopped.set()
        if self._container:
            _remove(self._container)
        self._send(signal.SIGTERM)
        killer = threading.Timer(_KILL_SECONDS, self._send, [signal.SIGKILL])
        killer.daemon = True
        killer.start()

    def _send(self, number: signal.Signals) -> None:
        """To it and all that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            for each in (*process.children(recursive=True), process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(number)


def _remove(container: str) -> None:
    """SIGKILL and away; no such container is no fault."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["docker", "rm", "--force", container],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_STOP_SECONDS,
            check=False,
        )
