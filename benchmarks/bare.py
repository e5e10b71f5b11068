"""`python -m benchmarks.bare BYTES`: an aiohttp server whose only response has that many bytes."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from benchmarks.load import LOOPBACK
from benchmarks.server import Server, read_url, stop
from benchmarks.wes import Wes


@contextmanager
def serving_bare(size: int, folder: Path) -> Iterator[Server]:
    """Start this module as a process: what aiohttp itself needs for a response of `size` bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare", str(size)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Server(Wes(read_url(process)), process.pid, folder)
    finally:
        stop(process)


def main(size: int) -> None:
    text = "x" * size

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(text=text)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    with socket.create_server((LOOPBACK, 0)) as listener:
        print(f"http://{LOOPBACK}:{listener.getsockname()[1]}", flush=True)
        web.run_app(app, sock=listener, print=None, access_log=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
