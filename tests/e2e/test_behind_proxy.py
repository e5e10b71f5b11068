"""A server behind a real nginx, and called by a page of another origin in a real chromium."""

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from api.admin.test_proxy import NGINX, proxy
from yarl import URL

WAIT_SECONDS = 60
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
FORWARDING = """proxy_http_version 1.1;
      proxy_buffering off;
      proxy_set_header Host $host:$server_port;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto https;
      proxy_set_header X-Forwarded-Host wes.example.org;"""

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (nginx-light)")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
__all__ = ["proxy"]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what `serve` reads from the environment."""

    def set_all(**values: object) -> None:
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            monkeypatch.setenv(f"WESEMU_{name}", text)

    return set_all


def ask(
    url: str, data: Any = None, headers: Mapping[str, str] | None = None, method: str | None = None
) -> tuple[int, Any]:
    body = None if data is None else json.dumps(data).encode()
    sent = {"Content-Type": "application/json", "Authorization": "Bearer secret", **(headers or {})}
    request = urllib.request.Request(url, body, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def behind(proxy: Any, url: str, more: str) -> str:
    """The URL of an nginx before the server at `url`, once it answers."""
    address: str = proxy(SimpleNamespace(port=URL(url).port), more)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            ask(f"{address}/_wesemu/health")
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return address


@needs_nginx
def test_addresses_are_those_of_the_client(serve, proxy, settings) -> None:
    settings(
        AUTH__TOKENS={"secret": "alice"},
        SERVER__TRUSTED_PROXIES=["127.0.0.0/8"],
        HOST="127.0.0.1",
    )
    server = serve()
    address = behind(proxy, server.url, FORWARDING)
    status, told = ask(f"{address}/ga4gh/wes/v1/runs", {"workflow_url": "mapping"})
    assert status == 400, told  # it has no parameters, and yet it came through
    status, told = ask(f"{address}/ga4gh/wes/v1/service-info")
    assert "https://wes.example.org/" in json.dumps(told)
    status, told = ask(f"{server.url}/ga4gh/wes/v1/service-info", headers={"Host": "direct:1"})
    assert "http://direct:1/" in json.dumps(told)
    refused = {"Authorization": "Bearer wrong", "X-Forwarded-For": "192.0.2.7"}
    assert ask(f"{address}/ga4gh/wes/v1/runs", headers=refused)[0] == 401
    assert ask(f"{address}/_wesemu/reset", {}, headers={"Authorization": ""})[0] == 401
    deadline = time.monotonic() + WAIT_SECONDS
    while "192.0.2.7" not in server.stderr:
        assert time.monotonic() < deadline, server.stderr
        time.sleep(0.05)


@needs_nginx
def test_events_pass_nginx_as_they_come(serve, proxy, settings) -> None:
    """With nginx's own buffering, which `X-Accel-Buffering: no` switches off."""
    settings(AUTH__TOKENS={"secret": "alice"}, AUTH__ADMIN_TOKEN="admin")
    server = serve()
    address = behind(proxy, server.url, "proxy_http_version 1.1;")
    request = urllib.request.Request(
        f"{address}/_wesemu/events", headers={"Authorization": "Bearer admin"}
    )
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as stream:
        assert stream.readline() == b":\n"


PAGE = """<!doctype html><meta charset="utf-8"><title>page</title><body><pre id="told">not yet</pre>
<script>
const told = {};
async function attempt(name, act) {
  try { told[name] = await act(); } catch (error) { told[name] = "failed: " + error.name; }
}
(async () => {
  const server = "SERVER", auth = {"Authorization": "Bearer secret"};
  await attempt("list", async () => {
    const answer = await fetch(server + "/ga4gh/wes/v1/runs", {headers: auth});
    return [answer.status, (await answer.json()).runs.length];
  });
  await attempt("refused", async () => {
    const body = JSON.stringify({workflow_url: "mapping"});
    const headers = {...auth, "Content-Type": "application/json"};
    const answer = await fetch(server + "/ga4gh/wes/v1/runs", {method: "POST", headers, body});
    return [answer.status, answer.headers.get("X-Request-Id") !== null];
  });
  await attempt("unknown", async () => {
    return (await fetch(server + "/ga4gh/wes/v1/runs")).status;
  });
  await attempt("part", async () => {
    const range = {...auth, "Range": "bytes=1-3"};
    const answer = await fetch(server + "/ga4gh/wes/v1/openapi.yaml", {headers: range});
    return [answer.status, answer.headers.get("Content-Range").split("/")[0]];
  });
  document.getElementById("told").textContent = JSON.stringify(told);
})();
</script>"""


@contextmanager
def site() -> Iterator[tuple[str, list[str]]]:
    """The page at an origin of its own; the server that it calls is put into the list."""
    servers: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = PAGE.replace("SERVER", servers[-1]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{pages.server_port}", servers
        finally:
            pages.shutdown()
            thread.join()


def look(url: str) -> dict[str, Any]:
    """What the page says once its calls are over."""
    assert CHROMIUM is not None
    # not below pytest's folder: the paths of chromium's sockets must be short
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--disable-dev-shm-usage", f"--user-data-dir={folder}", "--no-first-run"),
                *("--no-proxy-server", "--virtual-time-budget=60000", "--dump-dom", url),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": folder, "HOME": folder},
            text=True,
            timeout=2 * WAIT_SECONDS,
            check=True,
        )
    text = done.stdout.partition('<pre id="told">')[2].partition("</pre>")[0]
    told: dict[str, Any] = json.loads(text)
    return told


@pytest.mark.browser
@needs_nginx
@needs_chromium
@pytest.mark.parametrize("allowed", [True, False])
def test_a_page_of_another_origin_calls(serve, proxy, settings, allowed: bool) -> None:
    with site() as (origin, servers):
        settings(
            AUTH__TOKENS={"secret": "alice"},
            SERVER__TRUSTED_PROXIES=["127.0.0.0/8"],
            SERVER__CORS_ORIGINS=[origin if allowed else "https://portal.example.org"],
        )
        servers.append(behind(proxy, serve().url, "proxy_http_version 1.1;"))
        told = look(origin)
    if allowed:
        assert told == {
            "list": [200, 0],
            "refused": [400, True],
            "unknown": 401,
            "part": [206, "bytes 1-3"],
        }
    else:
        assert set(told.values()) == {"failed: TypeError"}
