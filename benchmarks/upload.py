"""Uploads of a large file: PutObject and a WES attachment, compared with a bare socket."""

import hashlib
import hmac
import http.client
import multiprocessing
import os
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

from benchmarks.figures import median, ratio
from benchmarks.options import Options
from benchmarks.processes import cpu_seconds_of, memory_bytes
from benchmarks.report import Report, Row, at_least, figure
from benchmarks.rounds import Samples, in_turns
from benchmarks.server import Server, fresh, serving

RAW, OSS, WES = "bare socket", "PutObject", "WES attachment"
_ROUNDS = 5
_MEBIBYTE = 1 << 20
_SIZE = 500 * _MEBIBYTE
_BLOCK = bytes(range(256)) * (_MEBIBYTE // 256)
_SHARE_OF_RAW = 0.8
_BOUNDARY = "x" * 30
_PART = "Content-Disposition: form-data; name="
_BUCKET = "bench"


def measure(options: Options) -> Report:
    """Measure in turns. The bare socket writes and syncs what it receives, and hashes nothing."""
    data = fresh(options.work / "upload")
    (data / "buckets" / _BUCKET).mkdir(parents=True)
    cpu: dict[str, list[float]] = {OSS: [], WES: []}

    def counted(name: str, send: Callable[[], object]) -> None:
        before = cpu_seconds_of(server.pid)
        send()
        cpu[name].append(cpu_seconds_of(server.pid) - before)

    with serving(data) as server, _sink(data / "raw") as port:
        server.wes.wait_until_ready()
        variants: dict[str, Callable[[], object]] = {
            RAW: lambda: _send_raw(port),
            OSS: lambda: counted(OSS, lambda: _put_object(server)),
            WES: lambda: counted(WES, lambda: _attach(server)),
        }
        before = memory_bytes([server.pid])
        samples = in_turns(variants, options.rounds or _ROUNDS)
        growth = memory_bytes([server.pid]) - before
    rows = [row for name in variants for row in _rows(name, samples)]
    rows += [
        figure(f"{name}, CPU of the server for a MiB", _ms_per_mebibyte(seconds), unit="ms")
        for name, seconds in cpu.items()
    ]
    rows.append(figure("memory of the server, after all - before", growth / _MEBIBYTE, unit="MiB"))
    return Report(
        f"upload: {_SIZE // _MEBIBYTE} MiB",
        rows,
        {name: each.wall for name, each in samples.items()},
    )


def _rows(name: str, samples: dict[str, Samples]) -> Iterator[Row]:
    speed = _SIZE / _MEBIBYTE / median(samples[name].wall)
    yield figure(f"{name}, median", speed, unit="MiB/s", digits=0)
    if name != RAW:
        # the ratio of speeds is that of the times, turned over
        share = ratio(samples[RAW].wall, samples[name].wall)
        yield at_least(f"{name} / {RAW}", share, _SHARE_OF_RAW, unit="x")


def _ms_per_mebibyte(seconds: list[float]) -> float:
    return 1000 * median(seconds) * _MEBIBYTE / _SIZE


@contextmanager
def _sink(target: Path) -> Iterator[int]:
    """Run a process that writes each connection to `target`. Yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = multiprocessing.get_context("fork").Process(
            target=_receive_raw, args=(listening, target), daemon=True
        )
        process.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            process.terminate()
            process.join()


def _receive_raw(listening: socket.socket, target: Path) -> None:
    buffer = bytearray(_MEBIBYTE)
    while True:
        connection, _ = listening.accept()
        with connection, target.open("wb", buffering=0) as file:
            while size := connection.recv_into(buffer):
                file.write(memoryview(buffer)[:size])
            os.fsync(file.fileno())
            connection.sendall(b"done")


def _send_raw(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(_SIZE // _MEBIBYTE):
            connection.sendall(_BLOCK)
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(4) != b"done":
            raise RuntimeError("the bare socket lost the upload")


def _put_object(server: Server) -> None:
    date = formatdate(usegmt=True)
    text = f"PUT\n\n\n{date}\n/{_BUCKET}/large"
    digest = hmac.new(b"secret", text.encode(), hashlib.sha1).digest()
    headers = {"Date": date, "Authorization": f"OSS id:{b64encode(digest).decode()}"}
    _send(server, "PUT", f"/{_BUCKET}/large", headers, b"", b"")


def _attach(server: Server) -> None:
    """Send a run with the attachment that is refused after it was received, and so removed."""
    head = f'--{_BOUNDARY}\r\n{_PART}"workflow_attachment"; filename="large"\r\n\r\n'
    fields = {"workflow_url": "missing.smk", "workflow_type": "SMK", "workflow_type_version": "9"}
    tail = "".join(
        f'\r\n--{_BOUNDARY}\r\n{_PART}"{name}"\r\n\r\n{value}' for name, value in fields.items()
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    end = f"{tail}\r\n--{_BOUNDARY}--\r\n".encode()
    _send(server, "POST", "/ga4gh/wes/v1/runs", headers, head.encode(), end, expected=400)


def _send(
    server: Server,
    method: str,
    path: str,
    headers: dict[str, str],
    head: bytes,
    tail: bytes,
    *,
    expected: int = 200,
) -> None:
    connection = http.client.HTTPConnection(server.wes.host, server.wes.port, timeout=600)
    connection.putrequest(method, path)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(head) + _SIZE + len(tail)))
    connection.endheaders(head or None)
    for _ in range(_SIZE // _MEBIBYTE):
        connection.sock.sendall(_BLOCK)
    connection.sock.sendall(tail)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    if response.status != expected:
        raise RuntimeError(f"{method} {path}: {response.status} {text}")
