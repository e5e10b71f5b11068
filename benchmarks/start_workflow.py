"""StartWorkflow with 100 queued jobs, signed and on new connections like those of the SDKs.

The reads are uploaded through the OSS API.
"""

import base64
import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any
from urllib.parse import urlsplit

from benchmarks import fixtures
from benchmarks.figures import median, percentile
from benchmarks.options import Options
from benchmarks.report import Report, at_most, figure
from benchmarks.rounds import say
from benchmarks.server import fresh, serving
from benchmarks.wes import Wes
from benchmarks.workflows import three_timed_rules
from wesemu.api.ags.auth import AgsSignature, SignedRequest, string_to_sign

_QUEUE = 100
_ROUNDS = 300
_WARM_UP = 20
_LIMIT_MS = 50.0
_OCCUPIED_SECONDS = 3600.0
_PAIRS = 10_000
_BUCKET = "uploaded"
_KEY_ID, _SECRET, _TOKEN = "LTAIbenchmark", "a secret", "a token"
_OK = 200


def measure(options: Options) -> Report:
    """Measure StartWorkflow.

    A sleeping run occupies the only place. Each measured job is cancelled at once, so the queue
    has the same length for the next one.
    """
    queued, rounds = options.count or _QUEUE, options.rounds or _ROUNDS
    data = fresh(options.work / "start-workflow")
    folder = fixtures.sample(options.work, _PAIRS)
    fixtures.stock(data, folder)
    environment = {
        "WESEMU_NODE__RUNS": "1",
        "WESEMU_AUTH__AGS_KEYS": json.dumps({_KEY_ID: _SECRET}),
        "WESEMU_AUTH__TOKENS": json.dumps({_TOKEN: _KEY_ID}),
        "WESEMU_WORKFLOWS__OWNERS": json.dumps([_KEY_ID]),
    }
    milliseconds: list[float] = []
    with serving(data, environment=environment) as server:
        _occupy_node(Wes(server.wes.url, token=_TOKEN))
        client = _Sdk(server.wes.url)
        client.upload("", b"")
        for name in ("reads_1.fq.gz", "reads_2.fq.gz"):
            client.upload(name, (folder / name).read_bytes())
        for number in range(queued):
            client.start(f"waits/{number}.bam")
        for number in range(_WARM_UP + rounds):
            start = time.perf_counter()
            name = client.start("timed.bam")
            seconds = time.perf_counter() - start
            client.call("PUT", f"/gs/workflow/{name}", {"action": "cancel"})
            if number >= _WARM_UP:
                milliseconds.append(seconds * 1000)
        jobs = client.call("GET", "/gs/workflows")["jobs"]
    pending = sum(job["status"] == "Pending" for job in jobs)
    if pending != queued:
        raise RuntimeError(f"{pending} jobs are pending, not {queued}")
    say(f"{rounds} calls, {pending} pending jobs")
    return Report(
        f"start_workflow: {queued} jobs in the queue, {rounds} calls",
        [
            figure("StartWorkflow, median", median(milliseconds), unit="ms", digits=1),
            at_most(
                "StartWorkflow, p99", percentile(milliseconds, 0.99), _LIMIT_MS, unit="ms", digits=1
            ),
            figure("StartWorkflow, the longest", max(milliseconds), unit="ms", digits=1),
        ],
        {"StartWorkflow, ms": milliseconds},
    )


def _occupy_node(wes: Wes) -> None:
    run = wes.submit("Snakefile", attachments={"Snakefile": three_timed_rules(_OCCUPIED_SECONDS)})
    while wes.get(f"/runs/{run}/status")["state"] != "RUNNING":
        time.sleep(0.01)


class _Sdk:
    """Signs requests like Alibaba's SDKs and opens a connection for each request."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)

    def start(self, bam: str) -> str:
        """Start a job. Return its name."""
        fields = {
            "workflow_type": "mapping",
            "mapping_bucket_name": _BUCKET,
            "mapping_fastq_first_name": "reads_1.fq.gz",
            "mapping_fastq_second_name": "reads_2.fq.gz",
            "mapping_reference_file": fixtures.REFERENCE,
            "mapping_bam_file_name": bam,
            "mapping_service": "s",
        }
        return str(self.call("POST", "/gs/workflow", fields)["JobName"])

    def call(
        self, method: str, path: str, content: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Call an operation of AGS. Raise RuntimeError if it fails."""
        body = b"" if content is None else json.dumps(content).encode()
        headers = {
            "accept": "application/json",
            "content-md5": base64.b64encode(hashlib.md5(body).digest()).decode(),
            "content-type": "application/json",
            "date": formatdate(usegmt=True),
            "x-acs-version": "2015-12-15",
        }
        unsigned = AgsSignature("acs", _KEY_ID, "")
        text = string_to_sign(SignedRequest(method, path, headers, body), unsigned)
        answer = self._send(method, path, body, headers | _authorized("acs ", text))
        return dict(json.loads(answer)) if answer else {}

    def upload(self, key: str, data: bytes) -> None:
        """PutObject, or PutBucket for an empty key. Raise RuntimeError if it fails."""
        date = formatdate(usegmt=True)
        text = f"PUT\n\n\n{date}\n/{_BUCKET}/{key}"
        self._send("PUT", f"/oss/{_BUCKET}/{key}", data, {"date": date} | _authorized("OSS ", text))

    def _send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != _OK:
            raise RuntimeError(f"{method} {path}: {response.status} {answer.decode()}")
        return answer


def _authorized(scheme: str, text: str) -> dict[str, str]:
    digest = hmac.new(_SECRET.encode(), text.encode(), hashlib.sha1).digest()
    return {"authorization": f"{scheme}{_KEY_ID}:{base64.b64encode(digest).decode()}"}
