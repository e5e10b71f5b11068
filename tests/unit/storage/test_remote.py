"""Remote sources: the server of a URL or bucket, and cancelled calls."""

import asyncio
import threading

import pytest

from wesemu.composition import remote_bucket
from wesemu.storage.remote import RemoteBucketSettings, RemoteKey, WebFile, run_in_own_thread


def bucket_server(name: str, **settings: str) -> str:
    bucket = remote_bucket(name, RemoteBucketSettings.model_validate(settings))
    return RemoteKey(bucket, "reads/a.fq").server


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://lab/a.fq", "lab:443"),
        ("http://user:word@LAB/b/c.fq?Signature=x", "lab:80"),
        ("http://lab:8080/a.fq", "lab:8080"),
        ("http://[::1]:80/a.fq", "::1:80"),
    ],
)
def test_server_of_a_url_is_its_host_and_port(url: str, server: str) -> None:
    assert WebFile(url).server == server


def test_server_of_a_bucket_is_its_endpoint_whatever_the_bucket_is_called() -> None:
    endpoint = "http://minio.lab:9000"
    one = bucket_server("one", type="s3", endpoint=endpoint)
    assert one == bucket_server("two", type="s3", endpoint=f"{endpoint}/", prefix="x")
    assert one == WebFile(f"{endpoint}/public/a.fq").server
    assert one != bucket_server("one", type="s3", endpoint="http://minio.lab:9001")
    assert bucket_server("one", type="oss", endpoint="oss.lab") == "oss.lab:80"


def test_server_of_a_bucket_without_an_endpoint_is_its_service_in_its_region() -> None:
    one = bucket_server("one", type="oss", region="cn-beijing")
    assert one == bucket_server("two", type="oss", region="cn-beijing")
    assert one != bucket_server("one", type="oss", region="cn-shenzhen")
    assert one != bucket_server("one", type="s3", region="cn-beijing")


def test_endpoint_that_is_no_url_is_for_the_first_run_to_find() -> None:
    assert bucket_server("one", type="s3", endpoint="http://lab:port") == "http://lab:port"


def test_a_cancelled_call_leaves_its_thread_to_end(caplog: pytest.LogCaptureFixture) -> None:
    begun, ending = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())
        begun.set()
        ending.wait()

    async def cancel() -> None:
        call = asyncio.create_task(run_in_own_thread(work, "hanging"))
        await asyncio.to_thread(begun.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancel())
    ending.set()  # after the loop was closed
    threads[0].join()
    assert not caplog.records
