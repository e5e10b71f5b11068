"""Ports for servers that cannot choose one themselves, and for none at all."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserve_port() -> Iterator[int]:
    """Yield a port of 127.0.0.1 that no other program gets by chance.

    A server that sets SO_REUSEADDR, as nginx and asyncio do, can listen on it. Until then
    connections are refused.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
