"""The files of docs/operating: systemd unit, settings, nginx site, Grafana dashboard."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from support.nginx import NGINX, TEMPORARY
from support.ports import reserve_port

OPERATING = Path(__file__).resolve().parents[2] / "docs" / "operating"
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
SECONDS = 60
STATE = re.compile(r'"state": ?"(\w+)"')
MEBIBYTES_OF_READS = 8
MAIN = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    $TEMPORARY
    include {folder}/wesemu.conf;
}}
""".replace("$TEMPORARY", TEMPORARY)


@pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    assert SYSTEMD_ANALYZE is not None
    unit = (OPERATING / "wesemu.service").read_text(encoding="utf-8")
    assert "/opt/wesemu/bin/wesemu serve" in unit
    program = Path(sys.executable).parent / "wesemu"
    here = tmp_path / "wesemu.service"
    here.write_text(unit.replace("/opt/wesemu/bin/wesemu", str(program)), encoding="utf-8")
    done = subprocess.run(
        [SYSTEMD_ANALYZE, "verify", "--man=no", "--recursive-errors=no", here],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_server_reads_the_settings(wesemu) -> None:
    done = wesemu("config", "show", "--changed", "--config", OPERATING / "wesemu.toml")
    assert done.returncode == 0, done.stderr
    for setting in ("data", "log_format", "server.public_url", "retention.days"):
        assert f" {setting} " in done.stdout


# nginx


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    with reserve_port() as plain, reserve_port() as tls:
        yield plain, tls


@pytest.fixture
def site(
    serve, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """Yield the addresses of nginx with docs/operating/nginx.conf before a server: TLS, plain."""
    if NGINX is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not installed")
    plain, tls = ports
    monkeypatch.setenv("WESEMU_AUTH__TOKENS", '{"secret": "ada"}')
    monkeypatch.setenv("WESEMU_WORKFLOWS__OWNERS", '["ada"]')
    monkeypatch.setenv("WESEMU_SERVER__PUBLIC_URL", f"https://127.0.0.1:{tls}")
    server = serve()
    certificate = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=wes.example.org "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {tmp_path}/key.pem -out {tmp_path}/cert.pem"
    )
    subprocess.run(certificate.split(), check=True, capture_output=True, timeout=SECONDS)
    text = (OPERATING / "nginx.conf").read_text(encoding="utf-8")
    for written, here in {
        "127.0.0.1:8070": server.url.removeprefix("http://"),
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl;": f"listen 127.0.0.1:{tls} ssl;",
        "/etc/wesemu/tls/fullchain.pem": f"{tmp_path}/cert.pem",
        "/etc/wesemu/tls/privkey.pem": f"{tmp_path}/key.pem",
    }.items():
        assert text.count(written) == 1
        text = text.replace(written, here)
    (tmp_path / "wesemu.conf").write_text(text, encoding="utf-8")
    (tmp_path / "main.conf").write_text(MAIN.format(folder=tmp_path), encoding="utf-8")
    nginx = subprocess.Popen([NGINX, "-p", tmp_path, "-c", tmp_path / "main.conf"])
    try:
        wait_for(tls, nginx)
        yield f"https://127.0.0.1:{tls}", f"http://127.0.0.1:{plain}"
    finally:
        nginx.terminate()
        nginx.wait(SECONDS)


def wait_for(port: int, nginx: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
        except OSError:
            assert nginx.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def test_nginx_passes_uploads_events_and_downloads(site: tuple[str, str], tmp_path: Path) -> None:
    url, _ = site
    trust = ssl.create_default_context(cafile=tmp_path / "cert.pem")

    def call(path: str, body: bytes | None = None, method: str | None = None, **headers: str):
        sent = {"Authorization": "Bearer secret", **headers}
        address = path if path.startswith("https:") else url + path
        request = urllib.request.Request(address, body, sent, method=method)
        return urllib.request.urlopen(request, timeout=SECONDS, context=trust)

    reads = bytes(range(256)) * (MEBIBYTES_OF_READS << 12)
    call("/oss/genes/", method="PUT").close()
    call("/oss/genes/reads.fq", reads, "PUT").close()
    with call("/oss/genes/reads.fq") as answer:
        assert answer.read() == reads

    wait = "until [ -e go ]; do sleep 0.05; done; cp {workflow.basedir}/big copy"
    snakefile = f'rule all:\n    output: "copy"\n    shell: "{wait}"\n'
    body, content_type = form({"Snakefile": snakefile.encode(), "big": reads})
    with call("/ga4gh/wes/v1/runs", body, **{"Content-Type": content_type}) as answer:
        run_id = json.load(answer)["run_id"]
    run = f"/ga4gh/wes/v1/runs/{run_id}"
    with call(f"{run}/events") as stream:
        states = (found[1] for line in stream if (found := STATE.search(line.decode())))
        assert "RUNNING" in states  # the event is here while the run waits for the file
        (tmp_path / "data" / "runs" / run_id / "work" / "go").touch()
        assert "COMPLETE" in states
    with call(run) as answer:
        output = json.load(answer)["outputs"]["copy"]["url"]
    assert output.startswith(f"{url}/")
    with call(output, Range="bytes=256-511") as answer:
        assert (answer.status, answer.read()) == (206, bytes(range(256)))


def test_nginx_opens_neither_the_controls_nor_a_way_without_a_token(
    site: tuple[str, str], tmp_path
):
    url, plain = site
    trust = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    for path in ("/_wesemu/metrics", "/ga4gh/wes/v1/runs"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url + path, timeout=SECONDS, context=trust)
        assert refused.value.code == 401
        refused.value.close()
    with socket.create_connection(("127.0.0.1", int(plain.rpartition(":")[2]))) as client:
        client.sendall(b"GET /a HTTP/1.1\r\nHost: wes.example.org\r\nConnection: close\r\n\r\n")
        answer = client.makefile().read()
    assert "301" in answer.splitlines()[0]
    assert "Location: https://wes.example.org/a" in answer


def form(files: dict[str, bytes]) -> tuple[bytes, str]:
    """Return the body and the content type of a request that submits `Snakefile` of these files."""
    fields = {
        "workflow_type": "SMK",
        "workflow_type_version": "9",
        "workflow_url": "Snakefile",
    }
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
        for name, text in fields.items()
    ]
    for name, content in files.items():
        head = f'name="workflow_attachment"; filename="{name}"'
        parts.append(f"--b\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode())
        parts += [content, b"\r\n"]
    return b"".join([*parts, b"--b--\r\n"]), "multipart/form-data; boundary=b"


# Grafana

METRIC = re.compile(r"\b(wesemu_\w+)(\{[^}]*\})?")
LABELS = re.compile(r"(\w+)=~?\"")


def queries() -> list[str]:
    board = json.loads((OPERATING / "grafana-dashboard.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


async def test_the_dashboard_asks_only_for_metrics_of_the_server(
    client: TestClient[web.Request, web.Application],
) -> None:
    text = await (await client.get("/_wesemu/metrics")).text()
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    names = set(kinds)
    for name, kind in kinds.items():
        if kind in ("histogram", "summary"):
            names |= {f"{name}_sum", f"{name}_count"}
            names -= {name}
        if kind == "histogram":
            names.add(f"{name}_bucket")
    asked = {name for query in queries() for name, _ in METRIC.findall(query)}
    assert asked - names == set()
    assert {"wesemu_runs", "wesemu_run_seconds_bucket", "wesemu_disk_free_bytes"} <= asked


def test_the_dashboard_asks_only_for_labels_that_the_metrics_have() -> None:
    page = (OPERATING.parent / "control.md").read_text(encoding="utf-8")
    labels = dict(re.findall(r"`(wesemu_\w+)(?:\{([\w,]+)\})?`", page))
    for query in queries():
        [name, *_] = [name for name, _ in METRIC.findall(query)]
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        known = {"instance", "le", *labels[family].split(",")}
        used = {label for _, braces in METRIC.findall(query) for label in LABELS.findall(braces)}
        grouped = {
            label.strip()
            for group in re.findall(r"by \(([^)]*)\)", query)
            for label in group.split(",")
        }
        assert used | grouped <= known, query


def test_each_panel_has_its_place() -> None:
    board = json.loads((OPERATING / "grafana-dashboard.json").read_text(encoding="utf-8"))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board["panels"]}) == len(places)
