"""A `wesemu serve` process for a module of tests, and runs through its WES API."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import quote

import pytest
import requests

ENDED = ("COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED")
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class LiveRun:
    """A run that has ended. `run_log` is its WES RunLog."""

    url: str
    folder: Path
    run_log: dict[str, Any]

    @property
    def state(self) -> str:
        return str(self.run_log["state"])

    @property
    def outputs(self) -> dict[str, Any]:
        return dict(self.run_log["outputs"])

    @property
    def partial(self) -> dict[str, Any]:
        return dict(self.run_log["wesemu"].get("partial_outputs", {}))

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.run_log["wesemu"].get("error", {}))

    @property
    def notes(self) -> str:
        return "\n".join(self.run_log["run_log"].get("system_logs", []))

    def content(self, name: str) -> bytes:
        """Return the content of an output."""
        output = {**self.outputs, **self.partial}[name]
        answer = requests.get(output["url"], timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
        assert len(answer.content) == output["size"]
        return answer.content

    def text(self, name: str) -> str:
        return self.content(name).decode()

    def log(self, name: str) -> str:
        answer = requests.get(f"{self.url}/{name}", timeout=TIMEOUT_SECONDS)
        return answer.content.decode(errors="replace")


class LiveServer:
    """A running server. `url` is the root of the WES API, `data` the data directory."""

    def __init__(self, url: str, data: Path) -> None:
        self.home = url
        self.url = f"{url}/ga4gh/wes/v1"
        self.data = data

    def post(
        self,
        kind: str,
        workflow: str,
        files: Mapping[str, str | bytes],
        *,
        params: Any = None,
        engine: Mapping[str, Any] | None = None,
        url: str | None = None,
    ) -> requests.Response:
        """Submit `workflow`, attached as `url` or with the usual name of its language."""
        names = {"SMK": "Snakefile", "CWL": "flow.cwl", "WDL": "flow.wdl"}
        versions = {"SMK": "9", "CWL": "v1.2", "WDL": "1.1"}
        name = url or names[kind]
        fields = {
            "workflow_type": kind,
            "workflow_type_version": versions[kind],
            "workflow_url": name,
            "workflow_params": json.dumps({} if params is None else params),
            "workflow_engine_parameters": json.dumps(dict(engine or {})),
        }
        attached = {name.partition("#")[0]: dedent(workflow).lstrip(), **files}
        parts = [
            (
                "workflow_attachment",
                (quote(path), text if isinstance(text, bytes) else text.encode()),
            )
            for path, text in attached.items()
        ]
        return requests.post(f"{self.url}/runs", data=fields, files=parts, timeout=TIMEOUT_SECONDS)

    def start(
        self, kind: str, workflow: str, files: Mapping[str, Any] | None = None, **more: Any
    ) -> str:
        answer = self.post(kind, workflow, files or {}, **more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["run_id"])

    def run(
        self, kind: str, workflow: str, files: Mapping[str, Any] | None = None, **more: Any
    ) -> LiveRun:
        """Submit a workflow and wait until the run ends."""
        return self.wait(self.start(kind, workflow, files, **more))

    def wait(self, run_id: str, seconds: float = TIMEOUT_SECONDS) -> LiveRun:
        deadline = time.monotonic() + seconds
        while self.state(run_id) not in ENDED:
            assert time.monotonic() < deadline, f"run {run_id} does not end"
            time.sleep(0.05)
        url = f"{self.url}/runs/{run_id}"
        run_log = requests.get(url, timeout=TIMEOUT_SECONDS).json()
        return LiveRun(url, self.data / "runs" / run_id, run_log)

    def state(self, run_id: str) -> str:
        answer = requests.get(f"{self.url}/runs/{run_id}/status", timeout=TIMEOUT_SECONDS)
        return str(answer.json()["state"])


def live_server_fixture(**environment: str) -> Any:
    """Return a fixture of one server for all tests of a module.

    A test module assigns it to a name: `server = live_server_fixture(WESEMU_NODE__CORES="4")`.
    """

    @pytest.fixture(scope="module")
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
        with live_server(tmp_path_factory.mktemp("server"), **environment) as server:
            yield server

    return server


@contextmanager
def live_server(folder: Path, *flags: str, **environment: str) -> Iterator[LiveServer]:
    """Start a server on a free port over `folder`/data. Stop it at the end."""
    data = folder / "data"
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "wesemu.cli",
                "serve",
                "--port",
                "0",
                "--data",
                data,
                *flags,
            ],
            cwd=folder,
            env={
                name: value for name, value in os.environ.items() if not name.startswith("WESEMU_")
            }
            | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, (folder / "serve.log").read_text()
        yield LiveServer(url, data)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
