"""A minimal WES client for the benchmarks, with little cost of its own."""

import http.client
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

ROOT = "/ga4gh/wes/v1"
ENDED = frozenset({"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"})
_POLL_SECONDS = 0.01
_TIMEOUT_SECONDS = 3600.0
_OK = 200


class Wes:
    """A client with one persistent connection. It is not thread-safe; threads use `again()`.

    `root` is the path of the API, `timeout` the time that a response may take, in seconds.
    """

    def __init__(
        self, url: str, *, token: str | None = None, root: str = ROOT, timeout: float = 60
    ) -> None:
        self.url = url
        self.root = root
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)
        self._connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def again(self, timeout: float = 60) -> "Wes":
        """Return a client with another connection, without the token."""
        return Wes(self.url, root=self.root, timeout=timeout)

    def reconnect(self) -> None:
        """Reconnect before the next request. The server closes idle connections."""
        self._connection.close()

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at `path` below the WES root. Raise RuntimeError if it fails."""
        return self._call("GET", path)

    def submit(
        self,
        workflow_url: str,
        params: Mapping[str, object] | None = None,
        *,
        cores: int | None = None,
        attachments: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        language: tuple[str, str] = ("SMK", "9"),
    ) -> str:
        """RunWorkflow. `attachments` are names and texts. Return the run's id."""
        engine = {} if cores is None else {"cores": str(cores)}
        fields = run_fields(workflow_url, params, engine=engine, tags=tags, language=language)
        return self.post(form(fields, attachments))

    def post(self, prepared: tuple[bytes, Mapping[str, str]]) -> str:
        """RunWorkflow with a body and headers of `form`. Return the run's id."""
        return str(self._call("POST", "/runs", *prepared)["run_id"])

    def cancel(self, run_id: str) -> None:
        """CancelRun. Raise RuntimeError if it fails."""
        self._call("POST", f"/runs/{run_id}/cancel", b"")

    def wait(
        self,
        run_id: str,
        every: float = _POLL_SECONDS,
        *,
        wanted: str = "COMPLETE",
        limit: float = _TIMEOUT_SECONDS,
    ) -> None:
        """Wait until the run ends, and poll its state in the interval `every`.

        Polling competes with the run for cores. Raise RuntimeError for an end other than
        `wanted`, and after `limit` seconds.
        """
        deadline = time.monotonic() + limit
        while (state := self.get(f"/runs/{run_id}/status")["state"]) not in ENDED:
            if time.monotonic() > deadline:
                raise RuntimeError(f"run {run_id} does not end in {limit:.0f} s")
            time.sleep(every)
        if state != wanted:
            raise self._failed(run_id, state)

    def wait_until_ready(self) -> None:
        """Wait until the server can run workflows. Raise RuntimeError if that takes too long."""
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            self._connection.request("GET", "/_wesemu/ready", headers=self._headers)
            response = self._connection.getresponse()
            reason = response.read()
            if response.status == _OK:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server does not become ready: {reason.decode()}")
            time.sleep(_POLL_SECONDS)

    def cpu_of_tasks(self, run_id: str) -> list[tuple[str, float]]:
        """Return name and CPU seconds of each task of a run, as the server reports them."""
        found = []
        for task in self.get(f"/runs/{run_id}")["task_logs"]:
            values = dict(line.split(": ", 1) for line in task["system_logs"])
            found.append((str(task["name"]), float(values.get("cpu_seconds", 0))))
        return found

    def wait_for_all(self, count: int, every: float = _POLL_SECONDS) -> None:
        """Wait until `count` runs of the server are COMPLETE. Raise RuntimeError if one fails."""
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while (counts := self.get("/service-info")["system_state_counts"])["COMPLETE"] < count:
            if any(counts[state] for state in ENDED if state != "COMPLETE"):
                for run in self.get("/runs?page_size=1000")["runs"]:
                    if run["state"] in ENDED and run["state"] != "COMPLETE":
                        raise self._failed(run["run_id"], run["state"])
            if time.monotonic() > deadline:
                raise RuntimeError(f"these runs do not end: {counts}")
            time.sleep(every)

    def _failed(self, run_id: str, state: str) -> RuntimeError:
        log = self.get(f"/runs/{run_id}").get("run_log") or {}
        notes = log.get("system_logs") or log.get("stderr")
        return RuntimeError(f"run {run_id} is {state}: {notes}")

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        self._connection.request(
            method, self.root + path, body, self._headers | dict(headers or {})
        )
        response = self._connection.getresponse()
        content = response.read()
        if response.status != _OK:
            raise RuntimeError(f"{method} {path}: {response.status} {content.decode()}")
        answer: dict[str, Any] = json.loads(content)
        return answer


def run_fields(
    workflow_url: str,
    params: Mapping[str, object] | None = None,
    *,
    engine: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    language: tuple[str, str] = ("SMK", "9"),
) -> dict[str, str]:
    """Return the fields of RunWorkflow. `engine` are engine parameters."""
    return {
        "workflow_url": workflow_url,
        "workflow_type": language[0],
        "workflow_type_version": language[1],
        "workflow_params": json.dumps(params or {}),
        "workflow_engine_parameters": json.dumps(engine or {}),
        "tags": json.dumps(tags or {}),
    }


def form(
    fields: Mapping[str, str], attachments: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of RunWorkflow."""
    boundary = uuid.uuid4().hex
    parts = [(f'name="{name}"', value) for name, value in fields.items()]
    parts += [
        (f'name="workflow_attachment"; filename="{name}"', value)
        for name, value in (attachments or {}).items()
    ]
    text = "".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n"
        for head, value in parts
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return f"{text}--{boundary}--\r\n".encode(), headers
