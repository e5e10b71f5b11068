"""The code under test: a small client of Alibaba Cloud Genomics Service, without an SDK."""

import json
import time
import urllib.error
import urllib.request

ATTEMPTS = 3


class Refused(Exception):
    """The service refused a request. `status` is 0 if it did not answer."""

    def __init__(self, message, status=0, code=None):
        super().__init__(message)
        self.status = status
        self.code = code


class Lab:
    """Uploads reads and starts jobs at `endpoint`; tries three times if the service is away."""

    def __init__(self, endpoint, pause=0.01):
        self.endpoint = endpoint
        self.pause = pause

    def upload(self, bucket, key, content):
        self._send("PUT", f"/oss/{bucket}/")
        self._send("PUT", f"/oss/{bucket}/{key}", content)

    def download(self, bucket, key):
        return self._send("GET", f"/oss/{bucket}/{key}")

    def start(self, kind, bucket, first, second, reference, output, service="s"):
        """Start a job of the kind "mapping" or "wgs". Return its name."""
        name = "bam" if kind == "mapping" else "vcf"
        fields = {
            "workflow_type": kind,
            f"{kind}_bucket_name": bucket,
            f"{kind}_fastq_first_name": first,
            f"{kind}_fastq_second_name": second,
            f"{kind}_reference_file": reference,
            f"{kind}_{name}_file_name": output,
            f"{kind}_service": service,
            "cli_version": "lab 1.0",
        }
        return json.loads(self._send("POST", "/gs/workflow", json.dumps(fields).encode()))[
            "JobName"
        ]

    def job(self, name):
        return json.loads(self._send("GET", f"/gs/workflow/{name}"))

    def jobs(self):
        return [job["job_name"] for job in json.loads(self._send("GET", "/gs/workflows"))["jobs"]]

    def remove(self, name):
        self._send("DELETE", f"/gs/workflow/{name}")

    def wait(self, name, seconds=30):
        """Return the description of the ended job."""
        deadline = time.monotonic() + seconds
        while (job := self.job(name))["status"] not in ("Succeeded", "Failed"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is still {job['status']}")
            time.sleep(self.pause)
        return job

    def _send(self, method, path, data=None):
        attempt = 0
        while True:
            attempt += 1
            request = urllib.request.Request(
                self.endpoint + path, data, {"User-Agent": "lab/1.0"}, method=method
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return response.read()
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read().decode()
                if error.code != 503 or attempt == ATTEMPTS:
                    raise _refused(error.code, text) from None
            except OSError as error:
                if attempt == ATTEMPTS:
                    raise Refused(str(error)) from error
            time.sleep(self.pause)


def _refused(status, text):
    try:
        answer = json.loads(text)
    except ValueError:
        return Refused(text, status)
    return Refused(answer.get("Message", text), status, answer.get("Code"))
